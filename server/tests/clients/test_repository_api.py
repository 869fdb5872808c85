"""Triton's repository extension on a server of its own: its models come and go."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

import repository
from repository import Export
from running import Server, until
from triton import GrpcClient, HttpClient, check, grpc_inputs, http_inputs

Models = dict[str, Export]
Client = HttpClient | GrpcClient

REFUSED = {"401", "403", "StatusCode.UNAUTHENTICATED", "StatusCode.PERMISSION_DENIED"}


@pytest.fixture(scope="module")
def small(models: Models, token_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("small")
    repository.copy(models, ["tokens", "sklearn-dense"], root)
    with Server(tmp_path_factory.mktemp("small-server"), root, "--admin-token-file", str(token_file)) as started:
        yield started.ready()


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, small: Server) -> Iterator[Client]:
    with HttpClient(small.http) if request.param == "http" else GrpcClient(small.grpc) as made:
        yield made


def states(client: Client) -> dict[str, str]:
    if isinstance(client, HttpClient):
        return {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    return {entry.name: entry.state for entry in client.get_model_repository_index().models}


def infer(client: Client, export: Export) -> None:
    grpc = isinstance(client, GrpcClient)
    check(client.infer(export.name, (grpc_inputs if grpc else http_inputs)(export.inputs)), export)


def test_unload_and_load(client: Client, models: Models, admin: dict[str, str]) -> None:
    infer(client, models["tokens"])
    client.unload_model("tokens", headers=admin)
    until("the model to be gone", lambda: not client.is_model_ready("tokens"))
    assert states(client)["tokens"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException):
        infer(client, models["tokens"])
    infer(client, models["sklearn-dense"])
    client.load_model("tokens", headers=admin)
    until("the model to be back", lambda: client.is_model_ready("tokens"))
    assert states(client)["tokens"] == "READY"
    infer(client, models["tokens"])


def test_load_again(client: Client, models: Models, admin: dict[str, str]) -> None:
    client.load_model("sklearn-dense", headers=admin)
    assert client.is_model_ready("sklearn-dense")
    infer(client, models["sklearn-dense"])


@pytest.mark.parametrize("headers", [None, {"authorization": "Bearer wrong"}, {"authorization": "Basic YTph"}])
def test_without_the_token(client: Client, headers: dict[str, str] | None) -> None:
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException) as caught:
            call("tokens", headers=headers)
        assert caught.value.status() in REFUSED, caught.value
        assert caught.value.message()
    assert client.is_model_ready("tokens")


def test_unknown_model(client: Client, admin: dict[str, str]) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.load_model("nobody", headers=admin)
    assert "nobody" in caught.value.message()


def test_models_in_the_request_are_refused(client: Client, models: Models, admin: dict[str, str]) -> None:
    files = {"file:1/model.onnx": models["tokens"].onnx}
    with pytest.raises(InferenceServerException):
        client.load_model("guest", headers=admin, config="{}", files=files)
    assert "guest" not in states(client)


def test_off_without_a_token_file(models: Models, tmp_path: Path, admin: dict[str, str]) -> None:
    with Server(tmp_path, models["tokens"].path) as plain:
        plain.ready()
        (model,) = plain.ops("GET", "/status").json["models"]
        with HttpClient(plain.http) as client:
            for headers in (None, admin):
                with pytest.raises(InferenceServerException) as caught:
                    client.unload_model(model["name"], headers=headers)
                assert caught.value.status() in REFUSED
