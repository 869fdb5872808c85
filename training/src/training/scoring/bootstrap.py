"""How sure a difference between two models is: the circular block bootstrap, on the same rows for both.

Rows next to each other are alike, so that resampling single rows would promise far too narrow an interval. Blocks of
consecutive rows of one series keep what is alike together (Politis & Romano, "A circular block-resampling procedure for
stationary data", 1992): every row of every series is equally likely to start a block, a block goes on for a fixed time
and from a series' end to its beginning. Both models are measured on the same drawn rows, which takes what they have in
common out of their difference. The interval is that of percentiles (Efron & Tibshirani, 1993, chapter 13).

A metric here is a function of how often each row was drawn, float64 [N]; the row's own numbers are sorted once only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Metric = Callable[[Floats], float]
"""From how often each row was drawn, float64 [N], to the metric; NaN where the drawn rows do not define it."""
ROUNDS = 1000
LEVEL = 0.9
"""Two-sided; the model gate asks for 90 %."""
MOST_UNDEFINED = 0.5


@dataclass(frozen=True)
class Interval:
    """A metric, or a difference of two, with its bootstrap interval.

    Attributes:
        point: On the rows as they are.
        low: Lower end.
        high: Upper end.
        rounds: Drawings in which the metric was defined.
    """

    point: float
    low: float
    high: float
    rounds: int


class Blocks:
    """The rows of several series, ready to be drawn in blocks.

    Attributes:
        rows: How many.
        number: Blocks in a drawing, so that it holds about as many rows as there are.
    """

    def __init__(self, series: NDArray[np.int64], time: NDArray[np.int64], seconds: int) -> None:
        """Finds where a block that starts at each row ends.

        Args:
            series: int64 [N], which series each row belongs to, in any order.
            time: int64 [N], Unix seconds.
            seconds: Length of a block: a day, or some hours, longer than rows stay alike. A series that is shorter is
                drawn whole.

        Raises:
            ValueError: There are no rows, or a block has no length.
        """
        if not len(time) or len(time) != len(series) or seconds <= 0:
            msg = f"{len(time)} rows, {len(series)} series numbers, blocks of {seconds} s: give equally many, over 0 s"
            raise ValueError(msg)
        self.rows = len(time)
        self._order = np.lexsort((time, series))
        ordered, self._start, self._first, self._end = time[self._order], np.arange(self.rows), [], []
        edges = np.flatnonzero(np.diff(series[self._order], prepend=series[self._order[0]] - 1))
        for first, end in zip(edges, [*edges[1:], self.rows]):
            own = ordered[first:end]
            step = int(np.median(np.diff(own))) if len(own) > 1 else 1
            # The series twice in a row: a block may run over its end.
            twice = np.concatenate([own, own + (own[-1] - own[0] + max(step, 1))])
            length = np.searchsorted(twice, own + seconds, side="left") - np.arange(len(own))
            self._end.append(self._start[first:end] + np.clip(length, 1, len(own)))
            self._first.append(np.full(len(own), first))
        self._end, self._first = np.concatenate(self._end), np.concatenate(self._first)
        self._size = np.repeat(np.diff([*edges, self.rows]), np.diff([*edges, self.rows]))
        self.number = max(round(self.rows / float((self._end - self._start).mean())), 1)

    def draw(self, rng: np.random.Generator) -> Floats:
        """How often each row is in a random drawing of `number` blocks, float64 [N], in the order of the arguments."""
        start = rng.integers(self.rows, size=self.number)
        end = self._end[start]
        limit = self._first[start] + self._size[start]
        over = end > limit
        change = np.bincount(start, minlength=self.rows + 1) - np.bincount(
            np.minimum(end, limit), minlength=self.rows + 1
        )
        # What runs over a series' end goes on at its beginning.
        change += np.bincount(self._first[start][over], minlength=self.rows + 1)
        change -= np.bincount((end - self._size[start])[over], minlength=self.rows + 1)
        drawn = np.empty(self.rows)
        drawn[self._order] = np.cumsum(change)[: self.rows]
        return drawn


def interval(metric: Metric, blocks: Blocks, *, rounds: int = ROUNDS, level: float = LEVEL, seed: int = 0) -> Interval:
    """A metric, or a `difference` of two models, with its interval.

    Args:
        metric: Of the rows drawn.
        blocks: The rows.
        rounds: Drawings.
        level: Of confidence, 0 to 1.
        seed: Of the drawings; the same gives the same interval.

    Raises:
        ValueError: The metric is undefined on the rows as they are, or in more than half of the drawings.
    """
    point = metric(np.ones(blocks.rows))
    rng = np.random.default_rng(seed)
    values = np.array([metric(blocks.draw(rng)) for _ in range(rounds)])
    values = values[np.isfinite(values)]
    if not np.isfinite(point) or len(values) < (1 - MOST_UNDEFINED) * rounds:
        msg = f"the metric is defined in {len(values)} of {rounds} drawings: give more events or shorter blocks"
        raise ValueError(msg)
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(point), float(low), float(high), len(values))


def difference(one: Metric, other: Metric) -> Metric:
    """`one - other` of two models on the same drawn rows: the paired comparison that `interval` is for."""
    return lambda drawn: one(drawn) - other(drawn)


def average_precision(label: NDArray[np.bool_], score: Floats) -> Metric:
    """AUC-PR as scikit-learn's `average_precision_score` defines it; NaN without an anomalous row.

    Args:
        label: bool [N].
        score: float [N], without NaN.
    """
    order = np.argsort(-score, kind="stable")
    positive = label[order].astype(np.float64)
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))

    def metric(drawn: Floats) -> float:
        weight = drawn[order]
        found, chosen = np.cumsum(weight * positive)[last], np.cumsum(weight)[last]
        if not found[-1]:
            return float("nan")
        return float(np.sum(np.diff(found, prepend=0.0) * found / np.maximum(chosen, 1.0)) / found[-1])

    return metric


def event_recall(event: NDArray[np.int64], alarm: NDArray[np.bool_]) -> Metric:
    """Share of events with an alarm on one of their rows; NaN without an event.

    An event counts as often as its first row was drawn, so that a block that cuts it does not lose its later alarm.

    Args:
        event: int64 [N], the number of the row's event, -1 if none.
        alarm: bool [N].
    """
    events, first = np.unique(event, return_index=True)
    events, first = events[events >= 0], first[events >= 0]
    hit = np.isin(events, event[alarm]).astype(np.float64)

    def metric(drawn: Floats) -> float:
        weight = drawn[first]
        return float(weight @ hit / weight.sum()) if weight.sum() else float("nan")

    return metric


def mean_absolute_error(target: Floats, forecast: Floats) -> Metric:
    """Mean absolute error over the rows whose target is known; NaN without one.

    Args:
        target: float64 [N], NaN where unknown.
        forecast: float [N].
    """
    known = np.isfinite(target)
    error = np.where(known, np.abs(forecast - target), 0.0)

    def metric(drawn: Floats) -> float:
        weight = drawn * known
        return float(weight @ error / weight.sum()) if weight.sum() else float("nan")

    return metric
