"""What every source of data becomes: days of series and their faults, on one clock, and the labels that faults give."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.config import LabelConfig

DECAY = 120
"""Seconds after a fault's end that still belong to it: a rate over two minutes holds it that long."""
LEAST_RISE_MEMORY = 5.0
"""Percentage points by which memory must rise for a fault with an end to show there."""
LEAST_RISE_DISK = 10.0
"""Operations a second by which disk must rise, and at least double, for a fault with an end to show there."""


class DataError(ValueError):
    """A file that cannot be read as a day of data: says which, and what is wrong."""


@dataclass(frozen=True)
class Series:
    """One pod's samples, oldest first.

    Attributes:
        name: The pod.
        time: int64 [T], Unix seconds, strictly increasing.
        values: float64 [T, 3], the channels: CPU percent of the limit, memory percent, disk operations a second. CPU is
            finite; memory and disk are NaN where nobody measured them.
        features: float32 [T, 5] in the order of `config.FEATURES`, where they were computed elsewhere and must be taken
            as they are: by the collector that served them, or with samples before the first of this series.
            None: they follow from the values.
    """

    name: str
    time: NDArray[np.int64]
    values: NDArray[np.float64]
    features: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Fault:
    """An injected fault, on the clock of the series.

    Attributes:
        pod: Where.
        kind: `cpu_contention`, `cpu_consumed`, `return`, `exception`, `network_delay`, or what its source calls it.
        time: Unix seconds of the injection.
        shows_in_cpu: Whether CPU visibly rose.
        baseline: Median CPU percent before it; of another channel if `channel` says so, in its unit.
        peak: The highest of the same in its window.
        until: Unix seconds of its end, where that is known.
        channel: Index of the channel that shows a fault with an end, None if none does. Unused without an end.
    """

    pod: str
    kind: str
    time: int
    shows_in_cpu: bool = False
    baseline: float = float("nan")
    peak: float = float("nan")
    until: int | None = None
    channel: int | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether the fault's kind stresses CPU."""
        return self.kind.startswith("cpu")

    @property
    def labelled_channel(self) -> int | None:
        """The channel whose raised samples are its label; None: it is not labelled.

        Without an end, only kinds that stress CPU are, if CPU shows them.
        """
        if self.until is not None:
            return self.channel
        return 0 if self.is_cpu and self.shows_in_cpu else None

    def window(self, labels: LabelConfig) -> tuple[int, int]:
        """First and last second that belong to it, Unix seconds."""
        last = self.time + labels.window_after if self.until is None else self.until + DECAY
        return self.time - labels.window_before, last


@dataclass(frozen=True)
class Day:
    """A day of one system.

    Attributes:
        name: Such as `2022-08-22`.
        series: Its pods, by name.
        faults: Those whose pod has samples.
        notes: What was odd in the raw data and what was done about it, one sentence each.
        uri: Where it came from, relative.
        sha256: Of the CSV file, or of the values where there is none (`digest`).
        faults_sha256: Of the faults file; empty when the day was generated.
        rows: Samples of all series.
        licence: Of the data.
    """

    name: str
    series: list[Series]
    faults: list[Fault]
    notes: list[str] = field(default_factory=list)
    uri: str = ""
    sha256: str = ""
    faults_sha256: str = ""
    rows: int = 0
    licence: str = "MIT"

    @property
    def span(self) -> tuple[int, int]:
        """First and last sample, Unix seconds."""
        return min(int(s.time[0]) for s in self.series), max(int(s.time[-1]) for s in self.series)


