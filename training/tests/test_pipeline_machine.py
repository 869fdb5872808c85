"""The state machine with its real steps: S3, MLflow, the server's program, and servers that judge replayed traffic."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import onnx
import pytest
import requests
from mlflow import MlflowClient

from scenes import DAYS, NEW, OLD, TRIGGER, Scene, Stage, fleet, open_stage, outage, send
from training import candidate, interpreter, local, onnxd
from training.config import FEATURES, Config
from training.features import table
from training.manifest import to_bytes
from training.model import Calibration, Rows
from training.pipeline import release, repository
from training.tracking import END, REASON, RUN_KEY, SHA256, roles_of

pytest.importorskip("moto.stepfunctions", reason="moto is in server/tests/requirements.lock")


@pytest.fixture(scope="module")
def stage(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:  # noqa: ARG001
    """S3, Step Functions, a champion, and a run that has passed its gates."""
    with open_stage(tmp_path_factory.mktemp("stage")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are drawn from 0 to a limit; here they are 0."""
    import moto.stepfunctions.parser.asl.component.common.retry.jitter_strategy_decl as jitter  # noqa: PLC0415

    monkeypatch.setattr(jitter, "random", SimpleNamespace(uniform=lambda low, _: low))


def coming() -> Any:  # noqa: ANN401 - a day
    """The days that nobody has learned from."""
    return fleet(OLD + NEW, DAYS, changed=True)


def later(day: Any) -> Any:  # noqa: ANN401 - a day
    """The same rows, after those of `coming`."""
    seconds = (DAYS - OLD - NEW) * local.DAY
    series = [replace(one, time=one.time + seconds) for one in day.series]
    faults = [
        replace(f, time=f.time + seconds, until=None if f.until is None else f.until + seconds) for f in day.faults
    ]
    return replace(day, series=series, faults=faults)


def run_of(scene: Scene) -> Any:  # noqa: ANN401 - a run of MLflow
    """The run in MLflow."""
    return MlflowClient(scene.settings.mlflow).get_run(scene.tracking.run(scene.stage.key))


def check_aliases(scene: Scene) -> None:
    """MLflow's aliases are those of the repository."""
    assert scene.tracking.aliases() == roles_of(scene.aliases)


def scores(server: onnxd.Server, rows: Rows, version: str) -> list[float]:
    """A server's scores, as soon as it answers with a version: within its poll interval."""
    asked = [{n: float(v) for n, v in zip(FEATURES, row) if np.isfinite(v)} for row in rows]
    deadline = time.monotonic() + 20
    while True:
        answer = requests.post(f"http://{server.http}/predict", json=asked, timeout=10)
        if answer.headers["x-model-version"] == version:
            return [one["score"] for one in answer.json()]
        assert time.monotonic() < deadline, answer.headers["x-model-version"]


def silent() -> candidate.Candidate:
    """A model that never alarms."""
    made = candidate.make("monotone-logistic", table(fleet(OLD, OLD + NEW, changed=True), Config()), Config())
    model = replace(made.model, calibration=Calibration(1e4, 1.0))
    content = model.to_onnx("anomaly").SerializeToString(deterministic=True)
    return replace(made, model=model, onnx=content, expected=model.predict(made.rows))


def test_promoted_by_the_verdict_and_done_once(stage: Stage) -> None:
    with stage.act("promoted") as scene, scene.servers(2) as servers:
        scene.after["push"] = lambda: send(coming(), servers)
        outcome = scene.execute()
        assert (outcome.status, outcome.states[-1]) == ("SUCCEEDED", "Done"), outcome.output
        assert (scene.aliases["champion"], scene.aliases["previous"], scene.aliases["challengers"]) == ("2", "1", [])
        check_aliases(scene)
        run = run_of(scene)
        assert (run.info.status, run.data.tags[END], run.data.tags["onnxd.gates"]) == ("FINISHED", "promoted", "passed")
        assert run.data.params["config.seed"] == "0"
        assert run.data.metrics["monotone-logistic.event_recall"] > 0.5
        files = MlflowClient(scene.settings.mlflow)
        names = {one.path for one in files.list_artifacts(run.info.run_id)}
        assert {"plots", "gates.md", "evaluation.md", "bom.cdx.json", "data"} <= names
        assert len(files.list_artifacts(run.info.run_id, "plots")) == 4

        # What MLflow holds is what the servers answer with.
        logged = mlflow.pyfunc.load_model("models:/anomaly@champion")
        rows = np.array([[2.1, 1.5, np.nan, 20.0, 5.0], [30.0, 1.0, 0.0, 20.0, 5.0]], dtype=np.float32)
        told = logged.predict({"features": rows})
        for server in servers:
            np.testing.assert_allclose(scores(server, rows, "2"), told["score"], atol=1e-6)
        signature = logged.metadata.signature
        assert [i.name for i in signature.inputs] == ["features"]
        assert [o.name for o in signature.outputs] == ["anomaly", "score", "forecast"]

        # Once more with the same data: the same run, nothing new.
        scene.after.clear()
        epoch = scene.aliases["epoch"]
        again = scene.execute()
        assert again.status == "SUCCEEDED", (again.error, again.cause)
        assert again.output["prepare"]["run_key"] == outcome.output["prepare"]["run_key"]
        assert again.output["register"]["version"] == "2"
        assert scene.aliases["epoch"] == epoch


