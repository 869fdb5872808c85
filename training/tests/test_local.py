"""The whole loop by one command: PostgreSQL, MLflow, S3, two servers, three days of traffic; then nothing is left."""

from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from rich.console import Console

from training import local, services
from training.commands import LOCAL_SOURCE
from training.errors import PipelineError
from training.pipeline.settings import Settings
from training.tracking import END, SHA256

pytest.importorskip("moto.stepfunctions", reason="moto is in server/tests/requirements.lock")


@pytest.mark.usefixtures("program")
def test_one_command_retrains_and_leaves_nothing_behind(tmp_path: Path) -> None:
    try:
        services.postgres_programs()
    except PipelineError as error:
        pytest.skip(str(error))
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
