"""The features sample by sample, as a collector computes them: what is normal for a series, learned as it goes.

Two ways: `MedianBaseline` keeps a window and equals `features.rolling_median_mad` bit for bit, `EwmaBaseline` keeps
four numbers. Plain Python floats, so that another language can follow line by line; the examples in `training/vectors`
are computed here.
"""

from bisect import bisect_left
from collections.abc import Callable
from math import isfinite, nan, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.config import CHANNELS, FeatureConfig
from training.data.days import Series
from training.features import floor


class Judged(NamedTuple):
    """A sample against what came before it; all NaN during warm-up and where the sample is missing.

    Attributes:
        baseline: What is normal, in the unit of the sample.
        scale: How far samples usually are from it, never below the floor, in the unit of the sample.
        z: `clip((x - baseline) / scale, -limit, limit)`, sigmas.
    """

    baseline: float
    scale: float
    z: float


MISSING = Judged(nan, nan, nan)


class Baseline:
    """What both ways have in common: order of the samples, missing ones, the floor, and when nothing is learned."""

    def __init__(self, channel: int, config: FeatureConfig) -> None:
        """Starts cold.

        Args:
            channel: Index in `CHANNELS`: it decides the floor.
            config: Warm-up, window, floors, clip, freeze.
        """
        self.config = config
        self._floor = floor(channel, config)
        self._last: int | None = None
        self._frozen_since: int | None = None

    def push(self, time: int, x: float, *, frozen: bool = False) -> Judged:
        """Judges a sample by those before it, then learns it.

        Args:
            time: Unix seconds, later than the last sample's.
            x: The sample; one that is not finite is missing: not judged, not learned.
            frozen: Whether the series is in alert. A frozen sample is judged but not learned, for `freeze_seconds` from
                the first frozen one at most; the first sample that is not frozen ends the freeze.

        Raises:
            ValueError: The sample is not later than the last one. Nothing has changed.
        """
        if self._last is not None and time <= self._last:
            msg = f"time {time} is not after {self._last}; send the samples of a series in order"
            raise ValueError(msg)
        self._last = time
        if not frozen:
            self._frozen_since = None
        elif self._frozen_since is None:
            self._frozen_since = time
        learned = self._frozen_since is None or time - self._frozen_since >= self.config.freeze_seconds
        if not isfinite(x):
            return MISSING
        judged = self._judge(time, x)
        if learned:
            self._learn(time, x)
        return judged

    def _judge(self, time: int, x: float) -> Judged:
        count, baseline, spread = self._normal(time)
        if count < self.config.warm_up_samples:
            return MISSING
        absolute, relative = self._floor
        scale = max(spread, relative * abs(baseline), absolute)
        limit = self.config.z_limit
        return Judged(baseline, scale, min(max((x - baseline) / scale, -limit), limit))

    def _normal(self, time: int) -> tuple[int, float, float]:
        """Samples learned, baseline and spread at `time`, before the sample then; only the count when it is cold."""
        raise NotImplementedError

    def _learn(self, time: int, x: float) -> None:
        raise NotImplementedError


class MedianBaseline(Baseline):
    """Median and scaled median absolute deviation of the samples of the last `window_seconds` (Hampel, 1974)."""

    def __init__(self, channel: int, config: FeatureConfig) -> None:
        """Starts with an empty window."""
        super().__init__(channel, config)
        self._times: list[int] = []
        self._samples: list[float] = []

    def _normal(self, time: int) -> tuple[int, float, float]:
        old = bisect_left(self._times, time - self.config.window_seconds)
        del self._times[:old], self._samples[:old]
        if not self._samples:
            return 0, nan, nan
        baseline = _median(self._samples)
        spread = self.config.mad_to_sigma * _median([abs(x - baseline) for x in self._samples])
        return len(self._samples), baseline, spread

    def _learn(self, time: int, x: float) -> None:
        self._times.append(time)
        self._samples.append(x)


def _median(values: list[float]) -> float:
    """The middle one, or half the sum of the two in the middle."""
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


class EwmaBaseline(Baseline):
    """Exponentially weighted mean and standard deviation: O(1) in time and memory (West, 1979).

    `e = x - mean; mean += a e; v = (1 - a) (v + a e^2)` with `a = 1 - 2^(-1 / half-life)`; the first sample is the
    first mean, with v = 0. After a gap longer than the window it starts afresh, as a window does.

    With `a = 1 / (sum of weights)` instead, which forgets the first sample sooner, the logistic's event recall was 0.53
    instead of 0.87 on 2022-08-23, at 0.20 false episodes a pod-day both times.
    """

    def __init__(self, channel: int, config: FeatureConfig) -> None:
        """Starts with no samples."""
        super().__init__(channel, config)
        self._a = 1.0 - 2.0 ** (-1.0 / config.half_life_samples)
        self._learned: int | None = None
        self._start()

    def _start(self) -> None:
        self._count, self._mean, self._variance = 0, 0.0, 0.0

    def _normal(self, time: int) -> tuple[int, float, float]:
        if self._learned is not None and time - self._learned > self.config.window_seconds:
            self._start()
        return self._count, self._mean, sqrt(self._variance)

    def _learn(self, time: int, x: float) -> None:
        self._learned = time
        self._count += 1
        if self._count == 1:
            self._mean = x
        error = x - self._mean
        self._mean += self._a * error
        self._variance = (1.0 - self._a) * (self._variance + self._a * error * error)


KINDS: dict[str, type[Baseline]] = {"median_mad": MedianBaseline, "ewma": EwmaBaseline}
"""By the names in the examples."""


def stream(
    series: Series,
    config: FeatureConfig,
    kind: type[Baseline] = MedianBaseline,
    in_alert: Callable[[NDArray[np.float32]], bool] | None = None,
) -> NDArray[np.float32]:
    """Features of a series as a collector computes them, sample after sample.

    Args:
        series: Its samples.
        config: All parameters.
        kind: Of the baseline.
        in_alert: Told a sample's features, float32 [1, 5], says whether the series is in alert: the baselines are then
            frozen for the next sample. None: never.

    Returns:
        float32 [T, 5] in the order of `FEATURES`. With `MedianBaseline` and no alerts, those of `series_features`.

    Raises:
        ValueError: Time does not increase.
    """
    baselines = [kind(channel, config) for channel in range(len(CHANNELS))]
    rows = np.empty((len(series.time), len(CHANNELS) + 2), dtype=np.float32)
    frozen = False
    for i, (time, samples) in enumerate(zip(series.time.tolist(), series.values.tolist())):
        judged = [b.push(time, x, frozen=frozen) for b, x in zip(baselines, samples)]
        rows[i] = [*(j.z for j in judged), judged[0].baseline, judged[0].scale]
        if in_alert is not None:
            frozen = in_alert(rows[i : i + 1])
    return rows
