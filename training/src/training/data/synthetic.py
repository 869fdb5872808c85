"""Synthetic days with the schema of the real ones: daily rhythm, noise, bursts, labelled CPU faults. Seeded.

For tests, and for a first run without data. Models trained on it prove the path, not their quality.
"""

import hashlib
import zlib
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from training.config import Config
from training.data.days import Day, Series, describe_fault

MINUTE = 60
FAULT_EVERY = 140
"""Minutes between the faults of a pod, on average."""
FAULT_MINUTES = (3, 6)
BURST_SHARE = 0.02
BURST_PERCENT = 8.0
"""Harmless bursts of one minute: how many, and their mean height in percentage points."""


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


def _correlated(count: int, scale: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """First-order autoregressive noise, coefficient 0.5, standard deviation `scale`. float64 [count]."""
    noise = rng.normal(0, scale * np.sqrt(1 - 0.5**2), count)
    for i in range(1, count):
        noise[i] += 0.5 * noise[i - 1]
    return noise
