"""The one definition of the features: rolling median/MAD z-scores with a floor, and the CPU baseline and scale.

Nothing here looks ahead: a sample's features depend on it and on what came before it.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from training.config import FEATURES, Config, FeatureConfig
from training.data.days import Day, Series, label

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """Samples of a day with features, labels and targets; all arrays have N rows, warm-up included.

    Attributes:
        features: float32 [N, 5] in the order of `FEATURES`; NaN during warm-up.
        cpu: float64 [N], CPU percent now.
        target: float64 [N], CPU percent one horizon later; NaN where it is unknown.
        event: int64 [N], index of the CPU fault that raised the sample, -1 if none.
        judged: bool [N], false for samples too close to a fault to call normal or anomalous.
        time: int64 [N], Unix seconds.
        series: int64 [N], index of the series.
    """

    features: NDArray[np.float32]
    cpu: Floats
    target: Floats
    event: NDArray[np.int64]
    judged: NDArray[np.bool_]
    time: NDArray[np.int64]
    series: NDArray[np.int64]

    @property
    def warm(self) -> NDArray[np.bool_]:
        """Which rows, bool [N], are past the warm-up: only they can be served."""
        return np.isfinite(self.features).all(axis=1)

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """Which rows, bool [N], a CPU fault raised."""
        return self.event >= 0

    def rows(self, mask: NDArray[np.bool_]) -> "Table":
        """The rows where `mask`, bool [N], is true."""
        return Table(
            self.features[mask],
            self.cpu[mask],
            self.target[mask],
            self.event[mask],
            self.judged[mask],
            self.time[mask],
            self.series[mask],
        )


def rolling_median_mad(time: NDArray[np.int64], x: Floats, config: FeatureConfig) -> tuple[Floats, Floats]:
    """Median and scaled median absolute deviation of the window strictly before each sample.

    `m_t = median(x[t-W .. t-1])`, `s_t = 1.4826 * median|x - m_t|` over the same window (Hampel, 1974). Windows are by
    time, so gaps shorten them.

    Args:
        time: int64 [T], seconds, strictly increasing.
        x: float64 [T], finite.
        config: Window and warm-up.

    Returns:
        Two float64 [T] in the unit of `x`; NaN where the window holds fewer than the warm-up's samples.

    Raises:
        ValueError: Time does not increase.
    """
    if (np.diff(time) <= 0).any():
        msg = "time must increase strictly"
        raise ValueError(msg)
    count = np.arange(len(time)) - np.searchsorted(time, time - config.window_seconds, side="left")
    width = int(count.max(initial=0))
    if width < config.warm_up_samples:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    # Row t holds the `width` samples before t, the newest last; those older than the window become NaN and sort last.
    windows = sliding_window_view(np.concatenate([np.full(width, np.nan), x[:-1]]), width).copy()
    windows[np.arange(width)[None, :] < width - count[:, None]] = np.nan
    median = _median_of_first(windows, count)
    deviation = _median_of_first(np.abs(windows - median[:, None]), count)
    cold = count < config.warm_up_samples
    median[cold] = deviation[cold] = np.nan
    return median, config.mad_to_sigma * deviation


def _median_of_first(rows: Floats, count: NDArray[np.int64]) -> Floats:
    """Median of the `count[t]` numbers in each row of float64 [T, W]; the others are NaN."""
    ordered = np.sort(rows, axis=1)
    index = np.arange(len(rows))
    low = ordered[index, np.maximum(count - 1, 0) // 2]
    high = ordered[index, np.minimum(count // 2, rows.shape[1] - 1)]
    return (low + high) / 2


def series_features(series: Series, config: FeatureConfig) -> NDArray[np.float32]:
    """Features of every sample of a series: those that it brings, or computed.

    `z = clip((x - m) / max(s, floor), -limit, limit)` for each channel, then CPU's `m` and `max(s, floor)`.

    Returns:
        float32 [T, 5] in the order of `FEATURES`: sigmas, sigmas, sigmas, percent, percent. NaN during warm-up.
    """
    if series.features is not None:
        return series.features
    out = np.full((len(series.time), len(FEATURES)), np.nan)
    for channel in range(series.values.shape[1]):
        x = series.values[:, channel]
        baseline, scale = rolling_median_mad(series.time, x, config)
        scale = np.maximum(scale, _floor(channel, baseline, config))
        out[:, channel] = np.clip((x - baseline) / scale, -config.z_limit, config.z_limit)
        if channel == 0:
            out[:, 3], out[:, 4] = baseline, scale
    return out.astype(np.float32)


def _floor(channel: int, baseline: Floats, config: FeatureConfig) -> Floats:
    """Smallest scale of a channel, in its unit, float64 [T]."""
    if channel == 0:
        return np.full(len(baseline), config.floor_cpu)
    if channel == 1:
        return np.full(len(baseline), config.floor_memory)
    return np.maximum(config.floor_disk_relative * np.abs(baseline), config.floor_disk_absolute)


def actual_later(series: Series, horizon: int, tolerance: int) -> Floats:
    """CPU percent `horizon` seconds after each sample: the nearest sample within `tolerance`, else NaN. float64 [T]."""
    due = series.time + horizon
    after = np.clip(np.searchsorted(series.time, due), 1, len(series.time) - 1)
    nearest = np.where(due - series.time[after - 1] <= series.time[after] - due, after - 1, after)
    found = np.abs(series.time[nearest] - due) <= tolerance
    return np.where(found, series.values[nearest, 0], np.nan)


def join(tables: list[Table]) -> Table:
    """One table of several; their series and events stay apart."""
    series, events, parts = 0, 0, []
    for one in tables:
        event = np.where(one.event >= 0, one.event + events, -1)
        parts.append(replace(one, series=one.series + series, event=event))
        series += int(one.series.max(initial=-1)) + 1
        events += int(one.event.max(initial=-1)) + 1
    return Table(*(np.concatenate([getattr(p, f) for p in parts]) for f in Table.__dataclass_fields__))


def table(day: Day, config: Config) -> Table:
    """Features, labels and targets of all series of a day, series after series."""
    parts = []
    for index, series in enumerate(day.series):
        event, judged = label(series, day.faults, config.labels)
        parts.append(
            Table(
                series_features(series, config.features),
                series.values[:, 0],
                actual_later(series, config.model.horizon_seconds, config.model.horizon_tolerance),
                event,
                judged,
                series.time,
                np.full(len(series.time), index, dtype=np.int64),
            )
        )
    return Table(*(np.concatenate([getattr(p, f) for p in parts]) for f in Table.__dataclass_fields__))
