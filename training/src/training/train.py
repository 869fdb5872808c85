"""A training run from top to bottom: features, two models, calibration, evaluation, gates, manifests, repository."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from training import manifest, repository
from training.config import Config
from training.data.days import Day
from training.export.graph import to_bytes
from training.features import Table, table
from training.model import calibrate, held_out_raw
from training.recipes.boosting import Boosting
from training.recipes.logistic import Logistic
from training.scoring.evaluate import DayMetrics, evaluate
from training.scoring.served import Parity, hard_rows, is_batch_invariant, parity, session

INVARIANCE_ROWS = 2_000
RECIPES = {"1": "monotone-logistic", "2": "gradient-boosting"}


class GateError(RuntimeError):
    """A model is not fit to be served: says which gate it failed."""


@dataclass(frozen=True)
class Trained:
    """A model that passed its gates, with what was measured."""

    model: Logistic | Boosting
    version: repository.Version
    metrics: dict[str, DayMetrics]
    parity: Parity


@dataclass(frozen=True)
class Run:
    """All of a training run: tables by day, the champion and the challenger."""

    tables: dict[str, Table]
    champion: Trained
    challenger: Trained


@threadpool_limits.wrap(limits=1)
def train(days: dict[str, Day], config: Config, at: str, progress: Callable[[str], None] = lambda _: None) -> Run:
    """Trains champion and challenger on `config.train_day` and evaluates them on every day.

    On one thread: it takes seconds, and sums in another order would change the last bits of the models.

    Args:
        days: By name; must hold the training day and the hold-out days.
        config: All parameters.
        at: RFC 3339 time for the manifests.
        progress: Told what happens next.

    Raises:
        GateError: A model fails parity, the range of its outputs or its golden samples.
        ValueError: A day has no events to learn from or to evaluate on.
    """
    tables = {}
    for name, day in days.items():
        progress(f"features of {name}")
        tables[name] = table(day, config)
    trained = []
    for number, kind in (("1", Logistic), ("2", Boosting)):
        progress(f"fitting version {number}, {RECIPES[number]}")
        model = kind.fit(tables[config.train_day], config)
        progress(f"calibrating version {number} on pods that it has not seen")
        raw = held_out_raw(kind, tables[config.train_day], config)
        model = replace(model, calibration=calibrate(raw, tables[config.train_day], config.model))
        progress(f"evaluating version {number}")
        trained.append(_finish(number, model, days[config.train_day], tables=tables, config=config, at=at))
    return Run(tables, *trained)


def _finish(  # noqa: PLR0913 - one argument each for what goes into a manifest
    number: str, model: Logistic | Boosting, day: Day, *, tables: dict[str, Table], config: Config, at: str
) -> Trained:
    """Exports a model, runs its gates and writes its manifest (in memory)."""
    content = to_bytes(model.to_onnx(manifest.NAME))
    served = session(content)
    train_table = tables[config.train_day]
    rows = hard_rows(train_table, config.seed)
    agreement = parity(model, served, rows)
    if not agreement.holds:
        msg = f"version {number}: the graph differs from the model: {agreement}"
        raise GateError(msg)
    samples = manifest.golden_samples(model)
    _check_golden(number, samples, served)
    metrics = {name: evaluate(model, one, config.episode_gap) for name, one in tables.items()}
    document = {
        "schema_version": "1.0",
        "name": manifest.NAME,
        "version": number,
        "created_at": at,
        "artifact": manifest.artifact(content),
        "signature": manifest.signature(model.limits, train_table),
        "outputs_semantics": manifest.semantics(config),
        "golden": {
            "runtime": manifest.runtime(),
            "batch_invariant": is_batch_invariant(served, rows[:INVARIANCE_ROWS]),
            "samples": samples,
        },
        "reference": manifest.reference(model, train_table, config.reference_bins),
        "training": manifest.provenance(day, config),
        "metrics": _metrics(metrics, agreement, config),
        "limits": {
            "max_batch": config.champion_max_batch if number == "1" else config.challenger_max_batch,
            "p99_latency_us_batch1": config.p99_latency_us_batch1,
            "max_bytes": manifest.MAX_BYTES,
        },
        "parent": None,
        "tags": {"recipe": RECIPES[number]},
    }
    manifest.check(document)
    return Trained(model, repository.Version(number, content, document), metrics, agreement)


def _metrics(metrics: dict[str, DayMetrics], agreement: Parity, config: Config) -> dict[str, Any]:
    """Metrics by day; `holdout` repeats the first hold-out day, whose name is a parameter."""
    roles = {config.train_day: "train"} | dict.fromkeys(config.holdout_days, "hold-out")
    days = {day: {"role": roles[day], **m.rounded()} for day, m in metrics.items()}
    parity_numbers = {
        "rows": agreement.rows,
        "decisions_changed": agreement.decisions_changed,
        "score_max_difference": float(f"{agreement.score:.2g}"),
        "forecast_max_difference": float(f"{agreement.forecast:.2g}"),
    }
    return {"holdout": metrics[config.holdout_days[0]].rounded(), "days": days, "parity": parity_numbers}


def _check_golden(number: str, samples: list[dict[str, Any]], served: Any) -> None:  # noqa: ANN401 - untyped library
    """Runs the golden samples as the server will.

    Raises:
        GateError: An answer is outside its tolerance.
    """
    rows = manifest.rows_of([s["input"] for s in samples])
    for i, sample in enumerate(samples):
        answer = dict(zip(sample["expected"], served.run(list(sample["expected"]), {"features": rows[i : i + 1]})))
        for name, expected in sample["expected"].items():
            if not np.isclose(answer[name][0], expected, rtol=sample["rtol"], atol=sample["atol"]):
                msg = f"version {number}: golden sample {i}: {name} is {answer[name][0]}, expected {expected}"
                raise GateError(msg)


def save(run: Run, models: Path, at: str, *, replace: bool) -> None:
    """Writes a run's versions into the model repository `models`; see `repository.write`."""
    repository.write(models, run.champion.version, run.challenger.version, at, replace=replace)
