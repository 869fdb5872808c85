"""How good a model is on a day: samples, events, alert episodes, forecast. Never the point-adjusted F1, which flatters.

A fault that falls into the warm-up counts as missed, because the served pipeline would miss it too.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from training.config import SAMPLES_PER_DAY
from training.features import Table
from training.model import Outputs, Rows, decision_rows, forecast_rows
from training.scoring.vus import vus_pr

CALIBRATION_BINS = 15
VUS_BUFFER = 10
"""Rows: faults last 3 to 5 minutes, and labels are a minute off at most."""


@dataclass(frozen=True)
class DayMetrics:
    """Metrics of one model on one day.

    Attributes:
        rows: Samples past the warm-up.
        pod_days: The same in days of one pod.
        events: CPU faults.
        auc_pr: Average precision over judged samples.
        vus_pr: Volume under the precision-recall surface with buffers up to ten rows, over all rows past the warm-up.
        base_rate: Share of anomalous samples: the AUC-PR of chance.
        event_recall: Share of events with at least one alarm on a raised sample.
        false_samples_per_pod_day: Alarms on normal samples.
        false_episodes_per_pod_day: The same after alarms close in time are joined.
        median_delay_minutes: From an event's first raised sample to its first alarm, over detected events.
        calibration_error: Mean |score - observed rate| over equal-mass bins (expected calibration error).
        forecast_mae: Mean absolute error, percentage points.
        forecast_mae_naive: The same for "it stays as it is".
        forecast_mae_baseline: The same for "it returns to its rolling median".
    """

    rows: int
    pod_days: float
    events: int
    auc_pr: float
    vus_pr: float
    base_rate: float
    event_recall: float
    false_samples_per_pod_day: float
    false_episodes_per_pod_day: float
    median_delay_minutes: float | None
    calibration_error: float
    forecast_mae: float
    forecast_mae_naive: float
    forecast_mae_baseline: float

    def rounded(self) -> dict[str, float | int | None]:
        """For a manifest: four decimals."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in vars(self).items()}


def evaluate(outputs: Outputs, table: Table, episode_gap: int) -> DayMetrics:
    """Metrics of a model on a day's table.

    Args:
        outputs: The model's answers to all N rows of the table.
        table: Of one day.
        episode_gap: Alarms of a series at most this many seconds apart are one episode.

    Raises:
        ValueError: The day has no event, no normal sample or no known future: its metrics would mean nothing.
    """
    alarm = outputs.anomaly & table.warm
    judged, known = decision_rows(table), forecast_rows(table)
    events = np.unique(table.event[table.anomalous])
    if not len(events) or not known.any() or table.anomalous[judged].all():
        msg = "evaluation needs CPU events, normal samples and samples one horizon later"
        raise ValueError(msg)
    delays = [d for d in (_delay(table, alarm, int(e)) for e in events) if d is not None]
    false = alarm & judged & ~table.anomalous
    pod_days = float(table.warm.sum()) / SAMPLES_PER_DAY
    error = np.abs(outputs.forecast - table.target)[known]
    naive = np.abs(table.cpu - table.target)[known]
    return DayMetrics(
        rows=int(table.warm.sum()),
        pod_days=pod_days,
        events=len(events),
        auc_pr=float(average_precision_score(table.anomalous[judged], outputs.score[judged])),
        vus_pr=_volume(outputs, table),
        base_rate=float(table.anomalous[judged].mean()),
        event_recall=len(delays) / len(events),
        false_samples_per_pod_day=int(false.sum()) / pod_days,
        false_episodes_per_pod_day=count_episodes(table, false, episode_gap) / pod_days,
        median_delay_minutes=float(np.median(delays)) if delays else None,
        calibration_error=_calibration_error(outputs.score[judged], table.anomalous[judged]),
        forecast_mae=float(error.mean()),
        forecast_mae_naive=float(naive.mean()),
        forecast_mae_baseline=float(np.abs(table.features[:, 3] - table.target)[known].mean()),
    )


def _volume(outputs: Outputs, table: Table) -> float:
    """VUS-PR over the rows past the warm-up, in the order of time."""
    scores, labels = [], []
    for series in np.unique(table.series):
        own = np.flatnonzero((table.series == series) & table.warm)
        own = own[np.argsort(table.time[own], kind="stable")]
        scores.append(outputs.score[own].astype(np.float64))
        labels.append(table.anomalous[own])
    return vus_pr(scores, labels, buffer=VUS_BUFFER, thresholds=None) if any(one.any() for one in labels) else 0.0


def _delay(table: Table, alarm: NDArray[np.bool_], event: int) -> float | None:
    """Minutes from an event's first raised sample to its first alarm; None if there is none."""
    own = table.event == event
    if not (own & alarm).any():
        return None
    return float(table.time[own & alarm].min() - table.time[own].min()) / 60


def count_episodes(table: Table, alarm: NDArray[np.bool_], gap: int) -> int:
    """Alert episodes among the alarms, bool [N]: an alarm more than `gap` seconds after the last one starts another."""
    total = 0
    for series in np.unique(table.series):
        times = table.time[alarm & (table.series == series)]
        total += int(len(times) > 0) + int((np.diff(times) > gap).sum())
    return total


def _calibration_error(score: Rows, anomalous: NDArray[np.bool_]) -> float:
    """Expected calibration error over equal-mass bins."""
    order = np.argsort(score, kind="stable")
    bins = zip(np.array_split(score[order], CALIBRATION_BINS), np.array_split(anomalous[order], CALIBRATION_BINS))
    return float(sum(abs(s.mean() - a.mean()) * len(s) for s, a in bins) / len(score))
