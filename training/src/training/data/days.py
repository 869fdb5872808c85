"""What every source of data becomes: days of series and their faults, on one clock, and the labels that faults give."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from training.config import LabelConfig


class DataError(ValueError):
    """A file that cannot be read as a day of data: says which, and what is wrong."""


@dataclass(frozen=True)
class Series:
    """One pod's samples, oldest first.

    Attributes:
        name: The pod.
        time: int64 [T], Unix seconds, strictly increasing.
        values: float64 [T, 3], the channels: CPU percent of the limit, memory percent, disk operations a second.
        features: float32 [T, 5] in the order of `FEATURES` if a collector computed them, else None.
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
        kind: `cpu_contention`, `cpu_consumed`, `return`, `exception` or `network_delay`.
        time: Unix seconds of the injection.
        shows_in_cpu: Whether CPU visibly rose.
        baseline: Median CPU percent before it.
        peak: Highest CPU percent in its window.
    """

    pod: str
    kind: str
    time: int
    shows_in_cpu: bool = False
    baseline: float = float("nan")
    peak: float = float("nan")

    @property
    def is_cpu(self) -> bool:
        """Whether the fault's kind stresses CPU."""
        return self.kind.startswith("cpu")


@dataclass(frozen=True)
class Day:
    """A day of one system.

    Attributes:
        name: Such as `2022-08-22`.
        series: Its pods, by name.
        faults: Those whose pod has samples.
        notes: What was odd in the raw data and what was done about it, one sentence each.
        uri: Where it came from, relative.
        sha256: Of the CSV file (or of the synthetic values).
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


def label(series: Series, faults: list[Fault], labels: LabelConfig) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Marks the samples that CPU faults made anomalous.

    Returns:
        event: int64 [T], the index in `faults` of the fault that raised the sample, -1 if none did.
        judged: bool [T], false where a fault's window holds a sample that is neither clearly raised nor clearly normal.
    """
    event = np.full(len(series.time), -1, dtype=np.int64)
    judged = np.ones(len(series.time), dtype=np.bool_)
    for index, fault in enumerate(faults):
        if fault.pod != series.name or not (fault.is_cpu and fault.shows_in_cpu):
            continue
        inside = (series.time >= fault.time - labels.window_before) & (series.time <= fault.time + labels.window_after)
        limit = fault.baseline + labels.raised_fraction * (fault.peak - fault.baseline)
        raised = inside & (series.values[:, 0] > limit)
        event[raised] = index
        judged[inside & ~raised] = False
    judged[event >= 0] = True
    return event, judged
