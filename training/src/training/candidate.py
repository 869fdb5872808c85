"""A model on its way into a repository: fitted by a recipe, calibrated, exported, with its proofs and its manifest."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from threadpoolctl import threadpool_limits

from training import manifest
from training.config import Config
from training.data.days import Day
from training.export.graph import to_bytes
from training.features import Table
from training.model import Model, Outputs, Rows, answers_of, calibrate, held_out
from training.recipes import RECIPES
from training.scoring.evaluate import DayMetrics, evaluate
from training.scoring.served import INVARIANCE_ROWS, Graph, Parity, hard_rows, is_batch_invariant, parity
from training.told import Told, nobody


@dataclass(frozen=True)
class Candidate:
    """A model and its graph.

    Attributes:
        recipe: Its name in `RECIPES`.
        model: Fitted and calibrated.
        onnx: The graph's file.
        held_out: Metrics on the training rows, each answered by a model that had not seen its series.
        rows: float32 [M, 5], rows that a graph must survive.
        expected: The model's answers to them.
    """

    recipe: str
    model: Model
    onnx: bytes
    held_out: DayMetrics
    rows: Rows
    expected: Outputs


@threadpool_limits.wrap(limits=1)
def fit(recipe: str, table: Table, config: Config, told: Told = nobody) -> tuple[Model, Outputs]:
    """Fits a recipe and, unless it keeps its own threshold, calibrates it on series that it has not seen.

    On one thread: sums in another order would change the last bits of a model.

    Args:
        recipe: A name in `RECIPES`.
        table: The training rows of all series.
        config: All parameters.
        told: Told what happens next.

    Returns:
        The model, and answers to the table's rows by models that had not seen their series.

    Raises:
        ValueError: No such recipe, or the table does not hold what it needs, such as anomalous rows.
    """
    if recipe not in RECIPES:
        msg = f"recipe {recipe!r} is not known; take one of {', '.join(RECIPES)}"
        raise ValueError(msg)
    kind = RECIPES[recipe]
    told(f"{recipe}: fitting")
    model = kind.fit(table, config)
    told(f"{recipe}: answering for series that it has not seen")
    raw, forecast = held_out(kind, table, config)
    if not kind.keeps_threshold:
        model = replace(model, calibration=calibrate(raw, table, config.model))
    return model, answers_of(raw, model.calibration, forecast)


def make(recipe: str, table: Table, config: Config, told: Told = nobody) -> Candidate:
    """Fits, calibrates, evaluates on series that it has not seen, and exports; see `fit`.

    Raises:
        ValueError: As `fit`, and where the table has no anomalous rows or no normal ones to evaluate on.
    """
    model, unseen = fit(recipe, table, config, told)
    metrics = evaluate(unseen, table, config.episode_gap)
    told(f"{recipe}: exporting")
    rows = hard_rows(table, config.seed)
    return Candidate(recipe, model, to_bytes(model.to_onnx(manifest.NAME)), metrics, rows, model.predict(rows))


def prove(candidate: Candidate) -> Parity:
    """How far the graph is from the model on the candidate's hard rows."""
    return parity(candidate.expected, Graph(candidate.onnx).predict(candidate.rows))


def document(  # noqa: PLR0913 - one argument each for what goes into a manifest
    candidate: Candidate, days: list[Day], table: Table, *, metrics: Mapping[str, Any], config: Config, at: str
) -> dict[str, Any]:
    """The manifest of a candidate as version 1; whoever gives it a number changes that.

    Args:
        candidate: The model.
        days: What it was trained on.
        table: The rows of these days.
        metrics: For `metrics`.
        config: All parameters.
        at: RFC 3339 time.

    Raises:
        jsonschema.ValidationError: The manifest would be refused.
    """
    kind = RECIPES[candidate.recipe]
    found = {
        "schema_version": "1.0",
        "name": manifest.NAME,
        "version": "1",
        "created_at": at,
        "artifact": manifest.artifact(candidate.onnx),
        "signature": manifest.signature(candidate.model.limits, table),
        "outputs_semantics": manifest.semantics(config),
        "golden": {
            "runtime": manifest.runtime(),
            "batch_invariant": is_batch_invariant(Graph(candidate.onnx), candidate.rows[:INVARIANCE_ROWS]),
            "samples": manifest.golden_samples(candidate.model),
        },
        "reference": manifest.reference(candidate.model, table, config.reference_bins),
        "training": manifest.provenance(days, config),
        "metrics": dict(metrics),
        "limits": {
            "max_batch": config.max_batch_trees if kind.has_trees else config.max_batch,
            "p99_latency_us_batch1": config.p99_latency_us_batch1,
            "max_bytes": manifest.MAX_BYTES,
        },
        "parent": None,
        "tags": {"recipe": candidate.recipe},
    }
    manifest.check(found)
    return found