def iso(seconds: int) -> str:
    """Unix seconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def describe_fault(series: Series, kind: str, time: int, labels: LabelConfig) -> Fault:
    """A fault of a pod at `time`, Unix seconds, with what CPU did."""
    baseline, rise = cpu_rise(series, time, labels)
    return Fault(series.name, kind, time, bool(rise >= labels.least_rise), baseline, baseline + rise)


def cpu_rise(series: Series, time: int, labels: LabelConfig) -> tuple[float, float]:
    """Level of CPU before a fault at `time` and how far it rises in the fault's window, percentage points.

    Without samples before it the level is the series' median; without samples in the window the rise is 0.
    """
    begin, end = time - labels.window_before, time + labels.window_after
    cpu = series.values[:, 0]
    before = cpu[(series.time >= begin - labels.baseline_seconds) & (series.time < begin)]
    inside = cpu[(series.time >= begin) & (series.time <= end)]
    level = float(np.median(before if len(before) else cpu))
    return level, float(inside.max() - level) if len(inside) else 0.0


def describe_window(series: Series, kind: str, begin: int, end: int, labels: LabelConfig) -> Fault:
    """A fault that lasted from `begin` to `end`, Unix seconds, with the channel that shows it.

    A kind that begins with `cpu`, `memory` or `disk` is looked for in that channel, any other in each, in this order.
    CPU shows it by a rise of `labels.least_rise`, memory by `LEAST_RISE_MEMORY`, disk by `LEAST_RISE_DISK` and twice.
    """
    named = [i for i, name in enumerate(("cpu", "memory", "disk")) if kind.startswith(name)]
    first, last = Fault(series.name, kind, begin, until=end).window(labels)
    rises = [_rise(series, channel, first, last, labels) for channel in range(series.values.shape[1])]
    for channel in named or range(len(rises)):
        baseline, rise = rises[channel]
        if rise >= (labels.least_rise, LEAST_RISE_MEMORY, max(LEAST_RISE_DISK, baseline))[channel]:
            shows = bool(rises[0][1] >= labels.least_rise)
            return Fault(series.name, kind, begin, shows, baseline, baseline + rise, end, channel)
    return Fault(series.name, kind, begin, False, rises[0][0], sum(rises[0]), end)  # noqa: FBT003 - a field, as above


def _rise(series: Series, channel: int, first: int, last: int, labels: LabelConfig) -> tuple[float, float]:
    """Level of a channel before a window and its rise inside, in its unit; 0 where nothing was measured."""
    x = series.values[:, channel]
    seen = np.isfinite(x)
    before = x[seen & (series.time >= first - labels.baseline_seconds) & (series.time < first)]
    inside = x[seen & (series.time >= first) & (series.time <= last)]
    if not len(inside):
        return 0.0, 0.0
    level = float(np.median(before if len(before) else x[seen]))
    return level, float(inside.max() - level)


def label(series: Series, faults: list[Fault], labels: LabelConfig) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Marks the samples that faults made anomalous: CPU faults, and those with an end in the channel that shows them.

    Returns:
        event: int64 [T], the index in `faults` of the fault that raised the sample, -1 if none did.
        judged: bool [T], false where a fault's window holds a sample that is neither clearly raised nor clearly normal.
            The window of a fault with an end that shows nowhere is not judged at all.
    """
    event = np.full(len(series.time), -1, dtype=np.int64)
    judged = np.ones(len(series.time), dtype=np.bool_)
    for index, fault in enumerate(faults):
        if fault.pod != series.name or (fault.labelled_channel is None and fault.until is None):
            continue
        first, last = fault.window(labels)
        inside = (series.time >= first) & (series.time <= last)
        raised = np.zeros(len(series.time), dtype=np.bool_)
        if fault.labelled_channel is not None:
            limit = fault.baseline + labels.raised_fraction * (fault.peak - fault.baseline)
            raised = inside & (series.values[:, fault.labelled_channel] > limit)
        event[raised] = index
        judged[inside & ~raised] = False
    judged[event >= 0] = True
    return event, judged


def contents(series: list[Series], faults: list[Fault]) -> dict[str, Any]:
    """The fields of a `Day` that follow from its series and faults, and these."""
    return {
        "series": series,
        "faults": faults,
        "sha256": digest(series),
        "faults_sha256": faults_digest(faults),
        "rows": sum(len(one.time) for one in series),
    }


def digest(series: Iterable[Series]) -> str:
    """SHA-256 over names, times, values and given features, in the order of names: equal contents, equal digests."""
    total = hashlib.sha256()
    for one in sorted(series, key=lambda s: s.name):
        total.update(f"{one.name}\n{len(one.time)}\n".encode())
        total.update(one.time.astype("<i8").tobytes() + one.values.astype("<f8").tobytes())
        if one.features is not None:
            total.update(one.features.astype("<f4").tobytes())
    return total.hexdigest()


def faults_digest(faults: Iterable[Fault]) -> str:
    """SHA-256 over where, what and when of faults; empty if there are none."""
    lines = sorted(f"{f.pod}\t{f.kind}\t{f.time}\t{f.until}\n" for f in faults)
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""