def test_failed_gate_stops_the_pipeline_with_its_reason_in_mlflow(stage: Stage) -> None:
    with stage.act("gate") as scene:
        scene.plant(silent(), [fleet(OLD, OLD + NEW, changed=True)])
        scene.forget("evaluate", "gate")
        outcome = scene.execute()
        assert (outcome.status, outcome.error) == ("FAILED", "GateFailed")
        assert outcome.cause.startswith("G6 quality: FAILED: event recall 0.00")
        run = run_of(scene)
        assert (run.info.status, run.data.tags["onnxd.gates"]) == ("FAILED", "failed")
        assert run.data.tags[REASON].startswith("G6 quality")
        assert "register" not in scene.calls
        assert scene.aliases["challengers"] == []


def test_silent_challenger_that_got_past_the_gates_is_rejected_by_the_verdict(stage: Stage) -> None:
    with stage.act("rejected") as scene, scene.servers(1) as servers:
        # The gates are done; what is registered is another model.
        scene.plant(silent(), [fleet(OLD, OLD + NEW, changed=True)])
        scene.after["push"] = lambda: send(coming(), servers)
        outcome = scene.execute()
        assert (outcome.status, outcome.states[-1]) == ("SUCCEEDED", "Rejected"), (outcome.error, outcome.cause)
        assert (scene.aliases["champion"], scene.aliases["challengers"]) == ("1", [])
        check_aliases(scene)
        run = run_of(scene)
        assert (run.info.status, run.data.tags[END]) == ("FINISHED", "rejected")
        # The shadow is free again.
        scene.after.clear()
        assert (
            scene.execute({"kind": "manual", "reason": "once more", "at": "2026-11-28T00:00:00Z"}).states[1]
            == "Proceed"
        )


def test_promotion_that_somebody_else_was_faster_than_is_lost(stage: Stage) -> None:
    with stage.act("lost") as scene, scene.servers(1) as servers:
        scene.after["push"] = lambda: send(coming(), servers)
        scene.before["promote"] = lambda: scene.onnxd("withdraw", "2", "--reason", "not on a Friday")
        outcome = scene.execute()
        assert (outcome.status, outcome.error) == ("FAILED", "PromotionLost")
        assert "by a person: not on a Friday" in outcome.cause
        assert (scene.aliases["champion"], scene.aliases["by"]) == ("1", "a person")
        check_aliases(scene)
        assert run_of(scene).info.status == "FAILED"


@pytest.mark.parametrize("role", ["champion", "challenger"])
def test_version_that_somebody_pushed_meanwhile_stays(stage: Stage, role: str) -> None:
    with stage.act(f"pushed-{role}") as scene, scene.servers(1) as servers:
        file = stage.folder / "first" / "model.onnx"
        scene.after["push"] = lambda: send(coming(), servers)
        scene.before["promote"] = lambda: scene.onnxd("push", file, "--as", role, "--reason", "a fix")
        outcome = scene.execute()
        assert (outcome.status, outcome.error) == ("FAILED", "PromotionLost"), outcome.cause
        found = scene.aliases
        assert (found["champion"], found["challengers"]) == (("3", []) if role == "champion" else ("1", ["3"]))
        check_aliases(scene)
        assert run_of(scene).data.tags[END] == "failed"


def test_challenger_of_a_change_that_passed_is_rejected(stage: Stage) -> None:
    with stage.act("passed") as scene, scene.servers(1) as servers:
        # The load is as before the change: the challenger, which is of the days since, forecasts worse.
        scene.after["push"] = lambda: send(fleet(OLD + NEW, DAYS, changed=False), servers)
        outcome = scene.execute(shadow_seconds=20)
        assert (outcome.status, outcome.states[-1]) == ("SUCCEEDED", "Rejected"), (outcome.error, outcome.cause)
        assert outcome.output["end"]["error"] == "Rejected", outcome.output["judge"]
        assert "worse" in outcome.output["judge"]["reason"]
        assert (scene.aliases["champion"], scene.aliases["challengers"]) == ("1", [])
        check_aliases(scene)


