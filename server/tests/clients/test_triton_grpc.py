"""Triton's gRPC client, which sends and gets raw bytes."""

import queue
from collections.abc import Iterator

import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import Channel, insecure_channel
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException

import oip
from repository import TRIGGER, Export
from running import Server, until
from triton import GrpcClient, check, grpc_inputs, wrong_inputs

Models = dict[str, Export]

SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def channel(server: Server) -> Iterator[Channel]:
    with insecure_channel(server.grpc) as made:
        yield made


def refused(client: GrpcClient, model: str, inputs: list[InferInput], **options: object) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, **options)
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_health(grpc: GrpcClient) -> None:
    assert grpc.is_server_live()
    assert grpc.is_server_ready()


def test_model_ready(grpc: GrpcClient) -> None:
    assert grpc.is_model_ready("sklearn-dense")
    assert grpc.is_model_ready("sklearn-dense", "1")
    for name, version in [("sklearn-dense", "7"), ("nobody", "")]:
        try:
            assert not grpc.is_model_ready(name, version)
        except InferenceServerException as error:
            assert error.status() == "StatusCode.NOT_FOUND"  # noqa: PT017  either is right


def test_health_service(channel: Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", SERVICE):
        assert stub.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=service))
        assert next(watch).status == serving
        watch.cancel()


