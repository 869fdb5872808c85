"""Manifests: valid, complete, and their golden samples come from the training side."""

import copy
import json
import platform
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from conftest import ROOT
from training import candidate, manifest
from training.config import Config
from training.data.synthetic import make_day
from training.features import table
from training.scoring.served import Graph
from training.train import Run, wrong_golden


@pytest.mark.parametrize("name", ["champion", "challenger"])
def test_manifest_is_valid_and_complete(run: Run, name: str) -> None:
    document = getattr(run, name).version.manifest
    manifest.check(document)
    assert len(document["golden"]["samples"]) >= 8
    assert document["golden"]["batch_invariant"] is True
    assert document["training"]["mlflow_run_id"] is None
    assert set(document["reference"]) == {*manifest.FEATURES, "score"}
    assert [f["missing"] for f in document["signature"]["inputs"][0]["features"]] == ["reject"] * 2 + ["nan"] * 3
    text = json.dumps(document)
    assert str(ROOT) not in text, "no absolute path"
    assert platform.node() not in text, "no host name"


def test_invalid_manifest_is_refused(run: Run) -> None:
    document = copy.deepcopy(run.champion.version.manifest)
    document["artifact"]["sha256"] = "short"
    with pytest.raises(jsonschema.ValidationError):
        manifest.check(document)


def test_golden_samples_cover_what_can_happen(run: Run) -> None:
    samples = run.champion.version.manifest["golden"]["samples"]
    inputs = [s["input"] for s in samples]
    assert any(set(i) == {"cpu_zscore", "memory_zscore"} for i in inputs)
    assert any(len(i) == 5 for i in inputs)
    assert any(abs(v) == 1e6 for i in inputs for v in i.values())
    assert {s["expected"]["anomaly"] for s in samples} == {False, True}


def test_wrong_golden_sample_is_named(run: Run) -> None:
    document = copy.deepcopy(run.champion.version.manifest)
    graph = Graph(run.champion.version.onnx)
    assert wrong_golden(document, graph) is None
    document["golden"]["samples"][3]["expected"]["score"] += 0.01
    assert "golden sample 3: score" in (wrong_golden(document, graph) or "")


def test_histogram_has_equal_mass_and_counts_what_is_missing() -> None:
    values = np.append(np.arange(1000), [np.nan] * 250).astype(np.float32)
    found = manifest.histogram(values, 10)
    assert found["p"] == [0.1] * 10
    assert len(found["edges"]) == 11
    assert (found["p_missing"], found["n"]) == (0.2, 1000)


@pytest.mark.parametrize("values", [[5.0] * 50, [5.0] * 80 + list(range(6, 26)), [0.0, 1.0]])
def test_histogram_of_many_equal_values(values: list[float]) -> None:
    found = manifest.histogram(np.array(values, dtype=np.float32), 10)
    assert sum(found["p"]) == pytest.approx(1)
    assert len(found["edges"]) == len(found["p"]) + 1
    assert (np.diff(found["edges"]) > 0).all()


def test_every_row_counts_once_in_the_histogram(run: Run) -> None:
    found = run.champion.version.manifest["reference"]
    assert all(abs(sum(h["p"]) - 1) < 1e-4 for h in found.values())


def test_runbook_request_is_normal_for_both(run: Run) -> None:
    rows = manifest.rows_of([{"cpu_zscore": 2.1, "memory_zscore": 1.5}])
    for trained in (run.champion, run.challenger):
        answers = Graph(trained.version.onnx).predict(rows)
        assert not answers.anomaly[0]
        assert answers.score[0] < 0.2


def test_numbers_that_are_not_finite_are_never_written() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        manifest.to_bytes({"x": float("nan")})


def test_fleet_that_measures_no_disk_gets_models_and_manifests(config: Config) -> None:
    day = make_day("2026-01-05", config, pods=4, minutes=600)
    series = [replace(s, values=s.values * [1, 1, np.nan]) for s in day.series]
    diskless = replace(day, series=series)
    rows = table(diskless, config)
    for recipe in ("monotone-logistic", "lightgbm"):
        made = candidate.make(recipe, rows, config)
        assert candidate.prove(made).holds
        document = candidate.document(made, [diskless], rows, metrics={}, config=config, at="2026-01-01T00:00:00Z")
        assert set(document["reference"]) == {*manifest.FEATURES, "score"} - {"disk_io_zscore"}
        disk = document["signature"]["inputs"][0]["features"][2]
        assert (disk["name"], disk["default"]) == ("disk_io_zscore", 0.0)
        assert "min" not in disk
        manifest.to_bytes(document)
