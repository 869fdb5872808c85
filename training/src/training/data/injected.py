"""CPU faults injected into copies of real series, for a fleet without labels: only the faults are made.

Shapes and heights follow the 30 CPU faults of the Nezha days that show in CPU (18 `cpu_contention`, 12 `cpu_consumed`;
2022-08-22, 2022-08-23 and 2023-01-29), as measured with `days.cpu_rise`, `days.label` and the features' scales:

| | least | 10 % | median | 90 % | most |
|---|---|---|---|---|---|
| peak, percent of the limit | 84 | 88 | 98 | 105 | 110 |
| rise over the level before, percentage points | 32 | 60 | 86 | 100 | 107 |
| the same in scales (1.4826 MAD, at least 5 points) | 2.5 | 5.4 | 17 | 20 | 21 |
| raised samples of a minute | 3 | 3 | 4 | 5 | 7 |
| memory's rise, percentage points | 0.5 | 0.5 | 18 | 75 | 90 |
| disk operations against before | 0.14 | 0.46 | 0.94 | 1.14 | 1.5 |

The 30 all saturate, since they were made by stress tools. Real faults need not: a third of those made here rise by
`SCALES` scales instead, over the range that Nezha's show. `cpu_consumed` raises memory by about 1 point,
`cpu_contention` by any amount; disk operations stay or sink, because a throttled pod does less.

The champion's recipe, fitted on 2022-08-22 without its labels and with 41 injected faults, finds 14 of the 15 real
faults of 2022-08-23, as with the labels (AUC-PR 0.956, with labels 0.952; false episodes a pod-day 0.41, with labels
0.20): `test_injected.py`.
"""

import zlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.config import Config
from training.data.days import Day, Fault, Series, contents, describe_window
from training.features import rolling_median_mad, series_features

KIND = "cpu_injected"
UNEXPLAINED = "unexplained"
"""Kind of what looks like a fault in the real series and is labelled by nobody: such a rise is not judged."""
LONGEST = 12
"""A rise of more minutes than this is work, not a fault, and stays normal, as do those shorter than a fault."""
PER_DAY = 1.0
"""Faults of a series and day, on average: 14 days of 10 pods then hold 140."""
MINUTES = (3, 6)
"""Samples that a fault raises, at least and at most."""
SATURATING = 2 / 3
"""Share of faults that reach the limit ..."""
PLATEAU = (78.0, 105.0)
"""... with samples between these, percent of the limit."""
SCALES = (5.0, 21.0)
"""Rise of the others, in scales, log-uniform."""
RAMP = 0.4
"""Share of faults whose first sample is half way up: the fault began within that minute."""
QUIET = (1800, 900)
"""Seconds before and after a fault in which nothing else may happen ..."""
QUIET_SCALES = 3.0
"""... which is: CPU stays within this many scales of its rolling median."""
CEILING = 110.0
"""CPU percent that no injected sample exceeds; the highest that Nezha shows."""


def inject(day: Day, config: Config, *, seed: int | None = None, per_day: float = PER_DAY) -> Day:
    """A copy of the day with faults injected at random times into quiet stretches; `day` is not changed.

    Where series look faulty themselves (`MINUTES[0]` to `LONGEST` samples over `SCALES[0]` scales, none known), they
    are neither normal nor anomalous: real faults that nobody labelled would use up the budget of false alarms, and the
    threshold would rise over the faults that are to be found.

    A stretch is quiet if it holds the warm-up before it, no gap, no real fault and no rise of its own. Features that
    came with the series are computed anew where a window holds an injected sample.

    Args:
        day: Any.
        config: Features, labels, and the seed where none is given.
        seed: Equal seeds give equal faults.
        per_day: Faults of a series and day, on average, where there is room.
    """
    seed = config.seed if seed is None else seed
    series, faults, unexplained, wanted = [], [], [], 0
    for one in day.series:
        rng = np.random.default_rng([seed, zlib.crc32(one.name.encode())])
        real = [f for f in day.faults if f.pod == one.name]
        many = int(rng.poisson(per_day * len(one.time) * _step(one) / 86_400))
        changed, windows = _inject(one, real, many, rng, config)
        wanted += many
        unexplained += _unexplained(one, real, config)
        series.append(changed)
        faults += [describe_window(changed, KIND, begin, end, config.labels) for begin, end in windows]
    shown = sum(f.channel is not None for f in faults)
    note = (
        f"{len(faults)} CPU faults are INJECTED into {len(series)} real series, seed {seed}; {shown} show and are "
        f"labelled; {wanted - len(faults)} more found no quiet stretch; {len(unexplained)} rises of the series' own "
        "look like faults and are not judged: metrics on such data say little about real faults"
    )
    return replace(
        day,
        notes=[*day.notes, note],
        **contents(series, [*day.faults, *faults, *unexplained]),
    )


def _step(series: Series) -> int:
    """Usual seconds between samples."""
    return int(np.median(np.diff(series.time))) if len(series.time) > 1 else 60


