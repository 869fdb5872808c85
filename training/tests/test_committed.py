"""The committed model repository: its chain of hashes, its answers, and that training makes it again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import manifest
from training.config import Config
from training.data.nezha import read_day
from training.scoring.served import Graph, is_batch_invariant, session
from training.train import train, wrong_golden

VERSIONS = ("1", "2")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_aliases_point_at_manifests_by_hash(models: Path) -> None:
    aliases = read(models / "anomaly" / "aliases.json")
    assert (aliases["champion"], aliases["challengers"], aliases["previous"]) == ("1", ["2"], None)
    assert aliases["epoch"] == 1
    for version in VERSIONS:
        assert aliases["manifest_sha256"][version] == sha256(models / "anomaly" / version / "manifest.json")
    # The record has the form in which servers and commands write and read it.
    ledger = read(models / "anomaly" / "ledger" / "1.json")
    assert {k: ledger[k] for k in ("champion", "challengers", "epoch", "by", "reason")} == {
        k: aliases[k] for k in ("champion", "challengers", "epoch", "by", "reason")
    }
    assert (ledger["model"], ledger["action"]) == ("anomaly", "promote")
    assert (ledger["replaced"], ledger["at"]) == (aliases["previous"], aliases["updated_at"])
    assert ledger["manifest_sha256"] == aliases["manifest_sha256"][aliases["champion"]]


def test_schema_is_the_one_that_training_uses(models: Path) -> None:
    assert read(models / "manifest.schema.json") == manifest.schema()


@pytest.mark.parametrize("version", VERSIONS)
def test_manifest_matches_its_file(models: Path, version: str) -> None:
    folder = models / "anomaly" / version
    document = read(folder / "manifest.json")
    manifest.check(document)
    content = (folder / "model.onnx").read_bytes()
    assert document["artifact"] == manifest.artifact(content)
    assert document["version"] == version
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "model.onnx"]


@pytest.mark.parametrize("version", VERSIONS)
def test_golden_samples_hold_in_onnxruntime(models: Path, version: str) -> None:
    folder = models / "anomaly" / version
    document = read(folder / "manifest.json")
    served = Graph((folder / "model.onnx").read_bytes())
    rows = manifest.rows_of([s["input"] for s in document["golden"]["samples"]])
    assert is_batch_invariant(served, rows) == document["golden"]["batch_invariant"]
    assert wrong_golden(document, served) is None


@pytest.mark.parametrize("version", VERSIONS)
def test_runbook_request(models: Path, version: str) -> None:
    served = session((models / "anomaly" / version / "model.onnx").read_bytes())
    row = manifest.rows_of([{"cpu_zscore": 2.1, "memory_zscore": 1.5}])
    anomaly, score = served.run(["anomaly", "score"], {"features": row})
    assert not anomaly[0]
    assert score[0] < 0.1


def test_training_makes_the_committed_models_again(models: Path, data_folder: Path, config: Config) -> None:
    """Decisions and scores, not bytes: another processor may differ in a weight's last digit."""
    days = {d: read_day(data_folder, d, config.labels) for d in (config.train_day, *config.holdout_days)}
    again = train(days, config, "2026-01-01T00:00:00Z")
    for version, trained in zip(VERSIONS, (again.champion, again.challenger), strict=True):
        committed = read(models / "anomaly" / version / "manifest.json")
        assert trained.version.manifest["training"]["data"] == committed["training"]["data"]
        for a, b in zip(trained.version.manifest["golden"]["samples"], committed["golden"]["samples"], strict=True):
            assert a["input"] == b["input"]
            assert a["expected"]["anomaly"] == b["expected"]["anomaly"]
            assert a["expected"]["score"] == pytest.approx(b["expected"]["score"], abs=1e-3)
            assert a["expected"]["forecast"] == pytest.approx(b["expected"]["forecast"], abs=1e-2)


@pytest.mark.parametrize("version", VERSIONS)
def test_any_float_gives_answers_in_range(models: Path, version: str) -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, (20_000, 5), dtype=np.uint64)
    rows = bits.astype(np.uint32).view(np.float32)
    served = session((models / "anomaly" / version / "model.onnx").read_bytes())
    score, forecast = served.run(["score", "forecast"], {"features": rows})
    assert ((score >= 0) & (score <= 1)).all()
    assert ((forecast >= 0) & (forecast <= 100)).all()
