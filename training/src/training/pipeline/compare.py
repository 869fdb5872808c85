"""Evaluate: every candidate and the champion on the same days, which no candidate has seen, and which one goes on."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from training import onnxd
from training.config import FEATURES, OUTPUTS, Config
from training.data.days import Day
from training.data.rows import replayed
from training.errors import PipelineError
from training.features import Table, join
from training.model import Outputs, decision_rows, forecast_rows
from training.pipeline import repository
from training.pipeline.learn import config_of, days_of, tables_of
from training.pipeline.settings import Settings
from training.pipeline.work import Run, once, tracking_of
from training.plots import Answered, draw
from training.report import metrics as metrics_table
from training.scoring.bootstrap import (
    Blocks,
    Interval,
    Metric,
    average_precision,
    difference,
    event_recall,
    interval,
    mean_absolute_error,
)
from training.scoring.evaluate import DayMetrics
from training.scoring.evaluate import evaluate as metrics_of
from training.scoring.served import Graph
from training.told import Told, nobody

BLOCK = 6 * 3600
"""Seconds of a bootstrap block: rows of a series are alike for as long as a feature window."""
ROUNDS = 300
"""Drawings: the ends of a 90 % interval then vary by some hundredths of its width."""
ALL = "all"
"""In the place of a day's name: all test days together."""


@dataclass(frozen=True)
class Compared:
    """One model on the test days.

    Attributes:
        name: A recipe, or `champion`.
        outputs: By day, the answers to all its rows.
        metrics: By day, and over all days.
    """

    name: str
    outputs: dict[str, Outputs]
    metrics: dict[str, DayMetrics]

    @property
    def together(self) -> DayMetrics:
        """Over all days."""
        return self.metrics[ALL]


def compare(name: str, graph: Graph, tables: dict[str, Table], config: Config) -> Compared:
    """A graph's answers to all test days, and what they are worth."""
    outputs = {day: graph.predict(table.features) for day, table in tables.items()}
    metrics = {day: metrics_of(outputs[day], table, config.episode_gap) for day, table in tables.items()}
    metrics[ALL] = metrics_of(stack(outputs), join(list(tables.values())), config.episode_gap)
    return Compared(name, outputs, metrics)


def stack(outputs: dict[str, Outputs]) -> Outputs:
    """The answers of all days, one after the other."""
    return Outputs(*(np.concatenate([getattr(o, name) for o in outputs.values()]) for name in OUTPUTS))


def graph_of(found: repository.Stored | None) -> Graph | None:
    """A version of the repository as a graph; None when there is none, or when it takes other inputs than ours."""
    if found is None:
        return None
    try:
        graph = Graph(found.onnx)
        graph.predict(np.zeros((1, len(FEATURES)), np.float32))
    except (RuntimeError, ValueError, KeyError):
        return None
    return graph


def chosen(held_out: dict[str, dict[str, Any]]) -> str:
    """The recipe that goes on: the greatest sum of AUC-PR and the forecast's gain over "it stays as it is".

    By the answers for series that a model had not seen, on the training days: the test days stay untouched until the
    choice is made.
    """

    def worth(recipe: str) -> float:
        found = held_out[recipe]["held_out"]
        return found["auc_pr"] + 1 - found["forecast_mae"] / found["forecast_mae_naive"]

    return max(sorted(held_out), key=worth)


@once
def evaluate(settings: Settings, key: str, told: Told = nobody) -> dict[str, Any]:
    """Measures all candidates and the champion, chooses one, and replays the test days through the server's program.

    Returns:
        `run`, `recipe`, `metrics` of the chosen one, `champion` metrics or None, `differences` with intervals, `replay`
        (what the verdict would be).

    Raises:
        PipelineError: The test days hold no fault that shows, or nothing normal.
    """
    run, config = Run(settings, key), config_of(settings)
    recipes = run.needs("train")["recipes"]
    recipe = chosen(recipes)
    days = days_of(run, "test")
    tables = tables_of(days, config)
    compared = {}
    graphs = {name: Graph(run.read(f"{name}/model.onnx")) for name in recipes}
    stored = repository.champion(settings)
    if (champion := graph_of(stored)) is not None:
        graphs["champion"] = champion
    for name, graph in graphs.items():
        told(f"{name}: test days")
        try:
            compared[name] = compare(name, graph, tables, config)
        except ValueError as error:
            msg = f"the test days cannot tell models apart: {error}"
            raise PipelineError(msg) from error
    told("how sure the differences are")
    differences = differences_of(compared[recipe], compared.get("champion"), tables, config)
    shown = list(tables) if len(tables) == 1 else [*tables, ALL]
    table = metrics_table({name: {day: one.metrics[day] for day in shown} for name, one in compared.items()})
    told("plots")
    first = days[0]
    answered = {name: Answered(one.outputs[first.name], one.metrics[first.name]) for name, one in compared.items()}
    plots = draw(answered, tables[first.name], first)
    for name, content in plots.items():
        run.files.write(f"plots/{name}", content)
    told("replaying the test days through onnxd")
    verdict = replay(settings, stored, run, recipe, days) if champion is not None else None
    text = report(recipe, recipes, table, differences, verdict)
    run.files.write("evaluation.md", text.encode())
    metrics = {f"{name}.{k}": v for name, one in compared.items() for k, v in one.together.rounded().items()}
    files = {f"plots/{name}": content for name, content in plots.items()} | {"evaluation.md": text.encode()}
    tracking_of(settings).log(key, metrics, files)
    return {
        "run": key,
        "recipe": recipe,
        "metrics": {day: m.rounded() for day, m in compared[recipe].metrics.items()},
        "champion": compared["champion"].together.rounded() if champion is not None else None,
        "differences": {name: vars(one) for name, one in differences.items()},
        "replay": verdict,
    }


