"""Reads CPU, memory and disk of a fleet, and its faults, from a Prometheus server by range queries.

Counter resets are `rate`'s business, not this module's. A range query repeats a gauge for up to five minutes after its
last scrape, unless Prometheus saw its target go away; nothing here can tell such a value from a measured one.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import requests
from numpy.typing import NDArray

from training.config import Config
from training.data.days import DataError, Day, Fault, Series, contents, describe_window, iso
from training.told import Told, nobody

POINTS = 11_000
"""Prometheus refuses to answer more points of a series at once."""
FEWEST_POINTS = 60
"""A range that is still too much for the server when it has this many points is not halved again."""
NAMED = 3
"""How many series a note names before it says how many more there are."""

BY = 'sum by (namespace, pod) ({}{{container!~"|POD"}}{})'
LIMITS = 'sum by (namespace, pod) (kube_pod_container_resource_limits{{resource="{}"}})'
CPU = f"100 * {BY.format('rate(container_cpu_usage_seconds_total', '[2m])')} / {LIMITS.format('cpu')}"
MEMORY = f"100 * {BY.format('container_memory_working_set_bytes', '')} / {LIMITS.format('memory')}"
DISK_IO = " + ".join(BY.format(f"rate(container_fs_{what}_total", "[2m])") for what in ("reads", "writes"))
FAULTS = (
    'max by (namespace, pod) (label_replace(kube_pod_labels{label_onnxd_dev_chaos!=""}, "kind", "$1", '
    '"label_onnxd_dev_chaos", "(.+)") and on (namespace, kind) '
    '(chaos_controller_manager_chaos_experiments{phase="running"} > 0))'
)
"""Pods whose label onnxd.dev/chaos names a kind of Chaos Mesh's experiments, while one runs beside them."""

Samples = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Time, int64 [T], Unix seconds, and values, float64 [T]."""


@dataclass(frozen=True)
class Queries:
    """What is asked. Each result must carry the labels that name a series, once for each series.

    Attributes:
        cpu: CPU, percent of the limit.
        memory: Memory, percent of the limit.
        disk_io: Disk operations a second.
        faults: A series is faulty while its sample is above 0, such as `ALERTS{alertstate="firing"}` or a chaos tool's
            gauge; the fault's kind is the label `kind`, else `alertname`, else `fault`. Empty: nobody knows of faults.
            By default Chaos Mesh's experiments, which most clusters have none of.
        labels: They name a series: their values with `/` between.
    """

    cpu: str = CPU
    memory: str = MEMORY
    disk_io: str = DISK_IO
    faults: str = FAULTS
    labels: tuple[str, ...] = ("namespace", "pod")


@dataclass(frozen=True)
class Server:
    """Where Prometheus is and how patient we are.

    Attributes:
        url: Such as `http://prometheus:9090`; a path before `/api` is kept.
        token: Sent as a bearer token if not empty.
        timeout: Seconds for an answer.
        attempts: Before a server that does not answer, or answers with 5xx or 429, is given up.
        backoff: Seconds before the second attempt; they double with each further one.
    """

    url: str
    token: str = field(default="", repr=False)
    timeout: float = 60.0
    attempts: int = 4
    backoff: float = 0.5

    @property
    def name(self) -> str:
        """The URL without user, password and query, for messages."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


class TooMuchError(DataError):
    """The server could not answer so large a range; a smaller one may do."""