def test_champion_that_a_person_brought_back_is_kept(stage: Stage) -> None:
    with stage.act("rolled-back") as scene, scene.servers(1) as servers:
        scene.after["push"] = lambda: send(coming(), servers)
        scene.after["promote"] = lambda: scene.onnxd("rollback", "--reason", "alerts doubled")
        outcome = scene.execute(watch_seconds=30)
        assert (outcome.status, outcome.error) == ("FAILED", "RolledBack")
        assert (scene.aliases["champion"], scene.aliases["reason"]) == ("1", "alerts doubled")
        check_aliases(scene)
        assert run_of(scene).data.tags[END] == "failed"


def test_champion_before_comes_back_when_it_is_better(stage: Stage) -> None:
    with stage.act("back") as scene, scene.servers(1) as servers:
        scene.after["push"] = lambda: send(coming(), servers)
        scene.after["promote"] = lambda: send(later(fleet(OLD + NEW, DAYS, changed=False)), servers)
        outcome = scene.execute(watch_seconds=20)
        assert (outcome.status, outcome.error) == ("FAILED", "RolledBack")
        assert "worse" in outcome.cause
        assert (scene.aliases["champion"], scene.aliases["by"]) == ("1", "training")
        check_aliases(scene)


def test_verdict_that_does_not_come_expires(stage: Stage) -> None:
    with stage.act("expired") as scene, scene.servers(1):
        outcome = scene.execute(shadow_seconds=0)
        assert (outcome.status, outcome.states[-1]) == ("SUCCEEDED", "Rejected"), (outcome.error, outcome.cause)
        assert outcome.output["end"]["error"] == "Expired"
        assert scene.aliases["challengers"] == []
        check_aliases(scene)


def test_function_out_of_time_is_called_once_more_and_then_reported(stage: Stage) -> None:
    with stage.act("late") as scene, scene.servers(1):
        never = threading.Event()
        scene.before["judge"] = lambda: never.wait(3)
        stage.timeouts[local.RELEASE] = 20
        scene.before["push"] = lambda: stage.timeouts.update({local.RELEASE: 0.5})
        scene.before["withdraw"] = lambda: stage.timeouts.update({local.RELEASE: 60})
        try:
            outcome = scene.execute()
        finally:
            stage.timeouts.clear()
        assert outcome.status == "FAILED"
        assert scene.calls.count("judge") == 2
        run = run_of(scene)
        assert run.info.status == "FAILED"


def test_step_whose_process_died_before_it_said_so_is_done_once(stage: Stage) -> None:
    with stage.act("died") as scene, scene.servers(1):
        died = dict.fromkeys(("register", "push"), 1)

        def die(step: str) -> None:
            if died[step]:
                died[step] = 0
                scene.forget(step)
                name = "Runtime.ExitError"
                raise interpreter.ServiceError(name, "RequestId: Error: Runtime exited")

        for step in died:
            scene.after[step] = partial(die, step)
        outcome = scene.execute(shadow_seconds=0)
        assert (outcome.status, outcome.output["end"]["error"]) == ("SUCCEEDED", "Expired"), outcome.cause
        assert (scene.calls.count("register"), scene.calls.count("push")) == (2, 2)
        assert outcome.output["push"]["uploaded"] is False
        client = MlflowClient(scene.settings.mlflow)
        assert len(client.search_model_versions("name = 'anomaly'")) == 2
        # The champion, the challenger once, and its withdrawal.
        assert scene.aliases["epoch"] == 3
        check_aliases(scene)


def test_services_that_answer_later_are_asked_again(stage: Stage) -> None:
    with stage.act("outage") as scene, scene.servers(1):
        scene.before["register"] = outage(1, "MLFLOW_TRACKING_URI")
        scene.before["judge"] = outage(1, "AWS_ENDPOINT_URL")
        outcome = scene.execute(shadow_seconds=0)
        assert outcome.status == "SUCCEEDED", (outcome.error, outcome.cause)
        assert scene.calls.count("register") == 2


