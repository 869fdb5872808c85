"""Each gate passes a good candidate, and stops the one that it is there for."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from onnx import helper, numpy_helper

from training import candidate, manifest
from training.candidate import Candidate
from training.config import Config
from training.data import source
from training.data.source import Prepared
from training.errors import PipelineError
from training.features import join, table
from training.gates import graph, quality, served
from training.gates.gate import Case, Check, Finding, text
from training.gates.provenance import bill_of_materials, provenance
from training.model import Calibration, Outputs, Rows
from training.pipeline.compare import ALL, Compared, compare, differences_of, stack
from training.pipeline.repository import Stored
from training.scoring.evaluate import evaluate
from training.scoring.served import Graph

RECIPE = "monotone-logistic"
KNOWN = {"run_key": "a" * 64, "fingerprint": "b" * 64, "mlflow_run_id": "c" * 32, "signed": False}


SOURCE = "synthetic:?days=8&pods=8&seed=3&share=0.5&kinds=cpu_stress"


@pytest.fixture(scope="module")
def made(config: Config) -> Candidate:
    """A good candidate."""
    return candidate.make(RECIPE, table(prepared(config).train[0], config), config)


@pytest.fixture(scope="module")
def case(made: Candidate, config: Config) -> Case:
    """A good candidate beside a champion that was trained on half of its days."""
    train, days = prepared(config).train[0], prepared(config).test
    rows = table(train, config)

    def of(one: Candidate) -> dict[str, Any]:
        return candidate.document(one, [train], rows, metrics={}, config=config, at="2026-01-01T00:00:00Z")

    tables = {day.name: table(day, config) for day in days}
    ours = compare(RECIPE, Graph(made.onnx), tables, config)
    old = candidate.make(RECIPE, rows.rows(rows.time < np.median(rows.time)), config)
    theirs = compare("champion", Graph(old.onnx), tables, config)
    return Case(
        recipe=RECIPE,
        onnx=made.onnx,
        manifest=of(made),
        rows=made.rows,
        expected=made.expected,
        train=rows,
        days=days,
        tables=tables,
        compared=ours,
        champion=Stored("2", old.onnx, of(old)),
        champion_compared=theirs,
        differences={name: vars(one) for name, one in differences_of(ours, theirs, tables, config).items()},
        provenance=KNOWN,
        config=config,
    )


@cache
def prepared(config: Config) -> Prepared:
    return source.prepare(SOURCE, config)


def with_graph(case: Case, change: Callable[[onnx.ModelProto], None]) -> Case:
    """The case with a changed graph, whose manifest is of that graph."""
    model = onnx.load_from_string(case.onnx)
    change(model)
    content = model.SerializeToString()
    document = {**case.manifest, "artifact": manifest.artifact(content)}
    return replace(case, onnx=content, manifest=document)


def answering(case: Case, change: Callable[[Outputs], Outputs]) -> Case:
    """The case as if the candidate answered otherwise."""
    outputs = {day: change(one) for day, one in case.compared.outputs.items()}
    metrics = {day: evaluate(one, case.tables[day], 300) for day, one in outputs.items()}
    metrics[ALL] = evaluate(stack(outputs), join(list(case.tables.values())), 300)
    ours = Compared(RECIPE, outputs, metrics)
    found = differences_of(ours, case.champion_compared, dict(case.tables), case.config)
    return replace(case, compared=ours, differences={name: vars(one) for name, one in found.items()})


def scored(score: Callable[[Rows], Rows]) -> Callable[[Outputs], Outputs]:
    def change(one: Outputs) -> Outputs:
        made = np.asarray(score(one.score), dtype=np.float32)
        return Outputs(made >= np.float32(0.5), made, one.forecast)

    return change


def stopped(found: Finding, words: str) -> None:
    assert not found.passed
    assert found.found[0].startswith("FAILED: ")
    assert words in found.found[0], found.found


@pytest.mark.parametrize(
    "gate",
    [
        graph.artifact,
        graph.signature,
        graph.batches,
        graph.robustness,
        quality.quality,
        quality.slices,
        quality.calibration,
        provenance,
    ],
)
def test_good_candidate_passes(case: Case, gate: Callable[[Case], Finding]) -> None:
    found = gate(case)
    assert found.passed, found


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("gate", [served.agreement, served.latency])
def test_good_candidate_passes_in_the_server(case: Case, gate: Callable[[Case], Finding]) -> None:
    found = gate(case)
    assert found.passed, found


def test_controls_pass_and_the_model_is_made_again(case: Case) -> None:
    found = quality.controls(case, lambda: quality.reproduced(case))
    assert found.passed, found


def test_first_model_needs_no_champion(case: Case) -> None:
    alone = replace(case, champion=None, champion_compared=None, differences={})
    for gate in (graph.signature, quality.quality):
        assert gate(alone).passed


def test_g1_stops_a_file_that_is_not_the_manifests(case: Case) -> None:
    other = {**case.manifest, "artifact": {**case.manifest["artifact"], "sha256": "0" * 64}}
    stopped(graph.artifact(replace(case, manifest=other)), "SHA-256")


def test_g1_stops_foreign_operators_and_large_graphs(case: Case) -> None:
    def foreign(model: onnx.ModelProto) -> None:
        model.opset_import.append(helper.make_opsetid("com.example", 1))

    stopped(graph.artifact(with_graph(case, foreign)), "com.example")

    def long(model: onnx.ModelProto) -> None:
        for i in range(500):
            model.graph.node.append(helper.make_node("Identity", ["score" if i == 0 else f"i{i - 1}"], [f"i{i}"]))

    stopped(graph.artifact(with_graph(case, long)), "nodes")


def test_g1_stops_data_outside_its_folder(case: Case) -> None:
    def outside(model: onnx.ModelProto) -> None:
        tensor = numpy_helper.from_array(np.zeros(4, np.float32), "far")
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")
        model.graph.initializer.append(tensor)

    found = graph.artifact(with_graph(case, outside))
    assert not found.passed
    assert any("outside its folder: ../../etc/passwd" in one for one in found.found)


def test_g2_stops_what_would_break_clients(case: Case) -> None:
    asks = {**case.manifest, "signature": _signature(case, lambda f: {**f, "required": True})}
    stopped(graph.signature(replace(case, manifest=asks)), "would have to: cpu_baseline, cpu_scale, disk_io_zscore")
    outputs = [o for o in case.manifest["signature"]["outputs"] if o["name"] != "forecast"]
    silent = {**case.manifest, "signature": {**case.manifest["signature"], "outputs": outputs}}
    stopped(graph.signature(replace(case, manifest=silent)), "missing: forecast")


def _signature(case: Case, change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    found = case.manifest["signature"]
    inputs = [{**i, "features": [change(f) for f in i["features"]]} for i in found["inputs"]]
    return {**found, "inputs": inputs}


@pytest.mark.usefixtures("program")
def test_g3_stops_a_graph_that_is_another_model(case: Case) -> None:
    wrong = replace(case.expected, score=np.clip(case.expected.score + np.float32(0.01), 0, 1))
    stopped(served.agreement(replace(case, expected=wrong)), "in ONNX Runtime")


@pytest.mark.usefixtures("program")
def test_g3_stops_golden_samples_that_onnxd_does_not_answer(case: Case) -> None:
    golden = {**case.manifest["golden"], "samples": [dict(s) for s in case.manifest["golden"]["samples"]]}
    golden["samples"][0] = {**golden["samples"][0], "expected": {"anomaly": True, "score": 0.9, "forecast": 1.0}}
    with pytest.raises(PipelineError, match="golden"):
        served.agreement(replace(case, manifest={**case.manifest, "golden": golden}))


def test_g4_stops_answers_that_depend_on_the_batch(case: Case) -> None:
    def batchy(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if "logit" in n.output)
        node.output[0] = "alone"
        model.graph.node.insert(
            list(model.graph.node).index(node) + 1, helper.make_node("Add", ["alone", "mean"], ["logit"])
        )
        mean = helper.make_node("ReduceMean", ["alone"], ["mean"], axes=[0], keepdims=1)
        model.graph.node.insert(list(model.graph.node).index(node) + 1, mean)

    stopped(graph.batches(with_graph(case, batchy)), "same bits")


@pytest.mark.usefixtures("program")
def test_g5_stops_a_slow_model(case: Case) -> None:
    def slow(model: onnx.ModelProto) -> None:
        rng = np.random.default_rng(0)
        for name, shape in (("w1", (5, 1500)), ("w2", (1500, 1500)), ("w3", (1500, 1))):
            model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(0), "nothing"))
        at = next(i for i, n in enumerate(model.graph.node) if "logit" in n.output)
        model.graph.node[at].output[0] = "quick"
        nodes = [
            helper.make_node("MatMul", ["x", "w1"], ["h1"]),
            helper.make_node("MatMul", ["h1", "w2"], ["h2"]),
            helper.make_node("MatMul", ["h2", "w3"], ["h3"]),
            helper.make_node("Clip", ["h3"], ["h4"]),
            helper.make_node("Mul", ["h4", "nothing"], ["h5"]),
            helper.make_node("Add", ["quick", "h5"], ["logit"]),
        ]
        for offset, node in enumerate(nodes):
            model.graph.node.insert(at + 1 + offset, node)

    stopped(served.latency(with_graph(case, slow)), "rows: ")


def test_g6_stops_a_silent_candidate(case: Case) -> None:
    stopped(quality.quality(answering(case, scored(lambda s: s * 0.4))), "event recall 0.00")


def test_g6_stops_a_candidate_that_always_alarms(case: Case) -> None:
    stopped(quality.quality(answering(case, scored(lambda s: s * 0.4 + 0.6))), "false episodes a pod-day")


def test_g6_stops_answers_that_are_five_minutes_late(case: Case) -> None:
    late = answering(case, scored(lambda s: np.concatenate([np.zeros(5, np.float32), s[:-5]])))
    found = quality.quality(late)
    assert not found.passed
    assert any("AUC-PR" in one for one in found.found if one.startswith("FAILED"))


def test_g6_stops_a_candidate_that_was_taught_shuffled_labels(case: Case, config: Config) -> None:
    moved = replace(case.train, event=quality.moved(case.train, np.random.default_rng(1)))
    for recipe in (RECIPE, "gradient-boosting"):
        taught, _ = candidate.fit(recipe, moved, config)
        outputs = {day: taught.predict(rows.features) for day, rows in case.tables.items()}
        shuffled = answering(replace(case, compared=replace(case.compared, outputs=outputs)), lambda one: one)
        stopped(quality.quality(shuffled), "")


def test_g6_stops_a_forecast_that_is_no_better_than_none(case: Case) -> None:
    def worse(one: Outputs) -> Outputs:
        return replace(one, forecast=np.clip(one.forecast + 5, 0, 100))

    found = quality.quality(answering(case, worse))
    assert not found.passed
    assert "it stays as it is" in found.found[0]


def test_more_false_episodes_than_the_champion_need_more_than_chance() -> None:
    assert quality.more_by_chance(0, 0) == 1.0
    assert quality.more_by_chance(1, 0) == pytest.approx(1.2 / 2.2)
    assert quality.more_by_chance(8, 1) < 0.1 < quality.more_by_chance(3, 2)


def test_g7_stops_a_score_that_falls_where_a_z_score_rises(case: Case, made: Candidate) -> None:
    model = made.model
    turned = replace(model, weights=np.array([model.weights[0], -1.0, model.weights[2]]))
    content = turned.to_onnx("anomaly").SerializeToString()
    stopped(graph.robustness(replace(case, onnx=content)), "where a z-score rises")


def test_g7_stops_a_model_that_needs_what_is_optional(case: Case, made: Candidate) -> None:
    model = made.model
    # Without disk I/O the default counts, which is an alarm here.
    limits = replace(model.limits, default=np.array([0, 0, 90, 20, 5], dtype=np.float32))
    needy = replace(model, limits=limits, weights=np.array([1.0, 1.0, 2.0]), calibration=Calibration(6.0, 1.0))
    found = graph.robustness(replace(case, onnx=needy.to_onnx("anomaly").SerializeToString()))
    assert any(one.startswith("FAILED: score without disk_io") for one in found.found), found


def test_g8_stops_a_workload_that_is_left_out(case: Case) -> None:
    """Twenty events and more of one namespace that are all missed, while another one's are found."""
    names = [f"{'bank' if i % 3 else 'shop'}/pod-{i}" for i in range(len(case.days[0].series))]
    days = [replace(day, series=[replace(s, name=n) for s, n in zip(day.series, names)]) for day in case.days]
    many = replace(case, days=days)
    assert quality.slices(many).passed

    def deaf(day: str) -> Outputs:
        one, table = case.compared.outputs[day], case.tables[day]
        score = np.where(table.series % 3, np.float32(0), one.score)
        return Outputs(score >= np.float32(0.5), score, one.forecast)

    outputs = {day: deaf(day) for day in case.tables}
    left_out = replace(many, compared=replace(case.compared, outputs=outputs))
    stopped(quality.slices(left_out), "namespace bank: recall 0.00")