def test_reflection(channel: Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    service = DescriptorPool(database).FindServiceByName(SERVICE)
    assert {"ModelInfer", "ModelMetadata", "ServerReady"} <= set(service.methods_by_name)
    assert service.methods_by_name["ModelInfer"].input_type.fields_by_name["raw_input_contents"].number == 7


def test_server_metadata(grpc: GrpcClient) -> None:
    metadata = grpc.get_server_metadata()
    assert metadata.name == "onnxd"
    assert metadata.version
    assert list(metadata.extensions)


def test_model_metadata(grpc: GrpcClient, export: Export) -> None:
    metadata = grpc.get_model_metadata(export.name)
    assert metadata.name == export.name
    assert list(metadata.versions) == ["1"]
    assert metadata.platform in ("onnxruntime_onnx", "onnx_onnxv1")
    for ports, arrays in [(metadata.inputs, export.inputs), (metadata.outputs, export.expected())]:
        assert [port.name for port in ports] == list(arrays)
        assert [port.datatype for port in ports] == [oip.datatype(array) for array in arrays.values()]
        assert [len(port.shape) for port in ports] == [array.ndim for array in arrays.values()]


def test_both_protocols_say_the_same(server: Server, grpc: GrpcClient, export: Export) -> None:
    plain = server.call("GET", f"/v2/models/{export.name}").json
    metadata = grpc.get_model_metadata(export.name, as_json=True)
    for side in ("inputs", "outputs"):
        as_http = [(p["name"], p["datatype"], [int(d) for d in p["shape"]]) for p in plain[side]]
        as_grpc = [(p["name"], p["datatype"], [int(d) for d in p.get("shape", [])]) for p in metadata[side]]
        assert as_http == as_grpc


def test_unknown_models_and_versions(grpc: GrpcClient) -> None:
    for call in (grpc.get_model_metadata, grpc.get_model_config, grpc.get_inference_statistics):
        for name, version in [("nobody", ""), ("tokens", "2")]:
            with pytest.raises(InferenceServerException) as caught:
                call(name, version)
            assert caught.value.status() == "StatusCode.NOT_FOUND"
            assert (version or name) in caught.value.message()


def test_model_config(grpc: GrpcClient) -> None:
    config = grpc.get_model_config("tokens").config
    assert config.name == "tokens"
    assert [port.name for port in config.input] == ["input_ids", "attention_mask"]
    assert {port.name for port in config.output} == {"last_hidden_state", "pooled"}
    types = {t.name: t.number for t in config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values}
    assert {port.data_type for port in config.input} == {types["TYPE_INT64"]}


def test_statistics(grpc: GrpcClient, models: Models) -> None:
    def now() -> tuple[int, int, int]:
        (stats,) = grpc.get_inference_statistics("image").model_stats
        return stats.inference_count, stats.execution_count, stats.inference_stats.success.count

    before = now()
    grpc.infer("image", grpc_inputs(models["image"].inputs))
    after = until("the request to be counted", lambda: (n := now()) != before and n)
    assert after[0] == before[0] + 2
    assert after[1] > before[1]
    assert after[2] == before[2] + 1


def test_index(grpc: GrpcClient, models: Models) -> None:
    ready = {entry.name: entry.version for entry in grpc.get_model_repository_index().models if entry.state == "READY"}
    assert set(ready) >= set(models)
    assert ready["tokens"] == "1"


def test_infer(grpc: GrpcClient, export: Export) -> None:
    result = grpc.infer(export.name, grpc_inputs(export.inputs))
    check(result, export)
    response = result.get_response()
    assert response.model_name == export.name
    assert len(response.raw_output_contents) == len(response.outputs)


def test_some_outputs(grpc: GrpcClient, models: Models) -> None:
    export = models["sklearn-zipmap"]
    outputs = [InferRequestedOutput("output_label")]
    result = grpc.infer(export.name, grpc_inputs(export.inputs), outputs=outputs)
    assert [output.name for output in result.get_response().outputs] == ["output_label"]
    check(result, export, {"output_label": export.expected()["output_label"]})


def test_id_version_and_parameters(grpc: GrpcClient, models: Models) -> None:
    result = grpc.infer(
        "anomaly",
        grpc_inputs(models["anomaly"].inputs),
        model_version="1",
        request_id="request 17",
        priority=1,
        timeout=4_000_000,
        parameters={"team": "a", "retries": 2, "sure": True, "share": 0.5},
    )
    check(result, models["anomaly"])
    response = result.get_response()
    assert (response.id, response.model_version) == ("request 17", "1")


def test_classification(grpc: GrpcClient, models: Models) -> None:
    export = models["sklearn-zipmap"]
    outputs = [InferRequestedOutput("output_probability", class_count=1)]
    got = grpc.infer(export.name, grpc_inputs(export.inputs), outputs=outputs).as_numpy("output_probability")
    expected = export.expected()["output_probability"].argmax(axis=1)
    assert got.shape == (len(expected), 1)
    assert [int(entry.decode().split(":")[1]) for entry in got[:, 0]] == expected.tolist()


def test_compression(grpc: GrpcClient, models: Models) -> None:
    export = models["type-int64"]
    inputs = {"x": np.arange(3 * 700, dtype=np.int64).reshape(700, 3)}
    result = grpc.infer(export.name, grpc_inputs(inputs), compression_algorithm="gzip")
    check(result, export, export.expected(inputs))


def test_many_at_once(grpc: GrpcClient, models: Models) -> None:
    answers: queue.Queue = queue.Queue()
    names = ["sklearn-dense", "tokens", "xgboost-classifier", "type-string"] * 5

    def put(name: str, result: InferResult | None, error: InferenceServerException | None) -> None:
        answers.put((name, result, error))

    for name in names:
        inputs = grpc_inputs(models[name].inputs)
        grpc.async_infer(name, inputs, lambda result, error, name=name: put(name, result, error))
    for _ in names:
        name, result, error = answers.get(timeout=30)
        assert error is None
        check(result, models[name])


def test_stream(grpc: GrpcClient, models: Models) -> None:
    answers: queue.Queue = queue.Queue()
    grpc.start_stream(lambda result, error: answers.put((result, error)))
    export = models["sklearn-dense"]
    for i in range(3):
        grpc.async_stream_infer(export.name, grpc_inputs(export.inputs), request_id=f"r{i}")
    ids = set()
    for _ in range(3):
        result, error = answers.get(timeout=30)
        assert error is None
        check(result, export)
        ids.add(result.get_response().id)
    assert ids == {"r0", "r1", "r2"}
    grpc.async_stream_infer("nobody", grpc_inputs(export.inputs))
    result, error = answers.get(timeout=30)
    assert "nobody" in error.message()
    grpc.async_stream_infer(export.name, grpc_inputs(export.inputs))
    result, error = answers.get(timeout=30)
    assert error is None, "an error of one request must not end the stream"
    check(result, export)
    grpc.stop_stream()


def test_large(grpc: GrpcClient, models: Models) -> None:
    """Beyond the 4 MiB that gRPC takes by default; the limit is that of HTTP."""
    export = models["image"]
    inputs = {"image": np.random.default_rng(0).uniform(0, 1, (8000, 3, 8, 8)).astype(np.float32)}
    check(grpc.infer(export.name, grpc_inputs(inputs)), export, export.expected(inputs))


def test_too_large(grpc: GrpcClient) -> None:
    inputs = {"image": np.zeros((24000, 3, 8, 8), dtype=np.float32)}
    status, message = refused(grpc, "image", grpc_inputs(inputs))
    assert status in ("RESOURCE_EXHAUSTED", "OUT_OF_RANGE")
    assert message


def test_no_rows(grpc: GrpcClient, models: Models) -> None:
    export = models["sklearn-dense"]
    inputs = {"X": np.empty((0, 4), dtype=np.float32)}
    with pytest.raises(InferenceServerException, match="X has no rows"):
        grpc.infer(export.name, grpc_inputs(inputs))


def test_not_finite(grpc: GrpcClient, models: Models) -> None:
    special = np.array([[np.nan, np.inf, -np.inf], [-np.nan, 0, 1]], dtype=np.float32)
    export = models["type-float32"]
    check(grpc.infer(export.name, grpc_inputs({"x": special})), export, export.expected({"x": special}))


def test_unknown_model(grpc: GrpcClient, models: Models) -> None:
    inputs = grpc_inputs(models["sklearn-dense"].inputs)
    status, message = refused(grpc, "sklearn-dens", inputs)
    assert status == "NOT_FOUND"
    assert "sklearn-dens" in message
    status, message = refused(grpc, "sklearn-dense", inputs, model_version="2")
    assert status == "NOT_FOUND"
    assert "2" in message


def test_wrong_inputs(grpc: GrpcClient, models: Models) -> None:
    for tensors, named in [*wrong_inputs(models["sklearn-dense"].inputs["X"]), ({}, "X")]:
        status, message = refused(grpc, "sklearn-dense", grpc_inputs(tensors))
        assert status == "INVALID_ARGUMENT", message
        assert named in message, f"{message!r} does not say {named}"


def test_unknown_output(grpc: GrpcClient, models: Models) -> None:
    outputs = [InferRequestedOutput("score")]
    status, message = refused(grpc, "sklearn-dense", grpc_inputs(models["sklearn-dense"].inputs), outputs=outputs)
    assert status == "INVALID_ARGUMENT"
    assert "score" in message


def test_failing_run(grpc: GrpcClient, models: Models) -> None:
    bad = models["fails"].inputs["features"].copy()
    bad[0, 0] = TRIGGER
    status, message = refused(grpc, "fails", grpc_inputs({"features": bad}))
    assert status == "INTERNAL"
    assert message


@pytest.mark.parametrize("limit", [{"client_timeout": 0.2}, {"timeout": 200_000}])
def test_too_late(grpc: GrpcClient, models: Models, limit: dict) -> None:
    forever = models["stalls"].inputs["features"].copy()
    forever[0, 0] = TRIGGER
    status, _ = refused(grpc, "stalls", grpc_inputs({"features": forever}), **limit)
    assert status == "DEADLINE_EXCEEDED"
    check(grpc.infer("stalls", grpc_inputs(models["stalls"].inputs)), models["stalls"])


def test_repository_calls_need_the_token(grpc: GrpcClient) -> None:
    for call in (grpc.load_model, grpc.unload_model):
        with pytest.raises(InferenceServerException) as caught:
            call("tokens")
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
