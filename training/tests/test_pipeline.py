"""The steps by their commands, on a folder with a database beside it; the server's program and a server are real."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training import cli, local, onnxd
from training.commands import LOCAL_SOURCE
from training.config import Config
from training.data import rows
from training.data.days import Day, iso
from training.data.saved import from_parquet, to_parquet, with_features
from training.data.synthetic import make_day
from training.errors import TransientError
from training.pipeline.decide import Trigger, decide
from training.pipeline.settings import Settings
from training.pipeline.work import tracking_of
from training.processes import environment
from training.storage import Storage
from training.traffic import Traffic

SOURCE = "synthetic:?days=8&pods=8&seed=3&share=0.5&kinds=cpu_stress"


pytestmark = pytest.mark.usefixtures("program")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A work folder and an empty repository, named by the environment as for a Lambda function."""
    (tmp_path / "models").mkdir()
    names = {"TRAINING_WORK": str(tmp_path / "work"), "ONNXD_REPOSITORY": str(tmp_path / "models")}
    with environment({**names, "TRAINING_RECIPES": "monotone-logistic", "TRAINING_COOL_DOWN": "3600"}):
        yield tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    """The last JSON that a command printed."""
    text = capsys.readouterr().out
    return json.loads(text[text.rindex("\n{") if "\n{" in text else 0 :])


def test_steps_one_by_one_are_the_whole_and_are_done_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train"]) == 1
    assert "begin with `python -m training prepare`" in capsys.readouterr().err
    assert cli.main(["prepare", "--source", SOURCE]) == 0
    key = said(capsys)["run_key"]
    assert cli.main(["evaluate"]) == 1
    assert "run `python -m training train` first" in capsys.readouterr().err
    for step in ("train", "evaluate", "gate", "register", "push"):
        assert cli.main([step]) == 0, capsys.readouterr().err
    pushed = said(capsys)
    assert (pushed["version"], pushed["role"], pushed["aliases"]) == ("1", "champion", {"champion": "1"})
    aliases = json.loads((place / "models/anomaly/aliases.json").read_text())
    assert (aliases["champion"], aliases["by"]) == ("1", "training")
    document = json.loads((place / "models/anomaly/1/manifest.json").read_text())
    assert document["training"]["mlflow_run_id"]
    assert document["metrics"]["holdout"]["event_recall"] > 0.8

    # Once more, as one command: nothing is done again, nothing changes.
    before = {p: p.stat().st_mtime_ns for p in (place / "models").rglob("*") if p.is_file()}
    assert cli.main(["retrain", "--source", SOURCE, "--no-watch"]) == 0
    assert said(capsys)["version"] == "1"
    assert {p: p.stat().st_mtime_ns for p in (place / "models").rglob("*") if p.is_file()} == before
    assert Storage(str(place / "work")).read_json("latest.json") == {"run": key}

    # Another seed is another run, and another version beside the champion.
    assert cli.main(["retrain", "--source", SOURCE, "--seed", "1", "--no-watch"]) == 0
    assert said(capsys)["role"] == "challenger"
    known = tracking_of(Settings.read()).aliases()
    assert known == {"champion": "1", "challenger": "2"}
    assert cli.main(["decide"]) == 10
    assert "version 2 is in the shadow" in said(capsys)["reason"]


def test_failed_gate_ends_the_run_with_its_reason(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["retrain", "--source", SOURCE, "--recipes", "rule"]) == 1
    told = capsys.readouterr().out
    assert "Stopped by G6" in told
    assert not (place / "models/anomaly").exists()
    assert cli.main(["register"]) == 1
    assert "did not pass its gates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["prepare", "--source", "somewhere"], 2, "is no source of data"),
        (["prepare", "--source", SOURCE, "--recipes", "magic"], 1, "no recipe magic: there are rule"),
        (["prepare", "--source", SOURCE, "--seed", "x"], 1, "TRAINING_SEED is 'x'"),
        (["prepare", "--source", SOURCE, "--work", "s3://bucket/x"], 1, "name an MLflow server with --tracking"),
        (["gate", "--run", "0" * 64], 1, "has no evaluate"),
        (["push", "--from", "models:/anomaly@champion", "--as", "champion"], 1, "MLflow"),
        (["push", "--from", "models:/anomaly@champion"], 1, "--as champion makes it the champion"),
        (["decide", "--trigger", "drift", "--peers", "127.0.0.1:1"], 3, "no server answers"),
        (["reconcile", "--tracking", "http://127.0.0.1:1"], 3, "does not answer: MLflow"),
    ],
)
@pytest.mark.usefixtures("place")
def test_mistakes_are_told_with_what_to_do(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    assert words in " ".join(capsys.readouterr().err.split())


def test_what_a_run_pushes_is_not_for_the_caller_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["push", "--as", "champion"])
    assert "--as is for a model of --from" in capsys.readouterr().err


