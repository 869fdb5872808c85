"""KServe's own clients, over REST in both versions of its protocol and over gRPC."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc
import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, InferResponse, RESTConfig
from kserve.errors import InferenceError, InvalidInput
from kserve.protocol.infer_type import RequestedOutput

import oip
import oracle
from repository import Export
from running import Server

Models = dict[str, Export]
T = TypeVar("T")

# Types that KServe's own code maps to NumPy and back.
UNKNOWN_TO_KSERVE = {"BF16"}
BINARY_ONLY = {"FP16", "BF16"}


def rest(server: Server, version: str, use: Callable[[InferenceRESTClient, str], Awaitable[T]]) -> T:
    """Runs one use of a REST client that is closed afterwards."""

    async def run() -> T:
        async with InferenceRESTClient(RESTConfig(protocol=version, retries=0, timeout=30)) as client:
            return await use(client, f"http://{server.http}")

    return asyncio.run(run())


def grpc_call(server: Server, use: Callable[[InferenceGRPCClient], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        async with InferenceGRPCClient(server.grpc, timeout=30, retries=0) as client:
            return await use(client)

    return asyncio.run(run())


def request(export: Export, *, binary: bool, outputs: list[RequestedOutput] | None = None) -> InferRequest:
    inputs = []
    for name, array in export.inputs.items():
        given = InferInput(name, list(array.shape), oip.datatype(array))
        given.set_data_from_numpy(array, binary_data=binary)
        inputs.append(given)
    return InferRequest(export.name, inputs, request_id="k1", request_outputs=outputs)


def check(response: InferResponse, export: Export) -> None:
    expected = export.expected()
    assert response.id == "k1"
    assert response.model_name == export.name
    assert [output.name for output in response.outputs] == list(expected)
    for output in response.outputs:
        oracle.same_bits(output.as_numpy(), expected[output.name], output.name)


def kinds(export: Export) -> set[str]:
    return {oip.datatype(array) for array in [*export.inputs.values(), *export.expected().values()]}


@pytest.mark.parametrize("binary", [False, True])
def test_rest_v2(server: Server, export: Export, binary: bool) -> None:  # noqa: FBT001
    used = kinds(export)
    if used & UNKNOWN_TO_KSERVE or (not binary and used & BINARY_ONLY):
        with pytest.raises((InferenceError, InvalidInput)):
            request(export, binary=binary).to_rest()
        return
    outputs = [RequestedOutput(name, {"binary_data": binary}) for name in export.expected()]
    made = request(export, binary=binary, outputs=outputs)
    check(rest(server, "v2", lambda c, url: c.infer(url, made, model_name=export.name)), export)


def test_rest_v2_health(server: Server) -> None:
    assert rest(server, "v2", lambda c, url: c.is_server_live(url)) is True
    assert rest(server, "v2", lambda c, url: c.is_server_ready(url)) is True
    assert rest(server, "v2", lambda c, url: c.is_model_ready(url, "tokens")) is True
    assert rest(server, "v2", lambda c, url: c.is_model_ready(url, "nobody")) is False


def test_rest_v1_health(server: Server) -> None:
    assert rest(server, "v1", lambda c, url: c.is_model_ready(url, "tokens")) is True
    with pytest.raises(httpx.HTTPStatusError) as caught:
        rest(server, "v1", lambda c, url: c.is_model_ready(url, "nobody"))
    assert caught.value.response.status_code == 404


def test_rest_v1_is_alive(server: Server) -> None:
    """The v1 client asks the root for {"status": "alive"}."""
    assert rest(server, "v1", lambda c, url: c.is_server_live(url)) is True


def test_rest_v1(server: Server, models: Models) -> None:
    export = models["sklearn-dense"]
    expected = export.expected()
    data = {"instances": export.inputs["X"].astype(np.float64).tolist()}
    got = rest(server, "v1", lambda c, url: c.infer(url, data, model_name=export.name))
    for name, array in expected.items():
        oracle.same_text([row[name] for row in got["predictions"]], array, name)


def test_rest_v1_of_one_output(server: Server, models: Models) -> None:
    export = models["sklearn-regressor"]
    data = {"instances": export.inputs["X"].astype(np.float64).tolist()}
    got = rest(server, "v1", lambda c, url: c.infer(url, data, model_name=export.name))
    oracle.same_text(got["predictions"], export.expected()["variable"])


def test_rest_lists_models(server: Server, models: Models) -> None:
    assert set(server.call("GET", "/v1/models").json["models"]) >= set(models)


def test_no_explanations(server: Server) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        rest(server, "v1", lambda c, url: c.explain(url, "tokens", {"instances": [1]}))
    assert caught.value.response.status_code in (404, 501)
    assert isinstance(caught.value.response.json()["error"], str)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_rest_errors(server: Server, models: Models, version: str) -> None:
    short = Export("sklearn-dense", b"", {"X": models["sklearn-dense"].inputs["X"][:, :3].copy()})
    rows = {"instances": short.inputs["X"].astype(float).tolist()}
    data = rows if version == "v1" else request(short, binary=False)
    for name, statuses in [("nobody", {404}), ("sklearn-dense", {400, 422})]:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            rest(server, version, lambda c, url, name=name: c.infer(url, data, model_name=name))
        assert caught.value.response.status_code in statuses
        assert isinstance(caught.value.response.json()["error"], str)


def test_grpc(server: Server, export: Export) -> None:
    if kinds(export) & UNKNOWN_TO_KSERVE:
        with pytest.raises((InferenceError, InvalidInput)):
            request(export, binary=True)
        return
    check(grpc_call(server, lambda client: client.infer(request(export, binary=True))), export)


def test_grpc_typed(server: Server, models: Models) -> None:
    for name in ("sklearn-dense", "sklearn-pipeline", "type-bool", "type-uint64", "type-string"):
        export = models[name]
        made = request(export, binary=False)
        check(grpc_call(server, lambda client, made=made: client.infer(made)), export)


def test_grpc_health(server: Server) -> None:
    assert grpc_call(server, lambda client: client.is_server_live()) is True
    assert grpc_call(server, lambda client: client.is_server_ready()) is True
    assert grpc_call(server, lambda client: client.is_model_ready("tokens")) is True


def test_grpc_errors(server: Server, models: Models) -> None:
    made = request(Export("nobody", b"", models["sklearn-dense"].inputs), binary=True)
    with pytest.raises(grpc.RpcError) as caught:
        grpc_call(server, lambda client: client.infer(made))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
