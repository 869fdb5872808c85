"""Comparisons on days of data: all recipes, and the ways to learn what is normal. In markdown."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from training.baseline import EwmaBaseline, MedianBaseline, stream
from training.candidate import fit
from training.config import Config
from training.data.days import Day, Series
from training.features import table
from training.model import Model
from training.recipes import RECIPES
from training.report import markdown, metrics
from training.scoring.evaluate import DayMetrics, evaluate

BASELINES = {"median/MAD": MedianBaseline, "EWMA": EwmaBaseline}
RECIPE = "monotone-logistic"
STEP_BEFORE, STEP_AFTER = 600, 900
"""Minutes of the made series before and after CPU steps up for good ..."""
STEP_PERCENT = 60.0
"""... by so many points."""


def recipes(days: dict[str, Day], config: Config) -> str:
    """Fits every recipe on the training day and evaluates it on every day.

    Raises:
        ValueError: A day has no events to learn from or to evaluate on.
    """
    tables = {name: table(day, config) for name, day in days.items()}
    found: dict[str, dict[str, DayMetrics]] = {}
    for recipe in RECIPES:
        model = fit(recipe, tables[config.train_day], config)[0]
        found[recipe] = {d: evaluate(model.predict(t.features), t, config.episode_gap) for d, t in tables.items()}
    return metrics(found)


def baselines(days: dict[str, Day], config: Config) -> str:
    """Evaluates the logistic with each baseline, learning always and frozen while the model alarms.

    The model is fitted on features that were never frozen; frozen ones come from a run in which its own decisions, one
    sample after the other, freeze the baselines of their series. A second table is about a made series: for how many
    minutes the model alarms after CPU has stepped up by 60 points for good.

    Raises:
        ValueError: A day has no events to learn from or to evaluate on.
    """
    found: dict[tuple[str, str], tuple[dict[str, DayMetrics], int]] = {}
    for name, kind in BASELINES.items():

        def always(series: Series, kind: type = kind) -> NDArray[np.float32]:
            return stream(series, config.features, kind)

        train = table(_with_features(days[config.train_day], always), config)
        model = fit(RECIPE, train, config)[0]

        def frozen(series: Series, kind: type = kind, model: Model = model) -> NDArray[np.float32]:
            return stream(series, config.features, kind, lambda row: bool(model.predict(row).anomaly[0]))

        for how, features in (("always", always), ("not in alert", frozen)):
            by_day = {}
            for day_name, day in days.items():
                rows = table(_with_features(day, features), config)
                by_day[day_name] = evaluate(model.predict(rows.features), rows, config.episode_gap)
            alarms = model.predict(features(_step(config.seed))).anomaly
            found[name, how] = by_day, int(alarms[STEP_BEFORE:].sum())
    body = [
        [f"{day}, {name}, {how}", *_cells(by_day[day])] for day in days for (name, how), (by_day, _) in found.items()
    ]
    head = ["day, baseline, learns", "recall", "AUC-PR", "false samples", "false episodes", "forecast MAE"]
    steps = [[f"{name}, {how}", str(minutes)] for (name, how), (_, minutes) in found.items()]
    return markdown(head, body) + "\n\n" + markdown(["baseline, learns", "minutes in alarm after a step"], steps)


def _cells(m: DayMetrics) -> list[str]:
    return [
        f"{m.event_recall:.2f}",
        f"{m.auc_pr:.3f}",
        f"{m.false_samples_per_pod_day:.2f}",
        f"{m.false_episodes_per_pod_day:.2f}",
        f"{m.forecast_mae:.3f}",
    ]


def _with_features(day: Day, features: Callable[[Series], NDArray[np.float32]]) -> Day:
    """The day as if a collector had computed its features."""
    return replace(day, series=[replace(one, features=features(one)) for one in day.series])


def _step(seed: int) -> Series:
    """A quiet pod whose CPU steps up and stays there, a sample a minute."""
    rng = np.random.default_rng(seed)
    count = STEP_BEFORE + STEP_AFTER
    values = np.column_stack([rng.normal(15, 2, count), rng.normal(40, 0.5, count), rng.normal(200, 10, count)])
    values[STEP_BEFORE:, 0] += STEP_PERCENT
    return Series("step", 60 * np.arange(count, dtype=np.int64), values)
