"""MLflow: a run for every pipeline run, models with their signatures, a registry that says what the repository says.

A registered version has the number of the repository's version. The repository's `aliases.json` is the truth: the
aliases `champion`, `challenger`, `challenger-2`, `challenger-3` and `previous` are set after it.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Before MLflow is imported: it would report its use, and try for minutes to reach a server that is down.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")

import mlflow
import numpy as np
import onnx
import requests
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from training.errors import PipelineError, TransientError
from training.processes import environment

URI = "MLFLOW_TRACKING_URI"
RUN_KEY = "onnxd.run_key"
END = "onnxd.end"
REASON = "onnxd.reason"
SHA256 = "onnxd.sha256"
RESOURCE_DOES_NOT_EXIST = "RESOURCE_DOES_NOT_EXIST"
REFUSED = 500
"""HTTP errors from here on are the server's."""
MANIFEST = "extra_files/manifest.json"
"""Where a logged model holds its manifest."""


@contextmanager
def answered() -> Iterator[None]:
    """What MLflow raises, as ours: an error of the server or of the way to it may pass, any other will not.

    Raises:
        TransientError: MLflow does not answer.
        PipelineError: It refuses what was asked.
    """
    try:
        yield
    except MlflowException as error:
        message = f"MLflow: {str(error).splitlines()[0][:500]}"
        if error.get_http_status_code() >= REFUSED:
            raise TransientError(message) from error
        raise PipelineError(message) from error
    except (requests.RequestException, OSError) as error:
        msg = f"MLflow does not answer: {error}"
        raise TransientError(msg) from error


