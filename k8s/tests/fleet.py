"""Six made-up pods and nodes over a day: what a collector and an operator would tell of them, and rows for a server."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SERIES = ("shop/cart-6d4f", "shop/pay-58c9", "shop/ship-77b2", "bank/ledger-9f1c", "bank/report-4c2d", "node-1")
CHANNELS = ("cpu", "memory", "disk_io")
HOURS = 26
SHOWN = 180
"""Minutes of it that Prometheus knows."""
WINDOW = 360
WARM_UP = 15
FLOORS = (5.0, 1.0, 1.0)
TICK_BUCKETS = {"0.01": 0.1, "0.03": 0.7, "0.1": 0.95, "0.3": 1.0, "+Inf": 1.0}

Floats = NDArray[np.float64]


class Fleet:
    """Values and z-scores of each minute until now.

    Attributes:
        times: Unix seconds, [T].
        values: [T, series, channels], as the collector measures them.
        z, baseline, scale: The same shape, by training/features.py's definition.
        answers: What a server said of each minute: [T][series].
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
        self.answers: list[list[dict[str, Any]]] = []

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

    def gauges(self, t: int) -> Iterator[tuple[str, str, float]]:
        """Metric, labels and value of what a collector tells of a minute."""
        for s, name in enumerate(SERIES):
            for c, channel in enumerate(CHANNELS):
                labels = f'series="{name}",channel="{channel}"'
                yield "anomaly_zscore", labels, self.z[t, s, c]
                yield "anomaly_value", labels, self.values[t, s, c]
            answer = self.answers[t][s]
            yield "anomaly_score", f'series="{name}"', answer["score"]
            yield "anomaly_detected", f'series="{name}"', float(answer["anomaly"])
            yield "anomaly_forecast_percent", f'series="{name}"', answer["forecast"]
        alarms = sum(answer["anomaly"] for answer in self.answers[t])
        states = (("warm", len(SERIES)), ("warming", 1), ("frozen", alarms))
        yield from (("collector_series", f'state="{state}"', float(count)) for state, count in states)
        yield "remediation_anomalies", "", float(alarms)
        yield "remediation_leader", "", 1.0
        yield "remediation_budget_left", 'namespace="shop",policy="restart"', 3.0 - (alarms > 0)
        yield "remediation_candidates", 'namespace="shop",policy="restart",condition="anomalous"', float(alarms)

    def counters(self, at: float) -> Iterator[tuple[str, str, float]]:
        """The same of counters, at any time."""
        ticks = (at - self.times[-SHOWN]) / 60
        yield from (
            ("collector_ticks_total", f'outcome="{outcome}"', ticks * share)
            for outcome, share in (("ok", 0.97), ("prometheus", 0.02), ("server", 0.01), ("skipped", 0))
        )
        for channel in CHANNELS:
            yield "collector_queries_total", f'channel="{channel}",outcome="ok"', ticks
        yield "collector_predictions_total", 'outcome="ok"', ticks * len(SERIES)
        yield "collector_feedback_total", 'outcome="ok"', ticks * len(SERIES)
        yield "collector_rows_total", 'outcome="written"', ticks * len(SERIES)
        yield "collector_rows_total", 'outcome="lost"', 0.0
        yield "collector_series_refused_total", "", 0.0
        for le, share in TICK_BUCKETS.items():
            yield "collector_tick_duration_seconds_bucket", f'le="{le}"', ticks * share
        yield "collector_tick_duration_seconds_count", "", ticks
        yield "collector_tick_duration_seconds_sum", "", ticks * 0.03
        yield (
            "remediation_actions_total",
            'action="evict",outcome="done"',
            float(at > self.times[-53]) + float(at > self.times[-45]),
        )
        yield "remediation_actions_total", 'action="evict",outcome="cool_down"', float(at > self.times[-50])
        yield "collector_last_tick_timestamp_seconds", "", at // 60 * 60
        yield "collector_build_info", 'version="0"', 1.0
        yield "remediation_build_info", 'version="0"', 1.0

    def page(self) -> str:
        """What a scrape gets now."""
        now = [*self.gauges(-1), *self.counters(time.time())]
        return "".join(f"{metric}{{{labels}}} {value}\n" for metric, labels, value in now)

    def history(self, target: str) -> str:
        """The last hours in OpenMetrics, with the labels that a scrape adds."""
        lines: dict[str, dict[str, list[str]]] = {}
        for t in range(-SHOWN, 0):
            at = int(self.times[t])
            for metric, labels, value in (*self.gauges(t), *self.counters(at)):
                name = f"{metric}{{{labels}{',' * bool(labels)}{target}}}"
                lines.setdefault(metric, {}).setdefault(name, []).append(f"{name} {value} {at}\n")
        text = []
        for metric, series in lines.items():
            text += [f"# TYPE {metric} unknown\n", *("".join(samples) for samples in series.values())]
        return "".join(text) + "# EOF\n"
