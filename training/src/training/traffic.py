"""Recorded days as a collector would have sent them: requests with actual values, and labels of the known faults."""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import requests

from training.config import FEATURES, Config
from training.data.days import Day
from training.errors import PipelineError
from training.features import Table, table

HOUR = 3600
ATTEMPTS = 3
TIMEOUT = 30
PATIENCE = 60
"""Seconds for which a server may have no room."""


class Traffic:
    """Sends a day's rows to servers in the order of time, each series always to the same one.

    A server judges a forecast by the actual value that comes with a later row of the series, so that a series stays.
    Every hour the rows of that hour are labelled by what is known of faults, as from a chaos experiment's schedule.

    Attributes:
        sent: Rows that were answered.
        labels: Labels that were taken.
    """

    def __init__(self, day: Day, config: Config, servers: Sequence[str], model: str) -> None:
        """Makes the requests; sends nothing.

        Args:
            day: The rows.
            config: Of the features.
            servers: Their data ports, `host:port`.
            model: The model's name.
        """
        self.sent, self.labels = 0, 0
        self._servers, self._model = list(servers), model
        self._names = [one.name for one in day.series]
        self._table = _by_time(table(day, config))

    @property
    def rows(self) -> int:
        """How many there are to send."""
        return len(self._table.time)

    def send(self, told: Callable[[int], None] = lambda _: None, stop: threading.Event | None = None) -> None:
        """Sends everything, or until `stop` is set. `told` learns how many rows were answered.

        Raises:
            PipelineError: A server refuses a request, or does not answer one three times.
        """
        with requests.Session() as session:
            edges = np.flatnonzero(np.diff(self._table.time, prepend=-1, append=np.iinfo(np.int64).max))
            first_unlabelled = 0
            for begin, end in pairwise(edges):
                if stop is not None and stop.is_set():
                    return
                self._tick(session, begin, end)
                told(self.sent)
                if self._table.time[begin] - self._table.time[first_unlabelled] >= HOUR:
                    self._label(session, first_unlabelled, begin)
                    first_unlabelled = begin
            self._label(session, first_unlabelled, self.rows)

    def _tick(self, session: requests.Session, begin: int, end: int) -> None:
        """The rows of one moment, in one request to each server."""
        for number, server in enumerate(self._servers):
            rows = [self._row(i) for i in range(begin, end) if self._table.series[i] % len(self._servers) == number]
            if rows:
                self._post(session, f"http://{server}/models/{self._model}/predict", rows)
                self.sent += len(rows)

    def _row(self, index: int) -> dict[str, Any]:
        one = self._table
        features = {name: float(value) for name, value in zip(FEATURES, one.features[index]) if np.isfinite(value)}
        moment = {"series": self._names[one.series[index]], "ts": int(one.time[index])}
        return {**moment, "cpu_percent": float(one.cpu[index]), **features}

    def _label(self, session: requests.Session, begin: int, end: int) -> None:
        for number, server in enumerate(self._servers):
            labels = [
                {
                    "series": self._names[self._table.series[i]],
                    "ts": int(self._table.time[i]),
                    "anomaly": bool(self._table.event[i] >= 0),
                    "source": "chaos",
                }
                for i in range(begin, end)
                if self._table.judged[i] and self._table.series[i] % len(self._servers) == number
            ]
            if labels:
                self._post(session, f"http://{server}/feedback", labels)
                self.labels += len(labels)

    @staticmethod
    def _post(session: requests.Session, url: str, body: list[dict[str, Any]]) -> None:
        """Posts, and again where a server has no room yet: its shadow lags behind rows that come this fast."""
        patience = time.monotonic() + PATIENCE
        attempts = 0
        while True:
            try:
                answer = session.post(url, json=body, timeout=TIMEOUT)
            except requests.RequestException as error:
                attempts += 1
                if attempts == ATTEMPTS:
                    msg = f"{url} does not answer: {error}"
                    raise PipelineError(msg) from error
                continue
            if answer.status_code == requests.codes.unavailable and time.monotonic() < patience:
                time.sleep(float(answer.headers.get("Retry-After", 1)))
                continue
            if not answer.ok:
                msg = f"{url}: {answer.status_code} {answer.text[:300]}"
                raise PipelineError(msg)
            return


def _by_time(rows: Table) -> Table:
    """The rows past the warm-up, in the order of time."""
    warm = rows.rows(rows.warm)
    order = np.argsort(warm.time, kind="stable")
    return Table(*(getattr(warm, name)[order] for name in Table.__dataclass_fields__))
