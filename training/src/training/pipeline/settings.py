"""What a pipeline works with: each setting by a flag of the command line or by the environment of a Lambda function."""

import os
from dataclasses import dataclass, field, fields
from typing import Any

from training.config import Config
from training.errors import PipelineError

DAY = 86_400


def _setting(environment: str, text: str, default: Any = None) -> Any:  # noqa: ANN401 - a field of any type
    return field(default=default, metadata={"environment": environment, "help": text})


@dataclass(frozen=True)
class Settings:
    """Where things are, and how long to wait. Names of the server's settings are the server's."""

    source: str = _setting("TRAINING_SOURCE", "where the metrics come from; `prepare --help` lists the forms", "")
    work: str = _setting(
        "TRAINING_WORK", "folder or s3://bucket/prefix for what the steps hand to each other", "build/training"
    )
    repository: str = _setting("ONNXD_REPOSITORY", "model repository: a folder or s3://bucket/prefix", "models")
    model: str = _setting("ONNXD_MODEL", "the model's name, in the repository and in MLflow", "anomaly")
    tracking: str = _setting(
        "MLFLOW_TRACKING_URI", "MLflow: http://.., or a database; default: mlflow.db in the work folder", ""
    )
    experiment: str = _setting("MLFLOW_EXPERIMENT_NAME", "MLflow's experiment", "anomaly")
    recipes: tuple[str, ...] = _setting(
        "TRAINING_RECIPES", "recipes to try, with commas between", ("monotone-logistic", "gradient-boosting")
    )
    peers: tuple[str, ...] = _setting(
        "ONNXD_PEERS", "operations ports of the servers, HOST:PORT, with commas between", ("127.0.0.1:8082",)
    )
    verdict: tuple[str, ...] = _setting(
        "TRAINING_VERDICT", "flags for `onnxd verdict`, the servers' own, with commas between", ()
    )
    sign_with: str = _setting(
        "TRAINING_SIGN_WITH",
        "private key (Ed25519, PEM) that signs the manifest: a file, or the ARN of a secret of AWS Secrets Manager",
        "",
    )
    cool_down: int = _setting("TRAINING_COOL_DOWN", "seconds between two retrainings", DAY)
    seed: int = _setting("TRAINING_SEED", "of everything random", Config.seed)

    @property
    def mlflow(self) -> str:
        """The tracking URI.

        Raises:
            PipelineError: Work is in S3, where no database can be, and no server is named.
        """
        if self.tracking:
            return self.tracking
        if "://" in self.work:
            msg = "name an MLflow server with --tracking or MLFLOW_TRACKING_URI: a database cannot be in S3"
            raise PipelineError(msg)
        return f"sqlite:///{self.work}/mlflow.db"

    @classmethod
    def read(cls, given: dict[str, Any] | None = None) -> "Settings":
        """Of the environment, and over it what is given and not None.

        Raises:
            PipelineError: A number is none.
        """
        found = {}
        for one in fields(cls):
            value = (given or {}).get(one.name)
            if value is None:
                value = os.environ.get(one.metadata["environment"])
            if value is not None and value != "":
                found[one.name] = _convert(one.metadata["environment"], one.default, value)
        return cls(**found)


def _convert(name: str, default: Any, value: Any) -> Any:  # noqa: ANN401 - a field of any type
    """A value of the type of a setting's default."""
    if isinstance(default, tuple) and isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    if isinstance(default, int):
        try:
            return int(value)
        except ValueError as error:
            msg = f"{name} is {value!r}: give a whole number"
            raise PipelineError(msg) from error
    return value