def _unexplained(series: Series, real: list[Fault], config: Config) -> list[Fault]:
    """What looks like a fault and is none that is known, as faults that are not judged."""
    level, scale = rolling_median_mad(series.time, series.values[:, 0], config.features)
    with np.errstate(invalid="ignore"):
        high = series.values[:, 0] - level > SCALES[0] * np.maximum(scale, config.features.floor_cpu)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], high.astype(np.int8), [0]])))
    found = []
    for first, after in edges.reshape(-1, 2):
        begin, end = int(series.time[first]), int(series.time[after - 1])
        known = any(f.window(config.labels)[0] <= end and begin <= f.window(config.labels)[1] for f in real)
        if MINUTES[0] <= after - first <= LONGEST and not known:
            found.append(Fault(series.name, UNEXPLAINED, begin, until=end))
    return found


def _inject(
    series: Series, real: list[Fault], many: int, rng: np.random.Generator, config: Config
) -> tuple[Series, list[tuple[int, int]]]:
    """A series with up to `many` faults, and first and last second of each."""
    step = _step(series)
    level, scale = rolling_median_mad(series.time, series.values[:, 0], config.features)
    scale = np.maximum(scale, config.features.floor_cpu)
    free = _quiet(series, real, level, scale, config)
    values = series.values.copy()
    windows: list[tuple[int, int]] = []
    for _ in range(many):
        length = max(1, round(int(rng.integers(MINUTES[0], MINUTES[1] + 1)) * 60 / step))
        first = _place(series, free, length, rng)
        if first is None:
            break
        span = slice(first, first + length)
        values[span] = _raised(values[span], float(level[first]), float(scale[first]), rng)
        begin, end = int(series.time[first]), int(series.time[first + length - 1])
        windows.append((begin, end))
        free[(series.time >= begin - sum(QUIET)) & (series.time <= end + sum(QUIET))] = False
    return _with_features(series, values, windows, config), sorted(windows)


def _quiet(
    series: Series, real: list[Fault], level: NDArray[np.float64], scale: NDArray[np.float64], config: Config
) -> NDArray[np.bool_]:
    """Where a fault may be, bool [T]: with a level, not near a real fault, a gap or a rise of the series' own."""
    before, after = QUIET
    time, step = series.time, _step(series)
    calm = np.isfinite(level)
    with np.errstate(invalid="ignore"):
        loud = np.abs(series.values[:, 0] - level) > QUIET_SCALES * scale
    blocked = [(int(t), int(t)) for t in time[loud]]
    blocked += [(int(time[i]), int(time[i + 1])) for i in np.flatnonzero(np.diff(time) > 1.5 * step)]
    blocked += [fault.window(config.labels) for fault in real]
    for first, last in blocked:
        # From `after` before it on, a fault would be too close ahead of it; until `before` after it, too close behind.
        low, high = np.searchsorted(time, [first - after, last + before + 1])
        calm[low:high] = False
    return calm


def _place(series: Series, free: NDArray[np.bool_], length: int, rng: np.random.Generator) -> int | None:
    """Index of the first of `length` free samples with room behind, at random; None if there is no such place."""
    room = int(np.searchsorted(series.time, series.time[-1] - QUIET[1], side="right")) - length
    starts = np.ones(max(room, 0), dtype=np.bool_)
    for offset in range(length):
        starts &= free[offset : offset + len(starts)]
    candidates = np.flatnonzero(starts)
    return int(rng.choice(candidates)) if len(candidates) else None


def _raised(values: NDArray[np.float64], level: float, scale: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """The samples of a fault, float64 [length, 3], from those that were measured."""
    out, count = values.copy(), len(values)
    if rng.random() < SATURATING:
        target = rng.uniform(*PLATEAU, count)
    else:
        rise = scale * np.exp(rng.uniform(*np.log(SCALES)))
        target = level + rise * rng.uniform(0.9, 1.0, count)
    if rng.random() < RAMP:
        target[0] = (level + target[0]) / 2
    out[:, 0] = np.clip(np.maximum(target, values[:, 0]), 0, CEILING)
    most = 1.5 if rng.random() < 12 / 30 else 75.0
    out[:, 1] = np.minimum(values[:, 1] + rng.uniform(0.5, most), np.maximum(values[:, 1], 100.0))
    out[:, 2] = values[:, 2] * rng.uniform(0.46, 1.14)
    return out


def _with_features(
    series: Series, values: NDArray[np.float64], windows: list[tuple[int, int]], config: Config
) -> Series:
    """The series with new values; given features are computed anew where their window holds an injected sample."""
    if series.features is None or not windows:
        return replace(series, values=values)
    features = series.features.copy()
    ours = series_features(replace(series, values=values, features=None), config.features)
    for begin, end in windows:
        seen = (series.time >= begin) & (series.time <= end + config.features.window_seconds)
        features[seen] = ours[seen]
    return replace(series, values=values, features=features)