def test_model_registered_by_hand_is_pushed_and_served(stage: Stage, tmp_path: Path) -> None:
    with stage.act("by-hand") as scene:
        made = scene.run.read("monotone-logistic/model.onnx")
        document = scene.run.files.read_json("monotone-logistic/manifest.json")
        settings = scene.settings
        tracking = scene.tracking
        tracking.adopt(release._versions(settings))
        manifest = tmp_path / "manifest.json"
        manifest.write_text(json.dumps(document))
        mlflow.set_experiment(settings.experiment)
        with mlflow.start_run():
            info = mlflow.onnx.log_model(
                onnx.load_from_string(made), name="mine", save_as_external_data=False, extra_files=[manifest.as_uri()]
            )
        client = MlflowClient(settings.mlflow)
        version = client.create_model_version("anomaly", info.model_uri)
        client.set_registered_model_alias("anomaly", "challenger", version.version)
        pushed = release.push_from(settings, "models:/anomaly@challenger")
        assert (pushed["version"], pushed["becomes"]) == ("2", "challenger")
        assert scene.aliases["challengers"] == ["2"]
        check_aliases(scene)
        again = release.push_from(settings, "models:/anomaly/2")
        assert again["uploaded"] is False
        # An alias that is set in MLflow serves nothing, and is set back: by itself, and with a push.
        client.set_registered_model_alias("anomaly", "champion", "2")
        assert release.reconcile(settings) == {"champion": "1"}
        client.set_registered_model_alias("anomaly", "champion", "2")
        called = release.push_from(settings, "models:/anomaly@champion")
        assert (called["becomes"], called["aliases"]) == ("challenger", {"champion": "1"})
        assert (scene.aliases["champion"], scene.aliases["challengers"]) == ("1", ["2"])
        # Whoever pushes it says what it becomes.
        assert release.push_from(settings, "models:/anomaly/2", "champion")["becomes"] == "champion"
        assert (scene.aliases["champion"], scene.aliases["challengers"]) == ("2", [])
        check_aliases(scene)


def test_registry_counts_on_from_the_repositorys_versions(stage: Stage) -> None:
    with stage.act("adopted", learned=True) as scene:
        file = stage.folder / "first" / "model.onnx"
        for number in ("2", "5"):
            scene.onnxd("push", file, "--number", number)
        assert scene.tracking.adopt(release._versions(scene.settings)) == ["1", "2", "3", "4", "5"]
        assert release.reconcile(scene.settings) == {"champion": "1"}
        found = release.register(scene.settings, stage.key)
        assert found["version"] == "6"
        assert release.push(scene.settings, stage.key)["version"] == "6"
        check_aliases(scene)


def test_version_takes_a_number_beyond_those_that_mlflow_has(stage: Stage) -> None:
    with stage.act("ahead") as scene:
        client = MlflowClient(scene.settings.mlflow, scene.settings.mlflow)
        client.create_registered_model("anomaly")
        for _ in range(3):
            client.create_model_version("anomaly", stage.folder.as_uri())
        client.set_registered_model_alias("anomaly", "challenger", "3")
        assert release.register(scene.settings, stage.key)["version"] == "4"
        assert release.push(scene.settings, stage.key)["version"] == "4"
        assert (scene.aliases["champion"], scene.aliases["challengers"]) == ("1", ["4"])
        check_aliases(scene)


def another(folder: Path) -> Path:
    """A model of somebody else, with its manifest beside it."""
    made, days = silent(), [fleet(OLD, OLD + NEW, changed=True)]
    told = candidate.document(made, days, table(days[0], Config()), metrics={}, config=Config(), at=TRIGGER["at"])
    return onnxd.place(folder / "another", made.onnx, to_bytes(told))


def test_number_that_somebody_pushed_first_is_left_to_them(stage: Stage, tmp_path: Path) -> None:
    with stage.act("number") as scene, scene.servers(1):
        file = another(tmp_path)
        scene.before["push"] = lambda: scene.onnxd("push", file, "--as", "champion", "--reason", "a fix")
        scene.after["push"] = scene.before.clear
        outcome = scene.execute(shadow_seconds=0)
        assert (outcome.status, outcome.output["end"]["error"]) == ("SUCCEEDED", "Expired"), outcome.cause
        assert (outcome.output["register"]["version"], outcome.output["push"]["version"]) == ("2", "3")
        assert (scene.aliases["champion"], scene.aliases["challengers"]) == ("2", [])
        check_aliases(scene)
        client = MlflowClient(scene.settings.mlflow)
        theirs, ours = (client.get_model_version("anomaly", number) for number in ("2", "3"))
        stored = {n: repository.stored(scene.settings, n).manifest for n in ("2", "3")}
        for version in (theirs, ours):
            assert version.tags[SHA256] == stored[str(version.version)]["artifact"]["sha256"]
        assert theirs.tags[SHA256] != ours.tags[SHA256]
        assert (RUN_KEY in theirs.tags, ours.tags[RUN_KEY]) == (False, stage.key)
        assert "pushed without MLflow" in theirs.tags[REASON]
        assert stored["3"]["version"] == "3"


def test_challenger_that_somebody_pushed_first_is_waited_for(stage: Stage, tmp_path: Path) -> None:
    with stage.act("number-shadow") as scene:
        assert release.register(scene.settings, stage.key)["version"] == "2"
        assert scene.onnxd("push", another(tmp_path), "--as", "challenger")["version"] == "2"
        waits = release.push(scene.settings, stage.key)
        assert waits == {"pushed": False, "reason": "version 2 is in the shadow already", "version": "3"}
        scene.onnxd("withdraw", "2")
        assert release.push(scene.settings, stage.key)["version"] == "3"
        assert scene.aliases["challengers"] == ["3"]
        check_aliases(scene)
