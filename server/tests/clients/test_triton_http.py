"""Triton's HTTP client: what it sends by default is the binary extension."""

import json

import numpy as np
import pytest
from tritonclient.http import InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

import oip
import oracle
from repository import TRIGGER, Export
from running import Server, until
from triton import HttpClient, check, http_inputs, http_outputs, wrong_inputs

Models = dict[str, Export]

# What the JSON form of the protocol does not carry.
BINARY_ONLY = {"FP16", "BF16"}

WRONG = {"400", "422"}


def refused(client: HttpClient, model: str, inputs: list[InferInput], **options: object) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, **options)
    return caught.value.status(), caught.value.message()


def test_health(http: HttpClient) -> None:
    assert http.is_server_live()
    assert http.is_server_ready()


def test_model_ready(http: HttpClient) -> None:
    assert http.is_model_ready("sklearn-dense")
    assert http.is_model_ready("sklearn-dense", "1")
    assert not http.is_model_ready("sklearn-dense", "7")
    assert not http.is_model_ready("nobody")


def test_server_metadata(http: HttpClient) -> None:
    metadata = http.get_server_metadata()
    assert metadata["name"] == "onnxd"
    assert metadata["version"]
    assert "binary_tensor_data" in metadata["extensions"]


def test_model_metadata(http: HttpClient, export: Export) -> None:
    metadata = http.get_model_metadata(export.name)
    assert metadata["name"] == export.name
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] in ("onnxruntime_onnx", "onnx_onnxv1")
    for ports, arrays in [(metadata["inputs"], export.inputs), (metadata["outputs"], export.expected())]:
        assert [port["name"] for port in ports] == list(arrays)
        for port, array in zip(ports, arrays.values(), strict=True):
            assert port["datatype"] == oip.datatype(array)
            shape = [int(dim) for dim in port["shape"]]
            fits = len(shape) == array.ndim and all(d in (-1, n) for d, n in zip(shape, array.shape, strict=True))
            # One exporter declares one target where the model has two.
            assert fits or export.name == "sklearn-two-targets", f"{port}: a run has {array.shape}"


def test_metadata_of_a_version(http: HttpClient) -> None:
    assert http.get_model_metadata("tokens", "1")["name"] == "tokens"
    with pytest.raises(InferenceServerException) as caught:
        http.get_model_metadata("tokens", "2")
    assert caught.value.status() == "404"


def test_model_config(http: HttpClient) -> None:
    config = http.get_model_config("tokens")
    assert config["name"] == "tokens"
    assert isinstance(config["max_batch_size"], int)
    assert [(port["name"], port["data_type"]) for port in config["input"]] == [
        ("input_ids", "TYPE_INT64"),
        ("attention_mask", "TYPE_INT64"),
    ]
    outputs = {port["name"]: port for port in config["output"]}
    assert outputs["pooled"]["data_type"] == "TYPE_FP32"
    assert int(outputs["pooled"]["dims"][-1]) == 8


def test_statistics(http: HttpClient, models: Models) -> None:
    def now() -> dict:
        (stats,) = http.get_inference_statistics("quantized")["model_stats"]
        return stats

    before = now()
    assert (before["name"], before["version"]) == ("quantized", "1")
    http.infer("quantized", http_inputs(models["quantized"].inputs))
    after = until(
        "the request to be counted", lambda: (s := now())["inference_count"] > before["inference_count"] and s
    )
    assert after["inference_count"] == before["inference_count"] + 6
    assert after["execution_count"] > before["execution_count"]
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert after["inference_stats"]["success"]["ns"] > before["inference_stats"]["success"]["ns"]
    assert after["last_inference"] > 0


def test_failures_are_counted(http: HttpClient, models: Models) -> None:
    def failures() -> int:
        (stats,) = http.get_inference_statistics("fails", "1")["model_stats"]
        return stats["inference_stats"]["fail"]["count"]

    before = failures()
    bad = models["fails"].inputs["features"].copy()
    bad[0, 0] = TRIGGER
    status, _ = refused(http, "fails", http_inputs({"features": bad}))
    assert status == "500"
    until("the failure to be counted", lambda: failures() > before)


def test_statistics_of_all(http: HttpClient, models: Models) -> None:
    assert {stats["name"] for stats in http.get_inference_statistics()["model_stats"]} >= set(models)


def test_index(http: HttpClient, models: Models) -> None:
    index = http.get_model_repository_index()
    ready = {entry["name"]: entry["version"] for entry in index if entry["state"] == "READY"}
    assert set(ready) >= set(models)
    assert ready["tokens"] == "1"


def test_binary(http: HttpClient, export: Export) -> None:
    result = http.infer(export.name, http_inputs(export.inputs))
    check(result, export)
    for output in result.get_response()["outputs"]:
        assert "binary_data_size" in output["parameters"]
        assert "data" not in output


