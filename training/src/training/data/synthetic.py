"""Synthetic days with the schema of the real ones: daily rhythm, noise, bursts, labelled faults. Seeded.

For tests, and for a first run without data. Models trained on it prove the path, not their quality. `make_day` makes a
day with CPU faults, `make_weeks` a fleet over many days: weekends, pods that are replaced, kinds of faults, drift.
"""

import hashlib
import zlib
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from training.config import Config
from training.data.days import Day, Series, contents, describe_fault, describe_window

MINUTE = 60
FAULT_EVERY = 140
"""Minutes between the faults of a pod, on average."""
FAULT_MINUTES = (3, 6)
BURST_SHARE = 0.02
BURST_PERCENT = 8.0
"""Harmless bursts of one minute: how many, and their mean height in percentage points."""

BURST_SHAPE = (1.0, 0.9, 0.8, 0.5)
"""A burst in a fleet over weeks: the height of its minutes."""

DAY_MINUTES = 1440
WEEKEND = 0.6
"""Load on Saturdays and Sundays against other days."""
LIFETIME_DAYS = (2.0, 9.0)
"""How long a pod runs before another one takes its place, at least and at most."""
KINDS = ("cpu_stress", "cpu_step", "memory_leak", "disk_storm")
"""CPU to the limit for minutes; CPU up by 6 to 20 sigmas; memory that grows; disk times 5 to 20."""
KIND_SHARES = (0.4, 0.3, 0.15, 0.15)
LEAK_MINUTES = (6, 15)
"""Of a memory leak until the pod recovers; with an hour, its samples outweigh all other kinds in a fit."""
FAULTS_PER_DAY = 1.5
"""Faults of a workload and day, on average."""
DRIFT = (1.8, 2.5)
"""From the day of a drift in level on, load and noise are this many times what they were."""
BRIEF, LASTING = 0.5, 0.98
"""Correlation of the load's noise from one minute to the next: before a drift in persistence, and from its day on."""
LIMITS = 0.8
"""From the day that limits are raised on, the same load is this share of the CPU percent that it was."""
DRIFTS = ("level", "limits", "persistence")
"""What may change: how much load and noise there is, and what percent it is of the limits, which the features show; or
how long it lasts, which only forecasts show."""


def make_day(name: str, config: Config, *, pods: int = 6, minutes: int = 900) -> Day:
    """Makes one day.

    Args:
        name: Such as `2022-08-22`; it also varies the seed, so that days differ.
        config: The seed, and how faults become labels.
        pods: Number of series.
        minutes: Samples of each, one a minute.
    """
    rng = np.random.default_rng([config.seed, zlib.crc32(name.encode())])
    start = int(datetime.fromisoformat(name).replace(tzinfo=UTC).timestamp())
    series, faults = [], []
    for index in range(pods):
        one, onsets = _make_series(f"synthetic-{index}", start, minutes, rng)
        series.append(one)
        faults += [describe_fault(one, "cpu_contention", time, config.labels) for time in onsets]
    digest = hashlib.sha256(b"".join(s.time.tobytes() + s.values.tobytes() for s in series)).hexdigest()
    return Day(
        name=name,
        series=series,
        faults=faults,
        notes=[f"synthetic: {pods} pods, {len(faults)} CPU faults, seed {config.seed}"],
        uri=f"synthetic/seed-{config.seed}/{name}",
        sha256=digest,
        rows=pods * minutes,
        licence="none needed: generated",
    )


