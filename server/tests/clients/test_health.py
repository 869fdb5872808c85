"""Every protocol's readiness while a server starts without a model that loads, drains, and is overloaded."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grpc import insecure_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

import oip
import repository
from repository import TRIGGER, Export
from running import Reply, Server, until
from triton import GrpcClient, check, grpc_inputs

Models = dict[str, Export]

READY = ["/v2/health/ready", "/ping", "/readyz"]
LIVE = ["/v2/health/live", "/livez"]


def health(server: Server) -> int:
    with insecure_channel(server.grpc) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return stub.Check(health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")).status


def test_ready(server: Server) -> None:
    assert {path: server.call("GET", path).status for path in READY + LIVE} == dict.fromkeys(READY + LIVE, 200)
    assert health(server) == health_pb2.HealthCheckResponse.SERVING


def test_draining(models: Models, tmp_path: Path) -> None:
    """After SIGTERM everybody is told, and whoever has not heard yet is still served."""
    export = models["tokens"]
    with Server(tmp_path, export.path, environment={"ONNXD_DRAIN_DELAY": "20s"}) as server:
        server.ready()
        (model,) = server.ops("GET", "/status").json["models"]
        server.process.send_signal(signal.SIGTERM)
        until("the server to drain", lambda: server.call("GET", "/readyz").status == 503)
        assert {path: server.call("GET", path).status == 200 for path in READY} == dict.fromkeys(READY, False)
        assert health(server) == health_pb2.HealthCheckResponse.NOT_SERVING
        with GrpcClient(server.grpc) as client:
            assert not client.is_server_ready()
            assert client.is_server_live()
            check(client.infer(model["name"], grpc_inputs(export.inputs)), export)
        server.process.kill()


def stalled(server: Server, models: Models) -> Reply:
    forever = models["stalls"].inputs["features"].copy()
    forever[0, 0] = TRIGGER
    body, headers = oip.encode_binary({"features": forever}, parameters={"timeout": 2_000_000})
    return server.call("POST", "/v2/models/stalls/infer", body, headers)


@pytest.fixture
def narrow(models: Models, tmp_path: Path) -> Server:
    """A server that lets hardly anything wait."""
    root = tmp_path / "root"
    repository.copy(models, ["stalls", "tokens"], root)
    options = ["--queue-rows", "3", "--workers", "1", "--http-threads", "1", "--request-timeout", "2s"]
    with Server(tmp_path, root, *options) as started:
        yield started.ready()


def test_overload_over_http(narrow: Server, models: Models) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: stalled(narrow, models), range(8)))
    statuses = [reply.status for reply in replies]
    assert set(statuses) == {503, 504}, statuses
    for reply in replies:
        assert isinstance(reply.json["error"], str)
        assert reply.status != 503 or int(reply.headers["retry-after"]) > 0


def test_overload_over_grpc(narrow: Server, models: Models) -> None:
    forever = models["stalls"].inputs["features"].copy()
    forever[0, 0] = TRIGGER

    def ask(_: int) -> str | None:
        with GrpcClient(narrow.grpc) as client, pytest.raises(InferenceServerException) as caught:
            client.infer("stalls", grpc_inputs({"features": forever}))
        return caught.value.status()

    with ThreadPoolExecutor(8) as pool:
        statuses = set(pool.map(ask, range(8)))
    assert statuses == {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"}