def differences_of(
    candidate: Compared, champion: Compared | None, tables: dict[str, Table], config: Config
) -> dict[str, Interval]:
    """Candidate less champion, with 90 % intervals: `auc_pr`, `event_recall`, `forecast_mae` in percentage points."""
    if champion is None:
        return {}
    table = join(list(tables.values()))
    judged, known = decision_rows(table), forecast_rows(table)
    metrics: dict[str, list[Metric]] = {"auc_pr": [], "event_recall": [], "forecast_mae": []}
    for one in (candidate, champion):
        outputs = stack(one.outputs)
        alarm = outputs.anomaly[judged]
        metrics["auc_pr"].append(average_precision(table.anomalous[judged], outputs.score[judged].astype(np.float64)))
        metrics["event_recall"].append(event_recall(table.event[judged], alarm))
        metrics["forecast_mae"].append(mean_absolute_error(table.target[known], outputs.forecast[known]))
    found = {}
    for name, (ours, theirs) in metrics.items():
        rows = known if name == "forecast_mae" else judged
        blocks = Blocks(table.series[rows], table.time[rows], BLOCK)
        found[name] = interval(difference(ours, theirs), blocks, rounds=ROUNDS, seed=config.seed)
    return found


def replay(settings: Settings, champion: repository.Stored, run: Run, recipe: str, days: list[Day]) -> dict[str, Any]:
    """What the servers' verdict would be after the test days, by `onnxd replay`."""
    with tempfile.TemporaryDirectory() as folder:
        theirs = onnxd.place(Path(folder) / "champion", champion.onnx, champion.manifest_bytes)
        model, manifest = (run.read(f"{recipe}/{name}") for name in ("model.onnx", "manifest.json"))
        ours = onnxd.place(Path(folder) / "candidate", model, manifest)
        rows = Path(folder) / "rows.parquet"
        parquet.write_table(replayed(days, config_of(settings)), rows)
        words = ["replay", rows, "--champion-file", theirs, "--challenger-file", ours, "--label-source", "chaos"]
        answer = onnxd.call([*words, *settings.verdict]).answer
    found = answer["verdicts"][0]
    return {"decision": found["decision"], "reasons": found["reasons"][:10], "pairs": found["pairs"]}


def report(
    recipe: str, recipes: dict[str, Any], table: str, differences: dict[str, Interval], verdict: dict[str, Any] | None
) -> str:
    """What `evaluate` found, for people, in markdown."""
    lines = ["# Evaluation", "", f"Chosen: **{recipe}**, by series of the training days that it had not seen:", ""]
    lines += [
        f"- {name}: AUC-PR {one['held_out']['auc_pr']:.3f}, forecast MAE {one['held_out']['forecast_mae']:.3f} "
        f"(it stays as it is: {one['held_out']['forecast_mae_naive']:.3f})"
        for name, one in sorted(recipes.items())
    ]
    lines += ["", "On the test days, which no candidate has seen; rates are per pod-day:", "", table, ""]
    for name, one in differences.items():
        between = f"90 % interval {one.low:+.4f} to {one.high:+.4f}"
        lines.append(f"- {name}, {recipe} less champion: {one.point:+.4f}, {between}")
    if verdict is not None:
        lines += ["", f"`onnxd replay` of the test days: **{verdict['decision']}** after {verdict['pairs']:,} rows"]
        lines += [f"- {reason}" for reason in verdict["reasons"]]
    return "\n".join(lines) + "\n"