def test_g9_stops_a_score_that_is_no_probability(case: Case) -> None:
    stopped(quality.calibration(answering(case, scored(lambda s: s * 0.5 + 0.25))), "calibration error")


def test_g10_stops_what_is_not_made_again(case: Case) -> None:
    found = quality.controls(case, lambda: Check(holds=False, text="made again: score within 0.1"))
    stopped(found, "made again")
    other = replace(case, expected=replace(case.expected, score=case.expected.score * np.float32(0.99)))
    assert not quality.reproduced(other).holds


def test_g10_moves_labels_and_keeps_their_runs(case: Case) -> None:
    moved = quality.moved(case.train, np.random.default_rng(0))
    assert (moved >= 0).sum() == case.train.anomalous.sum()
    assert (moved != case.train.event).any()
    for series in np.unique(case.train.series):
        own = case.train.series == series
        assert sorted(np.unique(moved[own])) == sorted(np.unique(case.train.event[own]))


def test_g11_stops_what_has_no_run(case: Case) -> None:
    stopped(provenance(replace(case, provenance={**KNOWN, "mlflow_run_id": ""})), "MLflow run")


def test_bill_of_materials_names_model_data_and_packages(case: Case) -> None:
    bill = bill_of_materials(case)
    model = bill["metadata"]["component"]
    assert (bill["bomFormat"], bill["specVersion"], model["type"]) == ("CycloneDX", "1.6", "machine-learning-model")
    assert model["hashes"][0]["content"] == hashlib.sha256(case.onnx).hexdigest()
    kinds = {one["type"] for one in bill["components"]}
    assert kinds == {"data", "library"}
    refs = {one["bom-ref"] for one in bill["components"]}
    assert set(bill["dependencies"][0]["dependsOn"]) == refs
    assert bill == bill_of_materials(case)


def test_report_says_what_stopped_first(case: Case) -> None:
    found = [quality.quality(answering(case, scored(lambda s: s * 0.4))), quality.calibration(case)]
    report = text(found)
    assert "Stopped by G6" in report
    assert "| G9 calibration | passed |" in report


@pytest.mark.parametrize("licence", ["MIT", "not stated: the metrics of whoever runs the server"])
def test_bill_of_materials_is_as_the_official_schema_says(case: Case, licence: str) -> None:
    training = case.manifest["training"]
    data = [{**one, "licence": licence} for one in training["data"]]
    case = replace(case, manifest={**case.manifest, "training": {**training, "data": data}})

    def refused(bill: dict[str, Any]) -> list[str]:
        found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill), all_errors=True)
        return [str(one.data.message) for one in found or ()]

    bill = bill_of_materials(case)
    assert refused(bill) == []
    bill["metadata"]["component"]["modelCard"]["modelParameters"]["approach"]["type"] = "guessed"
    bill["components"][0]["hashes"][0]["content"] = "none"
    found = " ".join(refused(bill))
    assert "'guessed' is not one of" in found
    assert "'none' does not match" in found