def test_json(http: HttpClient, export: Export) -> None:
    expected = export.expected()
    arrays = [*export.inputs.values(), *expected.values()]
    binary = any(oip.datatype(array) in BINARY_ONLY for array in arrays)
    outputs = http_outputs(list(expected), binary_data=binary)
    result = http.infer(export.name, http_inputs(export.inputs, binary=binary), outputs=outputs)
    check(result, export)
    assert all(("data" in output) != binary for output in result.get_response()["outputs"])


@pytest.mark.parametrize("ask_binary", [False, True])
@pytest.mark.parametrize("answer_binary", [False, True])
def test_either_way_in_and_out(
    http: HttpClient,
    models: Models,
    ask_binary: bool,  # noqa: FBT001
    answer_binary: bool,  # noqa: FBT001
) -> None:
    export = models["sklearn-dense"]
    outputs = http_outputs(["label", "probabilities"], binary_data=answer_binary)
    result = http.infer(export.name, http_inputs(export.inputs, binary=ask_binary), outputs=outputs)
    check(result, export)
    for output in result.get_response()["outputs"]:
        assert ("data" in output) != answer_binary


def test_each_output_its_way(http: HttpClient, models: Models) -> None:
    export = models["sklearn-dense"]
    outputs = [
        InferRequestedOutput("probabilities", binary_data=True),
        InferRequestedOutput("label", binary_data=False),
    ]
    result = http.infer(export.name, http_inputs(export.inputs), outputs=outputs)
    check(result, export)
    assert ["data" in output for output in result.get_response()["outputs"]] == [False, True]


def test_each_input_its_way(http: HttpClient, models: Models) -> None:
    export = models["sklearn-pipeline"]
    inputs = export.inputs
    mixed = http_inputs({"cpu": inputs["cpu"]}, binary=False) + http_inputs({"region": inputs["region"]})
    mixed += http_inputs({"mem": inputs["mem"]})
    check(http.infer(export.name, mixed), export)


