"""Three pictures of a run: precision and recall, a pod's score with its faults, a pod's forecast against what came."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from training.config import Config
from training.data.days import Day
from training.features import Table
from training.model import decision_rows, forecast_rows
from training.train import Run

DPI = 100
SIZE = (8.0, 3.2)
COLOURS = {"champion": "#0b6e99", "challenger": "#c2571a"}
FAULT_COLOUR = "#d9485f"


def draw(run: Run, days: dict[str, Day], config: Config, folder: Path) -> list[Path]:
    """Writes the pictures of the first hold-out day. Returns their paths.

    Args:
        run: What was trained.
        days: The days it was trained on.
        config: Names the hold-out day.
        folder: Where to, made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    day = config.holdout_days[0]
    table = run.tables[day]
    pods = {"score": _most_faults(table), "forecast": _most_cpu(table)}
    drawn = []
    for name, draw_one in (("precision-recall", _curve), ("score", _score), ("forecast", _forecast)):
        figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
        draw_one(axes, run, table, days[day], pods.get(name, 0))
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize=8)
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=DPI, metadata={"Software": None})
        plt.close(figure)
        drawn.append(path)
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


def _curve(axes: Axes, run: Run, table: Table, day: Day, _pod: int) -> None:
    rows = decision_rows(table)
    for name, trained in (("champion", run.champion), ("challenger", run.challenger)):
        scores = trained.model.predict(table.features[rows]).score
        precision, recall, _ = precision_recall_curve(table.anomalous[rows], scores)
        label = f"{name}, AUC-PR {trained.metrics[day.name].auc_pr:.3f}"
        axes.step(recall, precision, where="post", color=COLOURS[name], label=label)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03), title=f"Hold-out day {day.name}")


def _score(axes: Axes, run: Run, table: Table, day: Day, pod: int) -> None:
    rows = (table.series == pod) & table.warm
    for name, trained in (("champion", run.champion), ("challenger", run.challenger)):
        scores = trained.model.predict(table.features[rows]).score
        axes.plot(_hours(table, rows), scores, color=COLOURS[name], lw=1, label=f"{name} score")
    axes.axhline(0.5, color="grey", lw=0.8, ls="--", label="threshold")
    _shade(axes, table, rows)
    hours = _hours(table, rows & table.anomalous)
    around = (hours.min() - 1, hours.max() + 1) if len(hours) else None
    axes.set(
        xlabel="hours",
        ylabel="score",
        xlim=around,
        ylim=(-0.02, 1.02),
        title=f"{day.series[pod].name}; CPU faults shaded",
    )


def _forecast(axes: Axes, run: Run, table: Table, day: Day, pod: int) -> None:
    rows = (table.series == pod) & forecast_rows(table)
    axes.plot(_hours(table, rows), table.target[rows], color="grey", lw=0.8, label="actual, 5 min later")
    for name, trained in (("champion", run.champion), ("challenger", run.challenger)):
        forecast = trained.model.predict(table.features[rows]).forecast
        axes.plot(_hours(table, rows), forecast, color=COLOURS[name], lw=1, label=f"{name} forecast")
    axes.set(xlabel="hours", ylabel="CPU percent", title=day.series[pod].name)
