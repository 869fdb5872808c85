"""The whole path on synthetic data, through the command line, and its reproducibility."""

import hashlib
import json
from pathlib import Path

import pytest

from conftest import CREATED_AT
from training import cli
from training.config import Config
from training.data.days import Day
from training.data.synthetic import make_day
from training.train import Run, train


def files(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_command_writes_a_repository_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    arguments = ["init", "--synthetic", "--out", str(tmp_path / "models")]
    assert cli.main([*arguments, "--plots", str(tmp_path / "plots")]) == 0
    output = capsys.readouterr()
    assert "SYNTHETIC" in output.err
    assert "2022-08-23, challenger" in output.out
    first = files(tmp_path / "models")
    assert set(first) == {
        "anomaly/1/manifest.json",
        "anomaly/1/model.onnx",
        "anomaly/2/manifest.json",
        "anomaly/2/model.onnx",
        "anomaly/aliases.json",
        "anomaly/ledger/1.json",
        "manifest.schema.json",
    }
    plots = sorted((tmp_path / "plots").iterdir())
    assert [p.name for p in plots] == ["forecast.png", "precision-recall.png", "reliability.png", "score.png"]
    assert all(p.stat().st_size < 80_000 for p in plots)

    assert cli.main(arguments) == 2
    assert "--replace" in capsys.readouterr().err
    assert files(tmp_path / "models") == first, "a refused run changes nothing"

    assert cli.main([*arguments, "--replace"]) == 0
    assert files(tmp_path / "models") == first, "the same data, seed and time give the same bytes"


def test_same_data_and_seed_give_the_same_model(days: dict[str, Day], run: Run, config: Config) -> None:
    again = train(days, config, CREATED_AT)
    assert again.champion.version.onnx == run.champion.version.onnx
    assert again.challenger.version.onnx == run.challenger.version.onnx
    assert again.champion.version.manifest == run.champion.version.manifest


def test_another_seed_gives_other_synthetic_data() -> None:
    same, other = (make_day("2022-08-22", Config(seed=s), pods=1, minutes=60) for s in (0, 1))
    assert same.sha256 == make_day("2022-08-22", Config(seed=0), pods=1, minutes=60).sha256
    assert same.sha256 != other.sha256


def test_synthetic_run_learns_its_faults(run: Run, config: Config) -> None:
    for trained in (run.champion, run.challenger):
        for day in config.holdout_days:
            metrics = trained.metrics[day]
            assert metrics.event_recall >= 0.9
            assert metrics.auc_pr >= 0.8
            assert metrics.forecast_mae <= metrics.forecast_mae_naive


def test_missing_data_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", "--data", str(tmp_path), "--out", str(tmp_path / "models")]) == 2
    assert "not found in the data folder" in capsys.readouterr().err


def test_measure_prints_a_table(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["measure", "--models", str(models)]) == 0
    assert "anomaly 2" in capsys.readouterr().out
    assert cli.main(["measure", "--models", str(tmp_path)]) == 2


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert "examples:" in capsys.readouterr().out


def test_manifest_documents_are_plain_json(run: Run) -> None:
    version = run.challenger.version
    assert json.loads(version.manifest_bytes) == version.manifest
