"""Examples of the features for every program that computes them: `training/vectors/features.json`.

Inputs are seeded; the expected outputs come from `baseline.py`, which the tests hold to `features.py` and to a naive
reference.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.baseline import KINDS, MISSING, Baseline, Judged, stream
from training.config import CHANNELS, FEATURES, FeatureConfig
from training.data.days import Series

FORMAT = 1
TOLERANCE = 1e-9
"""A number is right if it is off by at most this much, or this share of it if it is larger than 1."""
START = 1_700_000_000
MINUTE = 60
HOUR = 3600
DIGITS = 4
"""Decimals of the samples, which keeps the file small."""

Floats = NDArray[np.float64]
Times = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """A channel's samples.

    Attributes:
        name: Of the case.
        about: What it is there for.
        channel: Index in `CHANNELS`.
        time: int64 [T], Unix seconds.
        x: float64 [T], NaN where a sample is missing.
        frozen: bool [T], whether the series is in alert.
        parameters: Fields of `FeatureConfig` that differ from the defaults.
    """

    name: str
    about: str
    channel: int
    time: Times
    x: Floats
    frozen: NDArray[np.bool_] | None = None
    parameters: dict[str, float] = field(default_factory=dict)


def cases() -> list[Case]:
    """All cases, the same on every call."""
    return [*_plain_cases(), *_cases_with_holes(), *_frozen_cases()]


def _plain_cases() -> list[Case]:
    rng = np.random.default_rng(7)
    cpu, memory, disk = range(len(CHANNELS))
    jitter = START + np.cumsum(rng.integers(57, 64, 420))
    clipped = rng.gamma(2.0, 3.0, 60)
    clipped[[30, 45]] = 1e9, -1e9
    flat = np.repeat([40.0, 40.0, 41.0, 40.0, 43.5], 16)
    flat[[20, 50]] = 42.0, 30.0
    idle = np.concatenate([np.zeros(30), rng.gamma(2.0, 1.0, 20), [0.0, 3.0, 0.5]])
    busy = rng.normal(500, 5, 60)
    busy[[25, 40]] = 700, 560
    ties = rng.integers(0, 4, 80) * 10.0
    short = {"window_seconds": 30 * MINUTE}
    return [
        Case("warm-up", "missing until 15 samples are in the window", cpu, _every(MINUTE, 20), rng.gamma(2, 5, 20)),
        Case("six hours", "seven hours: the six-hour window fills and moves", cpu, jitter, rng.gamma(2, 8, 420)),
        Case("edge of the window", "a sample exactly six hours old is in", cpu, _every(300, 90), rng.gamma(2, 8, 90)),
        Case("even and odd", "15 to 30 samples", cpu, _every(MINUTE, 70), rng.normal(50, 20, 70), None, short),
        Case("ties", "few different values", cpu, _every(MINUTE, 80), ties),
        Case("clip", "z beyond +-100", cpu, _every(MINUTE, 60), clipped),
        Case("memory floor", "flat memory: the scale is the floor", memory, _every(MINUTE, 80), flat),
        Case("absolute disk floor", "a quiet disk: one operation a second", disk, _every(MINUTE, len(idle)), idle),
        Case("relative disk floor", "a busy disk: a tenth of the baseline", disk, _every(MINUTE, 60), busy),
        Case("large", "up to 1e12", disk, _every(MINUTE, 60), rng.lognormal(np.log(1e10), 1.5, 60)),
        Case("fast half-life", "20 samples", cpu, _every(15, 90), rng.gamma(2, 8, 90), None, {"half_life_samples": 20}),
    ]


def _cases_with_holes() -> list[Case]:
    rng = np.random.default_rng(8)
    holes = rng.gamma(2.0, 8.0, 120)
    holes[rng.random(120) < 0.2] = np.nan  # noqa: PLR2004 - a fifth
    holes[[0, 119]] = np.nan
    holes[60:80] = np.nan
    gaps = _every(MINUTE, 130)
    gaps[30:] += 4 * HOUR
    gaps[60:] += 6 * HOUR - MINUTE
    gaps[90:] += 6 * HOUR
    gaps[110:] += 100 * HOUR
    late = _every(MINUTE, 40)
    late[[10, 20, 30]] = late[9], late[15], late[29] - 1
    return [
        Case("missing", "missing samples, alone and in a row", 0, _every(MINUTE, 120), holes),
        Case("gaps", "shorter than the window, as long, longer", 0, gaps, rng.gamma(2.0, 8.0, 130)),
        Case("out of order", "refused samples change nothing", 0, late, rng.gamma(2.0, 8.0, 40)),
    ]


def _frozen_cases() -> list[Case]:
    rng = np.random.default_rng(9)
    raised = rng.gamma(2.0, 5.0, 200)
    raised[40:70] += 60
    raised[90:190] += 40
    frozen = np.zeros(200, dtype=np.bool_)
    frozen[41:70] = frozen[91:190] = True
    on_off = rng.random(90) < 0.5  # noqa: PLR2004 - half of the time
    on_off[:20] = [False] * 5 + [True] * 10 + [False] * 5
    holes = rng.gamma(2.0, 5.0, 90)
    holes[[6, 40, 41]] = np.nan
    return [
        Case("frozen", "half an hour, then longer than the hour", 0, _every(MINUTE, 200), raised, frozen),
        Case("frozen on and off", "from the warm-up on, with missing ones", 0, _every(MINUTE, 90), holes, on_off),
    ]


def _every(seconds: int, count: int) -> Times:
    return START + seconds * np.arange(count, dtype=np.int64)


def document() -> dict[str, Any]:
    """The file's content."""
    config = FeatureConfig()
    return {
        "format": FORMAT,
        "tolerance": TOLERANCE,
        "parameters": asdict(config),
        "cases": [_case(case, config) for case in cases()],
        "rows": _rows(config),
    }