def test_retraining_waits_for_its_cool_down_but_not_for_a_person(place: Path) -> None:
    settings = Settings.read()
    assert place.exists()
    tracking = tracking_of(settings)
    assert decide(settings, Trigger("schedule", "weekly"))["proceed"]
    tracking.run("a" * 64)
    refused = decide(settings, Trigger("schedule", "weekly"))
    assert (refused["proceed"], refused["reason"][:10]) == (False, "cool-down:")
    assert decide(settings, Trigger("manual", "I want it")) == {"proceed": True, "reason": "I want it"}
    began = tracking.last_start()
    assert decide(settings, Trigger("schedule"), at=began + 3601)["proceed"]


def test_champion_that_lost_its_skill_is_found_by_its_forecasts(place: Path) -> None:
    """The same champion on the days that it was trained on, and on those since the load lasts longer."""
    old, new, _ = local.days_of(LOCAL_SOURCE)
    config = Config()
    local.first_champion(place / "first", old, str(place / "models"))
    for days, proceeds in ((old, False), (new, True)):
        with environment({"TRAINING_SOURCE": rows_of(place, days, config)}):
            found = decide(Settings.read(), Trigger("skill"))
        assert found["proceed"] is proceeds, found
        assert "'it stays as it is'" in found["reason"]


def test_drift_that_the_servers_still_see_begins_a_retraining(place: Path) -> None:
    config = Config()
    old, _, coming = local.days_of(LOCAL_SOURCE)
    local.first_champion(place / "first", old, str(place / "models"))
    heavier = [replace(s, values=s.values * [3, 1, 1], features=None) for s in coming.series]
    flags = ["--event-time", "--state", str(place / "state")]
    with onnxd.serve(place / "models", flags) as server, environment({"ONNXD_PEERS": server.ops}):
        before = decide(Settings.read(), Trigger("drift"))
        assert before == {"proceed": False, "reason": "the inputs are as in training again"}
        Traffic(replace(coming, series=heavier), config, [server.http], "anomaly").send()
        after = decide(Settings.read(), Trigger("drift"))
    assert after["proceed"], after
    assert "inputs are not as in training: cpu_baseline" in after["reason"]


def rows_of(place: Path, day: Day, config: Config) -> str:
    """The day as the collector would have written it; returns the source's name."""
    rows.write(str(place / "rows"), day, config)
    return f"rows:{place / 'rows'}?days=4&end={iso(day.span[1] + 1)}"


def test_watch_promotes_what_the_servers_evidence_says(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config()
    old, new, coming = local.days_of(LOCAL_SOURCE)
    local.first_champion(place / "first", old, str(place / "models"))
    with environment({"TRAINING_SOURCE": rows_of(place, new, config)}):
        assert cli.main(["retrain", "--no-watch"]) == 0, capsys.readouterr().err
    flags = ["--event-time", "--poll-interval", "1s", "--state", str(place / "state")]
    with onnxd.serve(place / "models", flags) as server:
        Traffic(coming, config, [server.http], "anomaly").send()
        watch = ["watch", "--peers", server.ops, "--poll", "0.1", "--watch-for", "0.1", "--at-most", "20"]
        assert cli.main(watch) == 0, capsys.readouterr().err
    aliases = json.loads((place / "models/anomaly/aliases.json").read_text())
    assert (aliases["champion"], aliases["previous"]) == ("2", "1")
    assert aliases["reason"] == "version 2: its forecast is better, and nothing else is worse"
    assert tracking_of(Settings.read()).aliases() == {"champion": "2", "previous": "1"}


def test_days_come_back_from_parquet_as_they_were(config: Config) -> None:
    days = [with_features(make_day(name, config, pods=2, minutes=200), config) for name in ("2026-01-05", "2026-01-06")]
    again = from_parquet(to_parquet(days))
    for one, other in zip(again, days, strict=True):
        assert replace(one, series=[]) == replace(other, series=[])
        for a, b in zip(one.series, other.series, strict=True):
            assert a.name == b.name
            for field in ("time", "values", "features"):
                np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_files_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "deep" / "folder"))
    assert storage.read("a/b.json") is None
    assert storage.folders() == []
    storage.write_json("a/b.json", {"x": 1})
    assert storage.read_json("a/b.json") == {"x": 1}
    assert storage.folders() == ["a"]
    assert [p.name for p in (tmp_path / "deep/folder/a").iterdir()] == ["b.json"]
    names = {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    with environment(names), pytest.raises(TransientError, match="s3://bucket/x"):
        Storage("s3://bucket").read("x")
    assert "AWS_ENDPOINT_URL" not in os.environ
