"""A first repository: a model by each of two recipes, evaluated on days that they have not seen, proved, written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training import candidate, manifest, repository
from training.candidate import Candidate
from training.config import Config
from training.data.days import Day
from training.features import Table, table
from training.model import Model
from training.scoring.evaluate import DayMetrics, evaluate
from training.scoring.served import Graph, Parity
from training.told import Told, nobody

CHAMPION, CHALLENGER = "monotone-logistic", "gradient-boosting"
"""Recipes of the first champion, version 1, and its challenger, version 2."""


class GateError(RuntimeError):
    """A model is not fit to be served: says which gate it failed."""


@dataclass(frozen=True)
class Trained:
    """A model that passed its gates, with what was measured."""

    model: Model
    version: repository.Version
    metrics: dict[str, DayMetrics]
    parity: Parity


@dataclass(frozen=True)
class Run:
    """All of a training run: tables by day, the champion and the challenger."""

    tables: dict[str, Table]
    champion: Trained
    challenger: Trained


def train(days: dict[str, Day], config: Config, at: str, told: Told = nobody) -> Run:
    """Trains champion and challenger on `config.train_day` and evaluates them on every day.

    Args:
        days: By name; must hold the training day and the hold-out days.
        config: All parameters.
        at: RFC 3339 time for the manifests.
        told: Told what happens next.

    Raises:
        GateError: A model fails parity, the range of its outputs or its golden samples.
        ValueError: A day has no events to learn from or to evaluate on.
    """
    tables = {}
    for name, day in days.items():
        told(f"features of {name}")
        tables[name] = table(day, config)
    trained = []
    for number, recipe in (("1", CHAMPION), ("2", CHALLENGER)):
        made = candidate.make(recipe, tables[config.train_day], config, told)
        told(f"{recipe}: evaluating")
        trained.append(_finish(number, made, days[config.train_day], tables=tables, config=config, at=at))
    return Run(tables, *trained)


def _finish(  # noqa: PLR0913 - one argument each for what goes into a manifest
    number: str, made: Candidate, day: Day, *, tables: dict[str, Table], config: Config, at: str
) -> Trained:
    """Runs a candidate's gates and writes its manifest (in memory)."""
    agreement = candidate.prove(made)
    if not agreement.holds:
        msg = f"version {number}: the graph differs from the model: {agreement}"
        raise GateError(msg)
    served = Graph(made.onnx)
    metrics = {d: evaluate(made.model.predict(t.features), t, config.episode_gap) for d, t in tables.items()}
    told = _metrics(metrics, agreement, config)
    document = candidate.document(made, [day], tables[config.train_day], metrics=told, config=config, at=at)
    document["version"] = number
    if wrong := wrong_golden(document, served):
        msg = f"version {number}: {wrong}"
        raise GateError(msg)
    return Trained(made.model, repository.Version(number, made.onnx, document), metrics, agreement)


def _metrics(metrics: dict[str, DayMetrics], agreement: Parity, config: Config) -> dict[str, Any]:
    """Metrics by day; `holdout` repeats the first hold-out day, whose name is a parameter."""
    roles = {config.train_day: "train"} | dict.fromkeys(config.holdout_days, "hold-out")
    days = {day: {"role": roles[day], **m.rounded()} for day, m in metrics.items()}
    return {"holdout": metrics[config.holdout_days[0]].rounded(), "days": days, "parity": agreement.rounded()}


def wrong_golden(document: Mapping[str, Any], served: Graph) -> str | None:
    """The first golden sample of a manifest that the graph does not answer within its tolerance, or None."""
    samples = document["golden"]["samples"]
    rows = manifest.rows_of([s["input"] for s in samples])
    for i, sample in enumerate(samples):
        answer = served.predict(rows[i : i + 1])
        for name, expected in sample["expected"].items():
            got = getattr(answer, name)[0]
            if not np.isclose(got, expected, rtol=sample["rtol"], atol=sample["atol"]):
                return f"golden sample {i}: {name} is {got}, expected {expected}"
    return None


def save(run: Run, models: Path, at: str, *, replace: bool) -> None:
    """Writes a run's versions into the model repository `models`; see `repository.write`."""
    repository.write(models, run.champion.version, run.challenger.version, at, replace=replace)
