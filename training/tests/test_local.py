"""The whole loop by one command: PostgreSQL, MLflow, S3, two servers, three days of traffic; then nothing is left.

Begun by a lost skill, and by drift.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from rich.console import Console

from training import local, services
from training.commands import DRIFT_SOURCE, LOCAL_SOURCE
from training.errors import PipelineError
from training.pipeline import decide
from training.pipeline.settings import Settings
from training.processes import environment
from training.storage import Storage
from training.tracking import END, SHA256

pytest.importorskip("moto.stepfunctions", reason="moto is in server/tests/requirements.lock")


@pytest.fixture(autouse=True)
def _parts(program: Path) -> None:  # noqa: ARG001 - the server's program is one
    try:
        services.postgres_programs()
    except PipelineError as error:
        pytest.skip(str(error))


def test_one_command_retrains_and_leaves_nothing_behind(tmp_path: Path) -> None:
    seen: dict[str, object] = {}

    def look(stage: local.Stage, settings: Settings) -> None:
        client = MlflowClient(stage.mlflow, stage.mlflow)
        version = client.get_model_version_by_alias(settings.model, "champion")
        run = client.get_run(version.run_id)
        seen.update(version=str(version.version), sha256=version.tags[SHA256], status=run.info.status)
        seen.update(end=run.data.tags[END], source=run.data.params["source"], mlflow=stage.mlflow)
        seen.update(plots=sorted(Path(one.path).name for one in client.list_artifacts(run.info.run_id, "plots")))
        seen.update(versions=len(client.search_model_versions(f"name = '{settings.model}'")))

    assert local.run(LOCAL_SOURCE, tmp_path, Console(stderr=True), at_end=look) == 0
    assert (seen["version"], seen["versions"], seen["status"], seen["end"]) == ("2", 2, "FINISHED", "promoted")
    assert str(seen["source"]).startswith("rows:s3://metrics")
    assert seen["plots"] == ["forecast.png", "precision-recall.png", "reliability.png", "score.png"]
    with pytest.raises(requests.ConnectionError):
        requests.get(str(seen["mlflow"]), timeout=5)
    assert not (tmp_path / "postgres" / "data" / "postmaster.pid").exists()


def gauge(peer: str, name: str) -> dict[str, float]:
    """A metric of a server, by its feature."""
    text = requests.get(f"http://{peer}/metrics", timeout=10).text
    found = re.findall(rf'^{name}{{.*feature="([^"]*)".*}} (\S+)$', text, re.MULTILINE)
    return {feature: float(value) for feature, value in found}


def test_drift_begins_a_retraining_that_is_held_by_its_own_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger: dict[str, Any] = {}

    def drifted(settings: Settings) -> list[str]:
        """What verdicts say, as soon as the alert of docs/verdict.md rings for the same features on some server."""
        alerts = set()
        for peer in settings.peers:
            psi, log_e = gauge(peer, "onnxd_drift_psi"), gauge(peer, "onnxd_drift_log_e")
            alerts |= {name for name in psi if psi[name] >= 0.1 and log_e[name] >= 6.9}
        found = decide.drifted(settings)
        return found if sorted(alerts) == found else []

    def look(_: local.Stage, settings: Settings) -> None:
        ledger.update(Storage(settings.repository).read_json("anomaly/ledger/3.json"))

    monkeypatch.setattr(local, "drifted", drifted)
    with environment({"TRAINING_RECIPES": "monotone-logistic"}):
        assert local.run(DRIFT_SOURCE, tmp_path, Console(stderr=True), trigger="drift", at_end=look) == 0
    # At the promotion the inputs were not as in the champion's training, and as in the challenger's.
    assert (ledger["action"], ledger["by"], ledger["champion"]) == ("promote", "training", "2")
    (verdict,) = ledger["evidence"]["verdicts"]
    assert "cpu_baseline" in alarms(ledger["evidence"]["drift"])
    assert "cpu_baseline" in verdict["drift"]
    assert alarms(verdict["drift"]) == []
    (inputs,) = (one for one in verdict["conditions"] if one["name"] == "inputs as in training")
    assert inputs["holds"]


def alarms(drift: dict[str, Any]) -> list[str]:
    """The features that drift."""
    return sorted(name for name, one in drift.items() if one["alarm"])