def _make_series(name: str, start: int, minutes: int, rng: np.random.Generator) -> tuple[Series, list[int]]:
    """One pod and the times of its faults, Unix seconds."""
    time = start + MINUTE * np.arange(minutes, dtype=np.int64)
    load = rng.uniform(4, 40)
    rhythm = 1 + 0.2 * np.sin(2 * np.pi * (np.arange(minutes) / 1440 + rng.uniform()))
    cpu = load * rhythm + _correlated(minutes, 0.08 * load + 0.3, rng)
    memory = rng.uniform(10, 80) + _correlated(minutes, 0.1, rng)
    disk = rng.uniform(20, 200) * rhythm * (1 + _correlated(minutes, 0.05, rng))
    bursts = rng.random(minutes) < BURST_SHARE
    cpu[bursts] += rng.exponential(BURST_PERCENT, int(bursts.sum()))
    onsets = []
    for at in np.arange(FAULT_EVERY // 2, minutes - 10, FAULT_EVERY):
        first = int(at + rng.integers(-20, 20))
        length = int(rng.integers(*FAULT_MINUTES))
        cpu[first : first + length] = rng.uniform(78, 100, length)
        onsets.append(int(time[first]) - int(rng.integers(0, MINUTE)))
    values = np.column_stack([np.clip(cpu, 0, 105), np.clip(memory, 0, 100), np.maximum(disk, 0)])
    return Series(name, time, values.round(4)), onsets


def make_weeks(  # noqa: PLR0913 - one argument a property of the fleet
    config: Config,
    *,
    days: int = 14,
    pods: int = 6,
    start: str = "2026-01-05",
    drift_day: int | None = None,
    drift: tuple[str, ...] = ("level",),
    kinds: tuple[str, ...] = KINDS,
    weekend: float = WEEKEND,
) -> Day:
    """Makes a fleet over many days, as one day that lasts as long.

    Args:
        config: The seed, and how faults become labels.
        days: Whole days.
        pods: Workloads; each runs one pod at a time, and pods are replaced after some days.
        start: The first day, such as `2026-01-05`, a Monday.
        drift_day: From this day on (the first is 0) load and noise are others; None: they stay as they are.
        drift: What changes, some of `DRIFTS`.
        kinds: Faults, some of `KINDS`.
        weekend: Load on Saturdays and Sundays against other days.
    """
    rng = np.random.default_rng([config.seed, days, pods, zlib.crc32(start.encode())])
    begin = int(datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp())
    time = begin + MINUTE * np.arange(days * DAY_MINUTES, dtype=np.int64)
    series, faults = [], []
    for index in range(pods):
        values = _workload(time, (drift_day, drift, weekend), rng)
        windows = _add_faults(values, kinds, rng)
        for number, (first, last) in enumerate(_lifetimes(len(time), rng)):
            one = Series(f"synthetic-{index}-{number}", time[first:last], values[first:last].round(4))
            series.append(one)
            inside = [w for w in windows if first <= w[1] and w[2] < last]
            faults += [describe_window(one, k, int(time[a]), int(time[b]), config.labels) for k, a, b in inside]
    changes = {"level": "load and noise change", "limits": "limits are raised", "persistence": "load lasts longer"}
    change = " and ".join(changes[one] for one in drift)
    told = "" if drift_day is None else f", {change} from day {drift_day} on"
    return Day(
        name=f"{start}_{days}d",
        notes=[f"synthetic: {len(series)} pods of {pods} workloads, {len(faults)} faults, seed {config.seed}{told}"],
        uri=f"synthetic/seed-{config.seed}/{start}_{days}d",
        **contents(series, faults),
        licence="none needed: generated",
    )


def _workload(
    time: NDArray[np.int64], course: tuple[int | None, tuple[str, ...], float], rng: np.random.Generator
) -> NDArray[np.float64]:
    """A workload without faults, float64 [T, 3]: days and weeks in CPU and disk, a slow walk in memory, bursts."""
    count, (drift_day, drift, weekend) = len(time), course
    level, noise = np.ones(count), np.ones(count)
    if drift_day is not None and "level" in drift:
        level[drift_day * DAY_MINUTES :], noise[drift_day * DAY_MINUTES :] = DRIFT
    free = ((time // 86_400 + 3) % 7) >= 5  # noqa: PLR2004 - 1970-01-01 was a Thursday, weekdays count from Monday
    rhythm = 1 + 0.3 * np.sin(2 * np.pi * (time / 86_400 + rng.uniform()))
    rhythm = rhythm * np.where(free, weekend, 1.0) * level
    load = rng.uniform(4, 25)
    scale = 0.08 * load + 0.3
    wander = _correlated(count, scale, rng) * noise
    if drift_day is not None and "persistence" in drift:
        # The same spread around the same level, so that z-scores hardly change.
        lasting = count - drift_day * DAY_MINUTES
        wander[-lasting:] = _correlated(lasting, scale, rng, LASTING) * noise[-lasting:]
    cpu = load * rhythm + wander
    bursts = np.where(rng.random(count) < BURST_SHARE / len(BURST_SHAPE), rng.exponential(BURST_PERCENT, count), 0.0)
    cpu += np.convolve(bursts, BURST_SHAPE)[:count]
    memory = rng.uniform(15, 50) + 3 * (rhythm - 1) + _correlated(count, 0.1, rng) * noise
    disk = rng.uniform(20, 200) * rhythm * (1 + _correlated(count, 0.05, rng) * noise)
    if drift_day is not None and "limits" in drift:
        cpu[drift_day * DAY_MINUTES :] *= LIMITS
    return np.column_stack([np.clip(cpu, 0, 105), np.clip(memory, 0, 100), np.maximum(disk, 0)])


def _lifetimes(count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """First minute of each pod, and the one after its last; the next one is up some minutes later."""
    lives, first = [], 0
    while first < count:
        last = min(count, first + int(rng.uniform(*LIFETIME_DAYS) * DAY_MINUTES))
        if count - last < DAY_MINUTES:
            last = count
        lives.append((first, last))
        first = last + int(rng.integers(1, 10))
    return lives


def _add_faults(
    values: NDArray[np.float64], kinds: tuple[str, ...], rng: np.random.Generator
) -> list[tuple[str, int, int]]:
    """Changes the samples of faults in place. Returns kind, first and last minute of each; they do not touch."""
    windows, at = [], 120.0
    shares = np.array([KIND_SHARES[KINDS.index(kind)] for kind in kinds])
    while True:
        at += 60 + rng.exponential(max(DAY_MINUTES / FAULTS_PER_DAY - 60, 1))
        kind = str(rng.choice(kinds, p=shares / shares.sum()))
        length = int(rng.integers(*LEAK_MINUTES)) if kind == "memory_leak" else int(rng.integers(*FAULT_MINUTES))
        first, last = int(at), int(at) + length - 1
        if last + 30 > len(values):
            return windows
        span = slice(first, last + 1)
        sigma = max(float(values[max(first - 360, 0) : first, 0].std()), 1.0)
        if kind == "cpu_stress":
            values[span, 0] = rng.uniform(78, 100, length)
        elif kind == "cpu_step":
            values[span, 0] = np.minimum(values[span, 0] + max(sigma * rng.uniform(6, 20), 12.0), 105)
        elif kind == "memory_leak":
            values[span, 1] = np.minimum(values[span, 1] + np.linspace(0, rng.uniform(15, 40), length), 100)
        else:
            values[span, 2] *= rng.uniform(5, 20)
        windows.append((kind, first, last))
        at = last


def _correlated(count: int, scale: float, rng: np.random.Generator, coefficient: float = BRIEF) -> NDArray[np.float64]:
    """First-order autoregressive noise with a coefficient and standard deviation `scale`. float64 [count]."""
    noise = rng.normal(0, scale * np.sqrt(1 - coefficient**2), count)
    for i in range(1, count):
        noise[i] += coefficient * noise[i - 1]
    return noise
