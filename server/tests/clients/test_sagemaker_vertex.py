"""What SageMaker and Vertex AI ask of a container: variables of the environment say where to listen."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import oracle
import repository
from repository import Export
from running import Server, request

Models = dict[str, Export]


def free_port() -> int:
    """A port that was free a moment ago: the platforms name the port, they take none that the system chose."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def container(folder: Path, model: Path, environment: dict[str, str], *args: str) -> Iterator[Server]:
    """The image is started as `onnxd serve` with the model's folder and the platform's variables."""
    with Server(folder, model, *args, environment=environment, listen=False) as started:
        yield started.ready()


@pytest.fixture(scope="module")
def sagemaker(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """As in /opt/ml/model: what model.tar.gz held, here one model's tree."""
    port = free_port()
    folder = tmp_path_factory.mktemp("sagemaker")
    model = folder / "model"
    repository.copy(models, ["anomaly"], model)
    with container(folder, model, {"SAGEMAKER_BIND_TO_PORT": str(port)}) as started:
        assert started.http.rsplit(":", 1)[1] == str(port)
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def vertex(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    environment = {
        "AIP_HTTP_PORT": str(port),
        "AIP_HEALTH_ROUTE": "/health-of-vertex",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/5/deployedModels/7:predict",
        "AIP_MODE": "PREDICTION",
    }
    folder = tmp_path_factory.mktemp("vertex")
    with container(folder, models["anomaly"].path.parents[1].parent, environment, "--models", "anomaly") as started:
        assert started.http.rsplit(":", 1)[1] == str(port)
        yield f"127.0.0.1:{port}"


def test_sagemaker_ping(sagemaker: str) -> None:
    begin = time.monotonic()
    reply = request(sagemaker, "GET", "/ping")
    assert reply.status == 200
    assert not reply.body.strip()
    assert time.monotonic() - begin < 2


def test_sagemaker_invocations(sagemaker: str, models: Models) -> None:
    matrix = models["anomaly"].inputs["features"].astype(np.float64).tolist()
    headers = {
        "content-type": "application/json",
        "x-amzn-sagemaker-custom-attributes": "trace=1",
        "x-amzn-sagemaker-inference-id": "7",
    }
    for body in ('{"instances": %s}', '{"inputs": %s}'):
        reply = request(sagemaker, "POST", "/invocations", body % matrix, headers)
        assert reply.status == 200, reply.text
        got = reply.json["predictions"]
        for name, array in models["anomaly"].expected().items():
            column = got[name] if isinstance(got, dict) else [row[name] for row in got]
            oracle.same_text(column, array, name)


def test_sagemaker_csv(sagemaker: str, models: Models) -> None:
    rows = models["anomaly"].inputs["features"].astype(np.float64).tolist()
    names = "cpu_zscore,memory_zscore,disk_io_zscore,cpu_baseline,cpu_scale"
    text = "\n".join([names, *(",".join(map(str, row)) for row in rows)])
    reply = request(sagemaker, "POST", "/invocations", text, {"content-type": "text/csv"})
    assert reply.status == 200, reply.text
    scores = [row["score"] for row in reply.json["predictions"]]
    oracle.same_text(scores, models["anomaly"].expected()["score"])


def test_vertex_health(vertex: str) -> None:
    assert request(vertex, "GET", "/health-of-vertex").status == 200


def test_vertex_predict(vertex: str, models: Models) -> None:
    matrix = models["anomaly"].inputs["features"].astype(np.float64).tolist()
    names = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"]
    for instances in (matrix, [dict(zip(names, row, strict=True)) for row in matrix]):
        for more in ({}, {"parameters": {"threshold": 0.5}}):
            body = {"instances": instances, **more}
            reply = request(vertex, "POST", "/v1/endpoints/5/deployedModels/7:predict", body)
            assert reply.status == 200, reply.text
            rows = reply.json["predictions"]
            assert len(rows) == len(matrix)
            for name, array in models["anomaly"].expected().items():
                oracle.same_text([row[name] for row in rows], array, name)


def test_vertex_errors(vertex: str) -> None:
    for body in ({}, {"instances": [{"cpu_zscore": 1}]}, {"instances": [[1]]}):
        reply = request(vertex, "POST", "/v1/endpoints/5/deployedModels/7:predict", body)
        assert reply.status in (400, 422), reply.text
        assert reply.json["error"]


def test_other_addresses_stay(vertex: str) -> None:
    """The platform's routes come beside the usual ones."""
    body = {"cpu_zscore": 1, "memory_zscore": 2}
    assert request(vertex, "POST", "/predict", body).status == 200
    assert request(vertex, "GET", "/v2/health/ready").status == 200