def test_some_outputs(http: HttpClient, models: Models) -> None:
    export = models["sklearn-zipmap"]
    outputs = http_outputs(["output_label"])
    result = http.infer(export.name, http_inputs(export.inputs), outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == ["output_label"]
    check(result, export, {"output_label": export.expected()["output_label"]})


def test_id_version_and_parameters(http: HttpClient, models: Models) -> None:
    export = models["anomaly"]
    result = http.infer(
        "anomaly",
        http_inputs(export.inputs),
        model_version="1",
        request_id="request 17",
        priority=1,
        timeout=4_000_000,
        parameters={"team": "a", "retries": 2, "sure": True},
    )
    check(result, export)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("request 17", "anomaly", "1")


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("answer", [None, "gzip", "deflate"])
@pytest.mark.parametrize("ask", [None, "gzip", "deflate"])
def test_compression(
    http: HttpClient,
    models: Models,
    ask: str | None,
    answer: str | None,
    binary: bool,  # noqa: FBT001
) -> None:
    export = models["type-int64"]
    inputs = {"x": np.arange(3 * 700, dtype=np.int64).reshape(700, 3)}
    result = http.infer(
        export.name,
        http_inputs(inputs, binary=binary),
        outputs=http_outputs(["y"], binary_data=binary),
        request_compression_algorithm=ask,
        response_compression_algorithm=answer,
    )
    check(result, export, export.expected(inputs))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_answers_are_compressed(server: Server, models: Models, algorithm: str) -> None:
    inputs = {"x": np.arange(3 * 700, dtype=np.int64).reshape(700, 3)}
    body, headers = oip.encode_binary(inputs)
    plain = server.call("POST", "/v2/models/type-int64/infer", body, headers)
    reply = server.call("POST", "/v2/models/type-int64/infer", body, headers | {"accept-encoding": algorithm})
    assert reply.headers["content-encoding"] == algorithm
    assert len(reply.body) < len(plain.body) // 2
    assert reply.headers[oip.HEADER] == plain.headers[oip.HEADER]
    assert models["type-int64"].inputs


@pytest.mark.parametrize("name", ["sklearn-dense", "sklearn-zipmap", "sklearn-strings"])
def test_classification(http: HttpClient, models: Models, name: str) -> None:
    export = models[name]
    output = next(n for n, array in export.expected().items() if array.ndim == 2)
    outputs = http_outputs([output], class_count=2)
    got = http.infer(name, http_inputs(export.inputs), outputs=outputs).as_numpy(output)
    expected = export.expected()[output]
    assert got.shape == (len(expected), 2)
    labels = export.maps.get(output)
    for classes, row in zip(got, expected, strict=True):
        best = np.argsort(-row, kind="stable")[:2]
        fields = [entry.decode().split(":") for entry in classes]
        assert [int(field[1]) for field in fields] == best.tolist()
        assert [float(field[0]) for field in fields] == pytest.approx(row[best].tolist(), abs=1e-5)
        assert [field[2:] for field in fields] == [[labels[i]] if labels else [] for i in best]


def test_many_at_once(http: HttpClient, models: Models) -> None:
    names = ["sklearn-dense", "tokens", "xgboost-classifier", "type-string"] * 5
    waiting = [(name, http.async_infer(name, http_inputs(models[name].inputs))) for name in names]
    for name, request in waiting:
        check(request.get_result(), models[name])


def test_no_rows(http: HttpClient, models: Models) -> None:
    export = models["sklearn-dense"]
    inputs = {"X": np.empty((0, 4), dtype=np.float32)}
    with pytest.raises(InferenceServerException, match="X has no rows"):
        http.infer(export.name, http_inputs(inputs))


@pytest.mark.parametrize("name", ["tokens", "unlike-axes"])
def test_free_axes(http: HttpClient, models: Models, name: str) -> None:
    export = models[name]
    inputs = {n: a[:, :3] if n != "a" else a[:2] for n, a in export.inputs.items()}
    inputs = {n: np.ascontiguousarray(a) for n, a in inputs.items()}
    check(http.infer(name, http_inputs(inputs)), export, export.expected(inputs))


def test_not_finite(http: HttpClient, models: Models) -> None:
    special = np.array([[np.nan, np.inf, -np.inf], [-np.nan, 0, 1]], dtype=np.float32)
    export = models["type-float32"]
    check(http.infer(export.name, http_inputs({"x": special})), export, export.expected({"x": special}))


def raw(server: Server, model: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
    headers = {"content-type": "application/octet-stream", oip.HEADER: "0"}
    reply = server.call("POST", f"/v2/models/{model}/infer", body, headers)
    return reply.status, reply.body, reply.headers


@pytest.mark.parametrize("name", ["sklearn-dense", "type-uint8", "type-float16", "fixed-batch", "image"])
def test_raw_body(server: Server, models: Models, name: str) -> None:
    export = models[name]
    (array,) = export.inputs.values()
    status, body, headers = raw(server, name, oip.to_bytes(array))
    assert status == 200, body
    _, tensors = oip.decode(body, headers)
    for output, expected in export.expected().items():
        oracle.same_bits(tensors[output], expected, output)


def test_raw_body_that_does_not_fit(server: Server) -> None:
    for name, body in [("sklearn-dense", b"123"), ("tokens", bytes(16)), ("fixed-batch", bytes(4))]:
        status, answer, _ = raw(server, name, body)
        assert status in (400, 422), (name, status)
        assert json.loads(answer)["error"]


@pytest.mark.parametrize("nested", [False, True])
def test_data_flat_or_nested(server: Server, models: Models, nested: bool) -> None:  # noqa: FBT001
    export = models["image"]
    body = oip.encode_json(export.inputs, nested=nested, id="a")
    reply = server.call("POST", "/v2/models/image/infer", body, {"content-type": "application/json"})
    assert reply.status == 200, reply.text
    head, tensors = oip.decode(reply.body, reply.headers)
    assert head["id"] == "a"
    oracle.same_bits(tensors["features"], export.expected()["features"])


def test_unknown_model(http: HttpClient, models: Models) -> None:
    status, message = refused(http, "sklearn-dens", http_inputs(models["sklearn-dense"].inputs))
    assert status == "404"
    assert "sklearn-dens" in message


def test_unknown_version(http: HttpClient, models: Models) -> None:
    inputs = http_inputs(models["sklearn-dense"].inputs)
    for version in ("2", "x"):
        status, message = refused(http, "sklearn-dense", inputs, model_version=version)
        assert status in ("404", "400"), message
        assert version in message


def test_wrong_inputs(http: HttpClient, models: Models) -> None:
    for tensors, named in wrong_inputs(models["sklearn-dense"].inputs["X"]):
        for binary in (True, False):
            status, message = refused(http, "sklearn-dense", http_inputs(tensors, binary=binary))
            assert status in WRONG, message
            assert named in message, f"{message!r} does not say {named}"


def test_missing_input(http: HttpClient, models: Models) -> None:
    inputs = models["tokens"].inputs
    status, message = refused(http, "tokens", http_inputs({"input_ids": inputs["input_ids"]}))
    assert status in WRONG
    assert "attention_mask" in message


def test_same_input_twice(http: HttpClient, models: Models) -> None:
    inputs = http_inputs(models["sklearn-dense"].inputs)
    status, message = refused(http, "sklearn-dense", inputs * 2)
    assert status in WRONG
    assert "X" in message


def test_unknown_output(http: HttpClient, models: Models) -> None:
    inputs = http_inputs(models["sklearn-dense"].inputs)
    status, message = refused(http, "sklearn-dense", inputs, outputs=http_outputs(["score"]))
    assert status in WRONG
    assert "score" in message


def test_shared_memory_is_refused(http: HttpClient) -> None:
    given = InferInput("X", [1, 4], "FP32").set_shared_memory("region", 16)
    status, message = refused(http, "sklearn-dense", [given])
    assert status in WRONG
    assert "shared" in message


def test_too_late(http: HttpClient, models: Models) -> None:
    forever = models["stalls"].inputs["features"].copy()
    forever[0, 0] = TRIGGER
    status, message = refused(http, "stalls", http_inputs({"features": forever}), timeout=100_000)
    assert status == "504"
    assert message


def test_too_large(http: HttpClient) -> None:
    inputs = {"image": np.zeros((24000, 3, 8, 8), dtype=np.float32)}
    for algorithm in (None, "gzip"):
        status, _ = refused(http, "image", http_inputs(inputs), request_compression_algorithm=algorithm)
        assert status == "413", "the limit counts what is received as well as what it unpacks to"


@pytest.mark.parametrize(
    "size",
    ["-1", "x", "99999999", "18446744073709551616", "1"],
)
def test_wrong_header_length(server: Server, models: Models, size: str) -> None:
    body, headers = oip.encode_binary(models["sklearn-dense"].inputs)
    reply = server.call("POST", "/v2/models/sklearn-dense/infer", body, headers | {oip.HEADER: size})
    assert reply.status == 400, reply.text
    assert reply.json["error"]


def test_sizes_that_lie(server: Server, models: Models) -> None:
    body, headers = oip.encode_binary(models["sklearn-dense"].inputs)
    size = int(headers[oip.HEADER])
    head = json.loads(body[:size])
    for wrong in (0, 1, 140, 145, 2**31, 2**63, -4, "144", 144.0, True):
        head["inputs"][0]["parameters"]["binary_data_size"] = wrong
        changed = json.dumps(head).encode()
        sent = headers | {oip.HEADER: str(len(changed))}
        reply = server.call("POST", "/v2/models/sklearn-dense/infer", changed + body[size:], sent)
        assert reply.status in (400, 422), f"{wrong!r}: {reply.status} {reply.text}"
    for rest in (body[size:-1], body[size:] + b"\0", b""):
        reply = server.call("POST", "/v2/models/sklearn-dense/infer", body[:size] + rest, headers)
        assert reply.status in (400, 422), f"{len(rest)} bytes: {reply.status} {reply.text}"


@pytest.mark.parametrize("shape", [[2**62, 4], [-1, 4], [1.5, 4], ["1", 4], [2**64, 4], 4, None, [[1, 4]]])
def test_wrong_shapes_in_json(server: Server, shape: object) -> None:
    tensor = {"name": "X", "shape": shape, "datatype": "FP32", "data": [1, 2, 3, 4]}
    reply = server.call("POST", "/v2/models/sklearn-dense/infer", {"inputs": [tensor]})
    assert reply.status in (400, 422), reply.text
    assert isinstance(reply.json["error"], str)


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("UINT8", 256),
        ("UINT8", -1),
        ("INT8", 128),
        ("INT64", 1.5),
        ("INT64", 2**63),
        ("UINT64", 2**64),
        ("INT32", "1"),
        ("BOOL", 2),
        ("BOOL", "true"),
        ("FP32", "1"),
        ("FP32", None),
        ("FP32", 1e39),
        ("BYTES", 1),
    ],
)
def test_values_that_do_not_fit(server: Server, datatype: str, value: object) -> None:
    names = {"FP32": "float32", "BYTES": "string", "BOOL": "bool"}
    name = "type-" + names.get(datatype, datatype.lower())
    data = [value] * (2 if datatype in ("BOOL", "BYTES") else 3)
    tensor = {"name": "x", "shape": [1, len(data)], "datatype": datatype, "data": data}
    reply = server.call("POST", f"/v2/models/{name}/infer", {"inputs": [tensor]})
    assert reply.status in (400, 422), reply.text
    assert isinstance(reply.json["error"], str)


def test_bytes_that_are_not_text(server: Server) -> None:
    array = np.array([[b"\xff\xfe", b"ok"]], dtype=object)
    body, headers = oip.encode_binary({"x": array})
    reply = server.call("POST", "/v2/models/type-string/infer", body, headers)
    if reply.status == 200:
        oracle.same_bits(oip.decode(reply.body, reply.headers)[1]["y"], array)
    else:
        assert reply.status in (400, 422), reply.text
