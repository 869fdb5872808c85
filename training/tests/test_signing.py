"""What the release function pushes is signed by a key in Secrets Manager, and a server that requires that takes it."""

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests

from training import onnxd, signing
from training.errors import PipelineError, TransientError
from training.pipeline import steps
from training.pipeline.settings import Settings
from training.pipeline.work import Run
from training.processes import environment

moto = pytest.importorskip("moto", reason="moto is in server/tests/requirements.lock")

NAME = "ml-anomaly-signing-key"
REGION = "eu-west-1"
AWS = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "eu-north-1"}
"""Another region than the secret's: it is asked where its name says that it is."""


def make_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A private key and its public one, by the commands of docs/deploy.md."""
    private, public = folder / f"{name}.key", folder / f"{name}.pem"
    for words in (
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", private],
        ["openssl", "pkey", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - our own words
    return private, public


@pytest.fixture
def secret() -> Iterator[str]:
    """The ARN of a secret that is empty, as Terraform makes it."""
    with environment(AWS), moto.mock_aws():
        yield boto3.client("secretsmanager", REGION).create_secret(Name=NAME)["ARN"]


def put(secret: str, **value: str | bytes) -> None:
    boto3.client("secretsmanager", REGION).put_secret_value(SecretId=secret, **value)


def registered(place: Path, models: Path, version: str) -> str:
    """A run whose candidate is a version of MLflow's registry. Returns its key."""
    key = version * 64
    run = Run(Settings.read(), key)
    document = json.loads((models / f"anomaly/{version}/manifest.json").read_text())
    run.files.write("model.onnx", (models / f"anomaly/{version}/model.onnx").read_bytes())
    run.files.write_json("manifest.json", document)
    run.files.write_json("register.json", {"run": key, "version": version})
    assert (place / "work").is_dir()
    return key


def push(key: str) -> dict[str, Any]:
    """The step as the state machine calls it."""
    state = {"prepare": {"run_key": key}, "decide": {"settings": {"shadow_seconds": 60}}}
    return steps.release_handler({"step": "push", "execution": {"name": "e1"}, "state": state}, None)


@pytest.fixture
def place(tmp_path: Path, secret: str) -> Iterator[Path]:
    """An empty repository, a work folder, and the release function's environment, which names the secret."""
    (tmp_path / "models").mkdir()
    given = {
        "TRAINING_WORK": str(tmp_path / "work"),
        "ONNXD_REPOSITORY": str(tmp_path / "models"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "ONNXD_PEERS": "127.0.0.1:1",
        "TRAINING_SIGN_WITH": secret,
    }
    with environment(given):
        yield tmp_path


@pytest.mark.usefixtures("program")
def test_what_is_released_is_signed_and_loads_where_signatures_are_required(
    place: Path, secret: str, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (place / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place / "tmp"))
    private, public = make_key(place, "release")
    _, other = make_key(place, "other")
    key = registered(place, models, "1")
    # Until somebody puts the key in, nothing is pushed, and least of all unsigned.
    with pytest.raises(PipelineError, match=r"can't find the specified secret value.*docs/deploy.md says how"):
        push(key)
    assert not (place / "models/anomaly").exists()
    put(secret, SecretString=private.read_text())
    pushed = push(key)
    assert (pushed["pushed"], pushed["role"]) == (True, "champion")
    folder = place / "models/anomaly/1"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "manifest.json.sig", "model.onnx"]
    # The key is nowhere but in the secret.
    assert list((place / "tmp").iterdir()) == []
    text = private.read_text().splitlines()[1]
    assert text not in caplog.text
    written = [p for p in (*(place / "work").rglob("*"), *(place / "models").rglob("*")) if p.is_file()]
    assert len(written) > 5
    assert not any(text.encode() in p.read_bytes() for p in written)
    with onnxd.serve(place / "models", ["--require-signature", str(public)]) as server:
        answer = requests.post(
            f"http://{server.http}/predict", json={"cpu_zscore": 2.1, "memory_zscore": 1.5}, timeout=10
        )
        assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
    monkeypatch.setattr("training.processes.START", 5.0)
    trusts_another = onnxd.serve(place / "models", ["--require-signature", str(other)])
    with pytest.raises(PipelineError, match="made by none of the trusted keys"), trusts_another:
        pass


@pytest.mark.usefixtures("program")
def test_a_key_in_a_file_signs_too(place: Path, models: Path) -> None:
    private, _ = make_key(place, "release")
    with environment({"TRAINING_SIGN_WITH": str(private)}):
        assert push(registered(place, models, "1"))["pushed"]
    assert (place / "models/anomaly/1/manifest.json.sig").is_file()


@pytest.mark.usefixtures("program")
def test_without_a_key_nothing_is_signed(place: Path, models: Path) -> None:
    """As a fork has it that turns signatures off: `TRAINING_SIGN_WITH` is empty."""
    with environment({"TRAINING_SIGN_WITH": ""}):
        assert push(registered(place, models, "1"))["pushed"]
    assert not (place / "models/anomaly/1/manifest.json.sig").exists()


@pytest.mark.usefixtures("program")
def test_a_secret_that_is_no_key_is_told_by_its_name(place: Path, secret: str, models: Path) -> None:
    put(secret, SecretString="no key")
    with pytest.raises(PipelineError, match=rf"{NAME}-\w+-\w+: .* must be an Ed25519 private key in PEM"):
        push(registered(place, models, "1"))
    assert not (place / "models/anomaly").exists()


def test_a_key_is_in_a_file_of_ones_own_while_it_is_used(secret: str) -> None:
    put(secret, SecretString="the key")
    with signing.flags(secret) as (flag, file):
        assert (flag, Path(file).read_text()) == ("--sign-with", "the key")
        assert Path(file).stat().st_mode & 0o777 == 0o600
    assert not Path(file).exists()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ("arn:aws:s3:::bucket", "name a file, or the ARN of a secret"),
        (f"arn:aws:secretsmanager:{REGION}:123456789012:secret:other-AbCdEf", "can't find the specified secret"),
    ],
)
@pytest.mark.usefixtures("secret")
def test_mistakes_are_told(named: str, says: str) -> None:
    with pytest.raises(PipelineError, match=says), signing.flags(named):
        pass


def test_a_secret_of_bytes_is_no_text(secret: str) -> None:
    put(secret, SecretBinary=b"key")
    with pytest.raises(PipelineError, match="holds no text"), signing.flags(secret):
        pass


def test_who_does_not_answer_is_asked_again() -> None:
    with environment({**AWS, "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}):
        arn = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:{NAME}-AbCdEf"
        with pytest.raises(TransientError, match=NAME), signing.flags(arn):
            pass