def read(  # noqa: PLR0913 - what is asked of whom, for when
    server: Server,
    queries: Queries,
    config: Config,
    *,
    begin: int,
    end: int,
    step: int = 60,
    told: Told = nobody,
) -> Day:
    """Reads all samples of `[begin, end]` as one day that lasts as long.

    Samples lie on multiples of `step`. A sample without CPU is left out; memory or disk missing beside it is NaN.

    Args:
        server: Where.
        queries: What.
        config: Labels of faults; series shorter than the features' warm-up are left out.
        begin: Unix seconds.
        end: Unix seconds.
        step: Seconds between samples.
        told: Told which query runs.

    Raises:
        DataError: The server cannot be reached or refuses a query, or a query gives nothing: says which, and what the
            server said.
    """
    begin, end = -(-begin // step) * step, end // step * step
    if begin >= end:
        msg = f"no whole step of {step} s between {iso(begin)} and {iso(end)}: ask for more days"
        raise DataError(msg)
    notes: list[str] = []
    channels = []
    with requests.Session() as session:
        if server.token:
            session.headers["Authorization"] = f"Bearer {server.token}"
        asked = _Asked(server, session, step, queries.labels, notes)
        for channel in ("cpu", "memory", "disk_io"):
            told(f"asking {server.name} for {channel}")
            channels.append(_channel(asked, channel, getattr(queries, channel), begin, end))
        series = _join(channels, config.features.warm_up_samples, notes)
        faults: list[Fault] = []
        if queries.faults:
            told(f"asking {server.name} for faults")
            faults = _faults(asked, queries.faults, (begin, end), series, config)
    _describe(series, faults, step, notes)
    return Day(
        name=f"{iso(begin)[:10]}_{iso(end)[:10]}",
        notes=notes,
        uri=f"prometheus:{server.name}",
        **contents(series, faults),
        licence="not stated: the metrics of whoever runs the server",
    )


@dataclass(frozen=True)
class _Asked:
    """What all queries of one reading share; `notes` grows."""

    server: Server
    session: requests.Session
    step: int
    labels: tuple[str, ...]
    notes: list[str]

    def note(self, text: str) -> None:
        """Adds a note once."""
        if text not in self.notes:
            self.notes.append(text)


def _channel(asked: _Asked, channel: str, query: str, begin: int, end: int) -> dict[str, Samples]:
    """One channel of all series by name. Values that are not finite are left out."""
    parts: dict[str, list[list[tuple[float, str]]]] = defaultdict(list)
    owner: dict[str, dict[str, str]] = {}
    for labels, values in _query_range(asked, channel, query, begin, end):
        name = _name(labels, asked.labels, channel)
        if owner.setdefault(name, labels) != labels:
            msg = f"{channel}: two results are of {name}: aggregate by ({', '.join(asked.labels)}): {query}"
            raise DataError(msg)
        parts[name].append(values)
    if not parts:
        msg = f"{channel}: no series between {iso(begin)} and {iso(end)}: change the query: {query}"
        raise DataError(msg)
    found, dropped = {}, 0
    for name, chunks in sorted(parts.items()):
        at, x = _samples([pair for chunk in chunks for pair in chunk])
        finite = np.isfinite(x)
        dropped += int((~finite).sum())
        if finite.any():
            found[name] = at[finite], x[finite]
    if dropped:
        asked.note(f"{channel}: {dropped} samples are not finite (a limit of 0, most likely): left out")
    return found


def _samples(pairs: list[tuple[float, str]]) -> Samples:
    """Prometheus' pairs of time and text as arrays, ordered, each time once."""
    at = np.rint(np.array([t for t, _ in pairs], dtype=np.float64)).astype(np.int64)
    at, first = np.unique(at, return_index=True)
    return at, np.array([v for _, v in pairs], dtype=np.float64)[first]


def _name(labels: dict[str, str], needed: tuple[str, ...], channel: str) -> str:
    """The values of the naming labels with `/` between."""
    if missing := [label for label in needed if not labels.get(label)]:
        msg = f"{channel}: a result has no label {missing[0]}, only {labels}: aggregate by ({', '.join(needed)})"
        raise DataError(msg)
    return "/".join(labels[label] for label in needed)


def _join(channels: list[dict[str, Samples]], warm_up: int, notes: list[str]) -> list[Series]:
    """Series from the three channels, at the times of CPU."""
    cpu, *others = channels
    if without := sorted(set(others[0]) - set(cpu)):
        notes.append(f"{_some(without)} have memory and no CPU percent (no limit is set, most likely): left out")
    for other, what in zip(others, ("memory", "disk_io")):
        if without := sorted(set(cpu) - set(other)):
            notes.append(f"{_some(without)} have no {what}: NaN")
    series, short = [], []
    for name, (at, x) in cpu.items():
        if len(at) <= warm_up:
            short.append(name)
            continue
        values = np.column_stack([x, *(_at(at, other.get(name)) for other in others)])
        series.append(Series(name, at, values))
    if short:
        notes.append(f"{_some(short)} have no more than the {warm_up} samples of the warm-up: left out")
    if not series:
        msg = f"cpu: no series has more than the {warm_up} samples of the warm-up: ask for more days"
        raise DataError(msg)
    return series


def _at(due: NDArray[np.int64], samples: Samples | None) -> NDArray[np.float64]:
    """A channel's values at the times `due`, int64 [T]; NaN where it has none. float64 [T]."""
    out = np.full(len(due), np.nan)
    if samples is not None:
        _, here, there = np.intersect1d(due, samples[0], assume_unique=True, return_indices=True)
        out[here] = samples[1][there]
    return out


def _faults(asked: _Asked, query: str, span: tuple[int, int], series: list[Series], config: Config) -> list[Fault]:
    """Runs of samples above 0 as faults with an end; samples more than two steps apart are two faults."""
    by_name = {s.name: s for s in series}
    samples: dict[tuple[str, str], list[tuple[float, str]]] = defaultdict(list)
    for labels, values in _query_range(asked, "faults", query, *span):
        kind = labels.get("kind") or labels.get("alertname") or "fault"
        samples[_name(labels, asked.labels, "faults"), kind] += [p for p in values if float(p[1]) > 0]
    faults, absent = [], 0
    for (name, kind), pairs in sorted(samples.items()):
        if not pairs:
            continue
        at, _ = _samples(pairs)
        for run in np.split(at, np.flatnonzero(np.diff(at) > 2 * asked.step) + 1):
            if name in by_name:
                faults.append(describe_window(by_name[name], kind, int(run[0]), int(run[-1]), config.labels))
            else:
                absent += 1
    if absent:
        asked.note(f"{absent} faults are on series without samples: ignored")
    if not faults and query != FAULTS:
        asked.note(f"faults: the query found none: {query}")
    return faults


def _describe(series: list[Series], faults: list[Fault], step: int, notes: list[str]) -> None:
    """Notes on gaps, on missing memory and disk, and on what the faults show in."""
    gaps = {s.name: np.diff(s.time)[np.diff(s.time) > 1.5 * step] for s in series}
    if count := sum(len(g) for g in gaps.values()):
        longest = max(int(g.max()) for g in gaps.values() if len(g))
        where = _some([name for name, g in gaps.items() if len(g)])
        notes.append(f"{where} have {count} gaps in time, the longest {longest} s: windows are by time")
    for channel, what in ((1, "memory"), (2, "disk_io")):
        lost = {s.name: int(np.isnan(s.values[:, channel]).sum()) for s in series}
        if partly := [s.name for s in series if 0 < lost[s.name] < len(s.time)]:
            count = sum(lost[name] for name in partly)
            notes.append(f"{what}: {count} samples of {_some(partly)} are missing beside CPU: NaN")
    if faults:
        shown = sum(f.channel is not None for f in faults)
        notes.append(f"{shown} of {len(faults)} faults show in a channel: those are labelled, the others not judged")


def _some(names: list[str]) -> str:
    """Names for a note: the first few and how many more."""
    more = len(names) - NAMED
    return f"{len(names)} series ({', '.join(names[:NAMED])}{f' and {more} more' if more > 0 else ''})"


def _query_range(
    asked: _Asked, channel: str, query: str, begin: int, end: int
) -> list[tuple[dict[str, str], list[tuple[float, str]]]]:
    """Labels and samples of all results, range by range: a series that spans two ranges comes twice.

    A range that is too much for the server is halved.
    """
    found = []
    for first in range(begin, end + 1, POINTS * asked.step):
        last = min(first + (POINTS - 1) * asked.step, end)
        pending = [(first, last)]
        while pending:
            start, stop = pending.pop()
            try:
                data = _ask(asked, channel, {"query": query, "start": start, "end": stop, "step": asked.step})
            except TooMuchError:
                points = (stop - start) // asked.step + 1
                if points <= FEWEST_POINTS:
                    raise
                middle = start + points // 2 * asked.step
                pending += [(middle, stop), (start, middle - asked.step)]
                continue
            if data.get("resultType") != "matrix":
                msg = f"{channel}: {asked.server.name} answers a {data.get('resultType')}, not a matrix: {query}"
                raise DataError(msg)
            found += [(r["metric"], r.get("values", [])) for r in data["result"]]
    return found


def _ask(asked: _Asked, channel: str, form: dict[str, Any]) -> dict[str, Any]:
    """One range query, tried again while the server does not answer. Returns the answer's `data`."""
    server, why = asked.server, ""
    for attempt in range(server.attempts):
        if attempt:
            time.sleep(server.backoff * 2 ** (attempt - 1))
        try:
            url = f"{server.url.rstrip('/')}/api/v1/query_range"
            reply = asked.session.post(url, data=form, timeout=server.timeout)
            return _data(asked, channel, reply)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            why = _reason(error, server.timeout)
        except _AgainError as error:
            why = str(error)
        except requests.RequestException as error:
            msg = f"{server.name} is not an address that can be asked: {error}"
            raise DataError(msg) from error
    msg = f"{channel}: {server.name} did not answer in {server.attempts} attempts: {why}: check the address"
    raise DataError(msg)


class _AgainError(Exception):
    """The server says that it cannot answer now."""


def _data(asked: _Asked, channel: str, reply: requests.Response) -> dict[str, Any]:
    """The `data` of an answer; notes its warnings, and raises what it says went wrong."""
    try:
        answer = reply.json()
    except requests.exceptions.JSONDecodeError:
        answer = None
    answer = answer if isinstance(answer, dict) else {}
    text = answer.get("error") or reply.text.strip()[:200] or reply.reason
    too_much = answer.get("errorType") == "timeout" or "too many samples" in text or "maximum resolution" in text
    if answer.get("status") == "error" and too_much:
        msg = f"{channel}: {asked.server.name} cannot answer even {FEWEST_POINTS} points at once: {text}"
        raise TooMuchError(msg)
    if reply.status_code == requests.codes.too_many_requests or reply.status_code >= requests.codes.server_error:
        msg = f"status {reply.status_code}: {text}"
        raise _AgainError(msg)
    if reply.status_code in (requests.codes.unauthorized, requests.codes.forbidden):
        msg = f"{asked.server.name} answers {reply.status_code}: give it a valid token (token_file or PROMETHEUS_TOKEN)"
        raise DataError(msg)
    if not reply.ok or answer.get("status") != "success":
        msg = f"{channel}: {asked.server.name} answers {reply.status_code}: {text}: change the query or the address"
        raise DataError(msg)
    for warning in [*answer.get("warnings", []), *answer.get("infos", [])]:
        asked.note(f"{channel}: {asked.server.name} warns: {warning}")
    if answer.get("isPartial"):
        asked.note(f"{channel}: {asked.server.name} gave partial results")
    return answer["data"]


def _reason(error: requests.RequestException, timeout: float) -> str:
    """Why there was no answer, in few words."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {timeout:g} s"
    return "connection refused" if "refused" in str(error) else f"the connection failed ({type(error).__name__})"