def _case(case: Case, config: FeatureConfig) -> dict[str, Any]:
    config = replace(config, **case.parameters)
    x = case.x.round(DIGITS).tolist()
    frozen = np.zeros(len(x), dtype=np.bool_) if case.frozen is None else case.frozen
    samples = list(zip(case.time.tolist(), x, frozen.tolist()))
    expected, refused = {}, []
    for name, kind in KINDS.items():
        judged, refused = _push_all(kind(case.channel, config), samples)
        expected[name] = {part: _numbers(getattr(j, part) for j in judged) for part in Judged._fields}
    return {
        "name": case.name,
        "about": case.about,
        "channel": CHANNELS[case.channel],
        "parameters": case.parameters,
        "time": case.time.tolist(),
        "x": _numbers(x),
        "frozen": [i for i, one in enumerate(frozen) if one],
        "refused": refused,
        "expected": expected,
    }


def _push_all(baseline: Baseline, samples: Sequence[tuple[int, float, bool]]) -> tuple[list[Judged], list[int]]:
    """What a baseline says of each sample, and the indices of those it refuses."""
    judged, refused = [], []
    for i, (time, x, frozen) in enumerate(samples):
        try:
            judged.append(baseline.push(time, x, frozen=frozen))
        except ValueError:
            judged.append(MISSING)
            refused.append(i)
    return judged, refused


def _rows(config: FeatureConfig) -> dict[str, Any]:
    """All channels of a pod together, as they are packed into the tensor `features`."""
    rng = np.random.default_rng(10)
    values = np.column_stack([rng.gamma(2.0, 5.0, 60), rng.normal(40, 2, 60), rng.gamma(3.0, 40.0, 60)]).round(DIGITS)
    values[40:44] += 60.0
    values[[25, 50], [2, 1]] = np.nan
    series = Series("pod", _every(MINUTE, 60), values)
    return {
        "about": "features of a pod with the median_mad baseline: columns as named, float32",
        "channels": CHANNELS,
        "features": FEATURES,
        "time": series.time.tolist(),
        "values": [_numbers(row) for row in values.tolist()],
        "expected": [_numbers(row) for row in stream(series, config).tolist()],
    }


def _numbers(values: Any) -> list[float | None]:  # noqa: ANN401 - any iterable of floats
    """For JSON, which has no NaN."""
    return [v if isfinite(v) else None for v in values]


def write(path: Path) -> None:
    """Writes the examples: JSON, a case a line, numbers with all their digits."""
    found = document()
    parts = [f"{json.dumps(k)}: {json.dumps(found[k])}" for k in found if k != "cases"]
    listed = ",\n".join(json.dumps(case, separators=(",", ":"), allow_nan=False) for case in found["cases"])
    parts.append(f'"cases": [\n{listed}\n]')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