class Tracking:
    """Runs and registered models of one MLflow server, folder or database."""

    def __init__(self, uri: str, experiment: str, model: str) -> None:
        """Opens it, and makes the experiment if need be.

        Args:
            uri: As MLflow takes it: `http://..`, `sqlite:///..`, `postgresql+psycopg2://..`.
            experiment: Its name.
            model: The registered model's name, the same as in the repository.

        Raises:
            TransientError: MLflow does not answer.
        """
        self._model = model
        with answered():
            # MLflow would leave the server's name in the environment as well, which is not ours.
            with environment({URI: uri}):
                mlflow.set_tracking_uri(uri)
                mlflow.set_registry_uri(uri)
            self._client = MlflowClient(uri, uri)
            found = self._client.get_experiment_by_name(experiment)
            self._experiment = found.experiment_id if found else self._make_experiment(uri, experiment)

    def _make_experiment(self, uri: str, name: str) -> str:
        # A database without a server has no place for files: they lie beside it.
        files = None
        if uri.startswith("sqlite:///"):
            files = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
        try:
            return self._client.create_experiment(name, artifact_location=files)
        except MlflowException as error:
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise error from None
            return found.experiment_id

    def run(self, key: str, params: Mapping[str, Any] | None = None) -> str:
        """The id of the run with this key, made if need be."""
        with answered():
            if found := self._find(key):
                return found.info.run_id
            made = self._client.create_run(self._experiment, run_name=f"retrain {key[:12]}", tags={RUN_KEY: key})
            for name, value in (params or {}).items():
                self._client.log_param(made.info.run_id, name, value)
            return made.info.run_id

    def _find(self, key: str) -> Run | None:
        found = self._client.search_runs([self._experiment], f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
        return found[0] if found else None

    def last_start(self, *, but: str | None = None) -> float | None:
        """When the newest run with a key began, Unix seconds; None if there is none. `but` is not counted."""
        with answered():
            found = self._client.search_runs([self._experiment], order_by=["start_time DESC"], max_results=20)
        starts = [r.info.start_time / 1000 for r in found if r.data.tags.get(RUN_KEY) not in {None, but}]
        return max(starts, default=None)

    def log(self, key: str, metrics: Mapping[str, float | None], files: Mapping[str, bytes]) -> None:
        """Adds metrics and files, by their paths, to the run; numbers that are not known are left out."""
        run = self.run(key)
        with answered(), tempfile.TemporaryDirectory() as folder:
            for name, value in metrics.items():
                if value is not None and np.isfinite(value):
                    self._client.log_metric(run, name, float(value))
            for name, content in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            if files:
                self._client.log_artifacts(run, folder)

    def end(self, key: str, end: str, reason: str, *, failed: bool) -> None:
        """Ends the run, in the tags with what came of it and why."""
        run = self.run(key)
        with answered():
            self._client.set_tag(run, END, end)
            self._client.set_tag(run, REASON, reason[:5000])
            self._client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def tag(self, key: str, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        run = self.run(key)
        with answered():
            for name, value in tags.items():
                self._client.set_tag(run, name, value)

    def register(self, key: str, content: bytes, manifest: Mapping[str, Any]) -> tuple[str, str]:
        """Logs the model to the run, and registers it. Once a run, however often it is called.

        Args:
            key: Of the run.
            content: The ONNX file.
            manifest: Its manifest; the signature is taken from it.

        Returns:
            The version's number, and the run's id.
        """
        run = self.run(key)
        with answered():
            for version in self._versions():
                if version.tags.get(RUN_KEY) == key:
                    return str(version.version), run
            with tempfile.TemporaryDirectory() as folder, mlflow.start_run(run_id=run, log_system_metrics=False):
                path = Path(folder) / "manifest.json"
                path.write_text(json.dumps(manifest, indent=1))
                info = mlflow.onnx.log_model(
                    onnx.load_from_string(content),
                    name=self._model,
                    signature=signature(manifest),
                    save_as_external_data=False,
                    extra_files=[path.as_uri()],
                    pip_requirements=[f"{p}=={v}" for p, v in _serving(manifest).items()],
                )
            tags = {RUN_KEY: key, SHA256: manifest["artifact"]["sha256"]}
            made = self._make_version(info.model_uri, run, tags, model_id=info.model_id)
            return str(made.version), run

    def cede(self, key: str, number: str, sha256: str) -> None:
        """Leaves a run's version to the model of this SHA-256, which has its number in the repository.

        What was logged under it stays, and its tags say so; `register` makes another version of the run.
        """
        with answered():
            tags = self._client.get_model_version(self._model, number).tags
            if tags.get(RUN_KEY) != key:
                return
            why = f"version {number} of the repository is another model, pushed without MLflow; ours is a later one"
            for name, value in ((SHA256, sha256), (REASON, why)):
                self._client.set_model_version_tag(self._model, number, name, value)
            # Last: a step that died before is done again.
            self._client.delete_model_version_tag(self._model, number, RUN_KEY)

    def _make_version(self, source: str, run: str | None, tags: dict[str, str], **more: str | None) -> ModelVersion:
        if not self._registered():
            self._client.create_registered_model(self._model)
        return self._client.create_model_version(self._model, source, run, tags=tags, **more)

    def _registered(self) -> bool:
        try:
            self._client.get_registered_model(self._model)
        except MlflowException as error:
            if error.error_code != RESOURCE_DOES_NOT_EXIST:
                raise
            return False
        return True

    def _versions(self) -> list[ModelVersion]:
        return list(self._client.search_model_versions(f"name = '{self._model}'"))

    def knows(self, numbers: Iterable[str]) -> bool:
        """Whether all these versions are registered."""
        with answered():
            return set(numbers) <= {str(v.version) for v in self._versions()}

    def adopt(self, versions: Mapping[str, tuple[str, str]]) -> list[str]:
        """Registers versions that the repository has and MLflow does not, so that both count on from the same number.

        Args:
            versions: By number, a URI of the version's folder and the model's SHA-256.

        Returns:
            The numbers that were registered.
        """
        with answered():
            have = {int(v.version) for v in self._versions()}
            adopted = []
            for number in range(max(have, default=0) + 1, max(map(int, versions), default=0) + 1):
                # A number that the repository skipped is taken too: MLflow counts by ones.
                source, sha256 = versions.get(str(number), ("", ""))
                tags = {SHA256: sha256} if sha256 else {REASON: "the repository has no version of this number"}
                made = self._make_version(source or f"{next(iter(versions.values()))[0]}/missing", None, tags)
                adopted.append(str(made.version))
            return adopted

    def reconcile(self, roles: Mapping[str, str]) -> dict[str, str]:
        """Makes MLflow's aliases those of the repository.

        Args:
            roles: Alias to version, of `aliases.json`.

        Returns:
            What was changed: alias to its new version, or to "" where it was taken away.
        """
        with answered():
            if not self._registered():
                return {}
            have = self.aliases()
            known = {str(v.version) for v in self._versions()}
            changed = {}
            for alias in ALIASES:
                wanted = roles.get(alias)
                if wanted == have.get(alias) or (wanted is not None and wanted not in known):
                    continue
                if wanted is None:
                    self._client.delete_registered_model_alias(self._model, alias)
                else:
                    self._client.set_registered_model_alias(self._model, alias, wanted)
                changed[alias] = wanted or ""
            return changed

    def aliases(self) -> dict[str, str]:
        """The registered model's aliases and their versions."""
        with answered():
            if not self._registered():
                return {}
            model = self._client.get_registered_model(self._model)
            return {alias: str(version) for alias, version in model.aliases.items()}

    def fetch(self, uri: str, folder: Path) -> tuple[str, Path, Path | None]:
        """Loads a registered model's files.

        Args:
            uri: `models:/name@alias` or `models:/name/version`.
            folder: Where to.

        Returns:
            The version's number, the ONNX file, and its manifest if it was logged with one.

        Raises:
            PipelineError: There is no such model, or it is not one ONNX file.
        """
        name, separator, alias = uri.removeprefix("models:/").partition("@")
        if not separator:
            name, _, number = name.partition("/")
        with answered():
            version = (
                self._client.get_model_version_by_alias(name, alias)
                if separator
                else self._client.get_model_version(name, number)
            )
            local = Path(mlflow.artifacts.download_artifacts(f"models:/{name}/{version.version}", dst_path=str(folder)))
        files = sorted(local.rglob("*.onnx"))
        if len(files) != 1:
            msg = f"{uri} holds {len(files)} .onnx files: log it with mlflow.onnx.log_model"
            raise PipelineError(msg)
        manifest = local / MANIFEST
        return str(version.version), files[0], manifest if manifest.is_file() else None


ALIASES = ("champion", "challenger", "challenger-2", "challenger-3", "previous")


def roles_of(aliases: Mapping[str, Any] | None) -> dict[str, str]:
    """Alias to version of an `aliases.json`; the first challenger is `challenger`, the others are numbered from 2."""
    if aliases is None:
        return {}
    roles = {"champion": aliases["champion"]}
    for index, version in enumerate(aliases["challengers"]):
        roles["challenger" if index == 0 else f"challenger-{index + 1}"] = version
    if aliases.get("previous"):
        roles["previous"] = aliases["previous"]
    return roles


def signature(manifest: Mapping[str, Any]) -> ModelSignature:
    """The manifest's signature in MLflow's terms: a tensor for each input and output."""

    def schema(tensors: list[Mapping[str, Any]]) -> Schema:
        specs = [(t["name"], np.dtype(t["dtype"]), tuple(t["shape"])) for t in tensors]
        return Schema([TensorSpec(dtype, shape, name) for name, dtype, shape in specs])

    found = manifest["signature"]
    return ModelSignature(inputs=schema(found["inputs"]), outputs=schema(found["outputs"]))


def _serving(manifest: Mapping[str, Any]) -> dict[str, str]:
    """What a Python server of the model would need, with versions."""
    environment = manifest["training"]["environment"]
    return {package: environment[package] for package in ("onnx", "onnxruntime", "numpy")}
