"""Pictures of how models answer: precision and recall, a pod's score with its faults, reliability, forecasts."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from training.data.days import Day
from training.features import Table
from training.model import Outputs, decision_rows, forecast_rows
from training.scoring.evaluate import DayMetrics

DPI = 100
SIZE = (8.0, 3.2)
COLOURS = ("#0b6e99", "#c2571a", "#3f7d3b", "#7b4fa3", "#8a8a33", "#444444")
FAULT_COLOUR = "#d9485f"
RELIABILITY_BINS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Answered:
    """A model's answers to the rows of a day, and what they are worth."""

    outputs: Outputs
    metrics: DayMetrics


def draw(answers: Mapping[str, Answered], table: Table, day: Day) -> dict[str, bytes]:
    """Draws a day.

    Args:
        answers: By the model's name, in the order of the legend.
        table: Of the day.
        day: For the names of its pods.

    Returns:
        PNG files by name: `precision-recall.png`, `score.png`, `reliability.png`, `forecast.png`.
    """
    pods = {"score": _most_faults(table), "forecast": _most_cpu(table)}
    drawn = {}
    kinds = {"precision-recall": _curve, "score": _score, "reliability": _reliability, "forecast": _forecast}
    for name, draw_one in kinds.items():
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        draw_one(axes, answers, table, day, pods.get(name, 0))
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=8)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=DPI, metadata={"Software": None})
        plt.close(figure)
        drawn[f"{name}.png"] = out.getvalue()
    return drawn


def _most_faults(table: Table) -> int:
    """The series with the most events past the warm-up."""
    series = table.series[table.anomalous & table.warm]
    return int(np.bincount(series).argmax()) if len(series) else 0


def _most_cpu(table: Table) -> int:
    """The series with the highest median CPU."""
    return int(np.argmax([np.median(table.cpu[table.series == s]) for s in np.unique(table.series)]))


def _hours(table: Table, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return (table.time[rows] - table.time.min()) / 3600


def _shade(axes: Axes, table: Table, rows: NDArray[np.bool_]) -> None:
    """Marks the samples that faults raised."""
    for event in np.unique(table.event[rows & table.anomalous]):
        hours = _hours(table, rows & (table.event == event))
        axes.axvspan(hours.min(), hours.max() + 1 / 60, color=FAULT_COLOUR, alpha=0.35, lw=0)


def _curve(axes: Axes, answers: Mapping[str, Answered], table: Table, day: Day, _pod: int) -> None:
    rows = decision_rows(table)
    for (name, one), colour in zip(answers.items(), COLOURS):
        precision, recall, _ = precision_recall_curve(table.anomalous[rows], one.outputs.score[rows])
        label = f"{name}, AUC-PR {one.metrics.auc_pr:.3f}"
        axes.step(recall, precision, where="post", color=colour, label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03), title=f"Hold-out day {day.name}")


def _score(axes: Axes, answers: Mapping[str, Answered], table: Table, day: Day, pod: int) -> None:
    rows = (table.series == pod) & table.warm
    for (name, one), colour in zip(answers.items(), COLOURS):
        axes.plot(_hours(table, rows), one.outputs.score[rows], color=colour, lw=1, label=f"{name} score")
    axes.axhline(0.5, color="grey", lw=0.8, ls="--", label="threshold")
    _shade(axes, table, rows)
    hours = _hours(table, rows & table.anomalous)
    around = (hours.min() - 1, hours.max() + 1) if len(hours) else None
    title = f"{day.series[pod].name}; CPU faults shaded"
    axes.set(xlabel="hours", ylabel="score", xlim=around, ylim=(-0.02, 1.02), title=title)


def _reliability(axes: Axes, answers: Mapping[str, Answered], table: Table, day: Day, _pod: int) -> None:
    """How often rows of a score were anomalous, and of how many: on the diagonal, a score is a probability."""
    rows = decision_rows(table)
    for (name, one), colour in zip(answers.items(), COLOURS):
        score, anomalous = one.outputs.score[rows], table.anomalous[rows]
        where = np.clip(np.digitize(score, RELIABILITY_BINS) - 1, 0, len(RELIABILITY_BINS) - 2)
        count = np.bincount(where, minlength=len(RELIABILITY_BINS) - 1)
        some = count > 0
        mean = np.bincount(where, score, len(count))[some] / count[some]
        rate = np.bincount(where, anomalous, len(count))[some] / count[some]
        label = f"{name}, ECE {one.metrics.calibration_error:.4f}"
        axes.plot(mean, rate, "o-", color=colour, lw=1, ms=4, label=label)
        for x, y, rows_there in zip(mean, rate, count[some]):
            axes.annotate(f"{rows_there:,}", (x, y), (3, 4), textcoords="offset points", fontsize=7, color=colour)
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8, ls="--", label="calibrated")
    axes.set(xlabel="score", ylabel="share that was anomalous", title=f"Reliability on {day.name}")


def _forecast(axes: Axes, answers: Mapping[str, Answered], table: Table, day: Day, pod: int) -> None:
    rows = (table.series == pod) & forecast_rows(table)
    axes.plot(_hours(table, rows), table.target[rows], color="grey", lw=0.8, label="actual, 5 min later")
    for (name, one), colour in zip(answers.items(), COLOURS):
        axes.plot(_hours(table, rows), one.outputs.forecast[rows], color=colour, lw=1, label=f"{name} forecast")
    axes.set(xlabel="hours", ylabel="CPU percent", title=day.series[pod].name)
