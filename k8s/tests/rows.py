"""Rows for a server: six made-up pods and nodes over a day, with the features that the collector would send of them."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SERIES = ("shop/cart-6d4f", "shop/pay-58c9", "shop/ship-77b2", "bank/ledger-9f1c", "bank/report-4c2d", "node-1")
CHANNELS = ("cpu", "memory", "disk_io")
HOURS = 26
WINDOW = 360
WARM_UP = 15
FLOORS = (5.0, 1.0, 1.0)

Floats = NDArray[np.float64]


class Day:
    """Values and z-scores of each minute until now.

    Attributes:
        times: Unix seconds, [T].
        values: [T, series, channels], as the collector measures them.
        z, baseline, scale: The same shape, by training/features.py's definition.
    """

    def __init__(self) -> None:
        """Makes them, always alike, up to this minute."""
        random = np.random.default_rng(7)
        minutes = HOURS * 60
        self.times = int(time.time()) // 60 * 60 - 60 * np.arange(minutes)[::-1]
        day = np.sin(2 * np.pi * np.arange(minutes) / 1440)
        base = random.uniform((8, 30, 5), (30, 60, 60), (len(SERIES), 3))
        noise = random.normal(0, 1, (minutes, len(SERIES), 3)) * (1.5, 0.3, 3)
        self.values = np.maximum(base * (1 + day[:, None, None] * (0.02, 0.02, 0.1)) + noise, 0.1)
        self.values[-55:-40, 0, 0] += 62  # CPU of cart
        self.values[-100:-60, 3, 1] += np.linspace(0, 30, 40)  # memory of ledger
        self.values[-60:-55, 3, 1] += 30
        self.values[-30:-20, 4, 2] += 400  # disk of report
        # What lasts for some minutes, to be foreseen, and short peaks on which models may differ.
        drift = random.normal(0, 2, (minutes, len(SERIES)))
        for t in range(1, minutes):
            drift[t] += 0.5 * drift[t - 1]
        self.values[..., 0] += drift
        peaks = random.random((minutes, len(SERIES))) < 0.02
        self.values[..., 0] += peaks * random.uniform(10, 60, peaks.shape)
        self.z, self.baseline, self.scale = self._features()

    def _features(self) -> tuple[Floats, Floats, Floats]:
        padded = np.concatenate([np.full((WINDOW, *self.values.shape[1:]), np.nan), self.values])[:-1]
        windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0)
        windows, values = windows[WARM_UP:], self.values[WARM_UP:]
        median = np.nanmedian(windows, axis=-1)
        spread = 1.4826 * np.nanmedian(np.abs(windows - median[..., None]), axis=-1)
        floor = np.broadcast_to(FLOORS, median.shape).copy()
        floor[..., 2] = np.maximum(floor[..., 2], 0.1 * np.abs(median[..., 2]))
        scale = np.maximum(spread, floor)
        self.times, self.values = self.times[WARM_UP:], values
        return np.clip((values - median) / scale, -100, 100), median, scale

    def ticks(self) -> Iterator[list[dict[str, Any]]]:
        """The rows of each minute, as a collector sends them."""
        for t, moment in enumerate(self.times):
            yield [
                {
                    "series": name,
                    "ts": int(moment),
                    "cpu_percent": float(self.values[t, s, 0]),
                    **{f"{channel}_zscore": float(self.z[t, s, c]) for c, channel in enumerate(CHANNELS)},
                    "cpu_baseline": float(self.baseline[t, s, 0]),
                    "cpu_scale": float(self.scale[t, s, 0]),
                }
                for s, name in enumerate(SERIES)
            ]
