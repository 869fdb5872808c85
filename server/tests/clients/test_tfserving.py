"""TensorFlow Serving's REST API, which KServe's first protocol is a part of."""

import base64
import json

import numpy as np
import pytest

import oracle
from repository import Export
from running import Reply, Server

Models = dict[str, Export]


def numbers(array: np.ndarray) -> list:
    return array.astype(np.float64).tolist() if array.dtype.kind == "f" else array.tolist()


def predict(server: Server, model: str, body: dict, path: str = "") -> Reply:
    return server.call("POST", f"/v1/models/{model}{path}:predict", body)


def predictions(server: Server, model: str, body: dict, path: str = "") -> list:
    reply = predict(server, model, body, path)
    assert reply.status == 200, reply.text
    assert list(reply.json) == ["predictions"]
    return reply.json["predictions"]


def outputs(server: Server, model: str, body: dict) -> object:
    reply = predict(server, model, body)
    assert reply.status == 200, reply.text
    assert list(reply.json) == ["outputs"]
    return reply.json["outputs"]


# The first axis of these is rows; what the row format needs.
ROWS = ["sklearn-dense", "sklearn-columns", "sklearn-strings-dense", "sklearn-double", "sklearn-two-targets"]
ROWS += ["sklearn-isolation", "xgboost-classifier", "lightgbm-dense", "quantized", "tokens", "image", "external"]


def check(got: dict[str, object], expected: dict[str, np.ndarray]) -> None:
    assert set(got) == set(expected)
    for name, array in expected.items():
        oracle.same_text(got[name], array, name)


@pytest.mark.parametrize("name", ROWS)
def test_rows(server: Server, models: Models, name: str) -> None:
    export = models[name]
    expected = export.expected()
    columns = {key: numbers(array) for key, array in export.inputs.items()}
    objects = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    bodies: list[list] = [objects] if len(columns) > 1 else [objects, next(iter(columns.values()))]
    for instances in bodies:
        rows = predictions(server, name, {"instances": instances})
        if len(expected) == 1:
            check({next(iter(expected)): rows}, expected)
        else:
            check({key: [row[key] for row in rows] for key in rows[0]}, expected)


@pytest.mark.parametrize("name", [*ROWS, "scalar", "unlike-axes", "fixed-batch"])
def test_columns(server: Server, models: Models, name: str) -> None:
    export = models[name]
    expected = export.expected()
    columns = {key: numbers(array) for key, array in export.inputs.items()}
    bodies = [columns] if len(columns) > 1 else [columns, next(iter(columns.values()))]
    for inputs in bodies:
        got = outputs(server, name, {"inputs": inputs})
        check(got if len(expected) > 1 else {next(iter(expected)): got}, expected)


def test_signature_name(server: Server, models: Models) -> None:
    instances = numbers(models["quantized"].inputs["x"])
    assert predictions(server, "quantized", {"signature_name": "serving_default", "instances": instances})


def test_named_features(server: Server, models: Models) -> None:
    """The project's own model: by the names of its features as well as by its one tensor."""
    expected = models["anomaly"].expected()
    names = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"]
    matrix = numbers(models["anomaly"].inputs["features"])
    for instances in (matrix, [dict(zip(names, row, strict=True)) for row in matrix]):
        rows = predictions(server, "anomaly", {"instances": instances})
        check({key: [row[key] for row in rows] for key in expected}, expected)
    assert predictions(server, "anomaly", {"instances": [{"cpu_zscore": 1, "memory_zscore": 2}]})


def test_probabilities_by_class(server: Server, models: Models) -> None:
    expected = models["sklearn-strings"].expected()
    rows = predictions(server, "sklearn-strings", {"instances": numbers(models["sklearn-strings"].inputs["X"])})
    assert [row["output_label"].encode() for row in rows] == oracle.text(expected["output_label"])
    classes = models["sklearn-strings"].maps["output_probability"]
    given = [row["output_probability"] for row in rows]
    if isinstance(given[0], dict):
        given = [[row[name] for name in classes] for row in given]
    oracle.same_text(given, expected["output_probability"])


def test_versions_and_labels(server: Server, models: Models) -> None:
    body = {"instances": numbers(models["anomaly"].inputs["features"])}
    plain = predictions(server, "anomaly", body)
    assert predictions(server, "anomaly", body, "/versions/1") == plain
    assert predictions(server, "anomaly", body, "/labels/champion") == plain
    for path in ("/versions/99", "/labels/nobody", "/versions/x"):
        reply = predict(server, "anomaly", body, path)
        assert reply.status in (400, 404), reply.text
        assert isinstance(reply.json["error"], str)


def test_bytes(server: Server) -> None:
    """Strings may be sent as they are or in base64."""
    word = "ä ∂"
    coded = {"b64": base64.b64encode(word.encode()).decode()}
    assert predictions(server, "type-string", {"instances": [[word, coded]]}) == [[word, word]]


def test_not_finite(server: Server) -> None:
    """TensorFlow Serving takes bare NaN and Infinity, which are no JSON; here they are refused in words."""
    body = b'{"instances": [[NaN, Infinity, -Infinity]]}'
    reply = server.call("POST", "/v1/models/type-float32:predict", body, {"content-type": "application/json"})
    assert reply.status == 400, reply.text
    assert "NaN, which JSON does not have" in reply.text


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_any_content_type(server: Server, models: Models, content_type: str | None) -> None:
    """What TensorFlow Serving's documentation shows is curl -d, which says that it sends a form."""
    body = json.dumps({"instances": numbers(models["quantized"].inputs["x"])})
    headers = {"content-type": content_type} if content_type else {}
    reply = server.call("POST", "/v1/models/quantized:predict", body, headers)
    assert reply.status == 200, reply.text


def test_status(server: Server) -> None:
    for path in ("/v1/models/tokens", "/v1/models/tokens/versions/1", "/v1/models/anomaly/labels/champion"):
        reply = server.call("GET", path)
        assert reply.status == 200, reply.text
        (version,) = reply.json["model_version_status"]
        assert (version["version"], version["state"]) == ("1", "AVAILABLE")
        assert version["status"] == {"error_code": "OK", "error_message": ""}
    assert server.call("GET", "/v1/models/nobody").status == 404
    assert server.call("GET", "/v1/models/tokens/versions/7").status == 404


def test_metadata(server: Server) -> None:
    reply = server.call("GET", "/v1/models/tokens/metadata")
    assert reply.status == 200, reply.text
    assert reply.json["model_spec"]["name"] == "tokens"
    assert reply.json["model_spec"]["version"] == "1"
    signature = reply.json["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert set(signature["inputs"]) == {"input_ids", "attention_mask"}
    ids = signature["inputs"]["input_ids"]
    assert ids["dtype"] == "DT_INT64"
    assert [dim["size"] for dim in ids["tensor_shape"]["dim"]] == ["-1", "-1"]
    assert signature["outputs"]["pooled"]["dtype"] == "DT_FLOAT"


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"instances": [[1, 2, 3, 4]], "inputs": [[1, 2, 3, 4]]},
        {"instances": []},
        {"instances": 1},
        {"instances": [[1, 2, 3]]},
        {"instances": [[1, 2, 3, "x"]]},
        {"instances": [[1, 2, 3, 4], [1, 2, 3]]},
        {"instances": [{"Y": [1, 2, 3, 4]}]},
        {"instances": [{"X": [1, 2, 3, 4], "Y": 1}]},
        {"inputs": {"Y": [[1, 2, 3, 4]]}},
        {"inputs": {"X": [1, 2, 3, 4]}},
        {"instances": [[1, 2, 3, 4]], "signature_name": "other"},
    ],
)
def test_wrong_bodies(server: Server, body: object) -> None:
    reply = server.call("POST", "/v1/models/sklearn-dense:predict", body)
    assert reply.status in (400, 404, 422), reply.text
    assert isinstance(reply.json["error"], str)
    assert reply.json["error"]


def test_not_json(server: Server) -> None:
    for body in (b"", b"{", b'{"instances": [[1,2,3,4]]} x', b"\xff"):
        reply = server.call("POST", "/v1/models/sklearn-dense:predict", body, {"content-type": "application/json"})
        assert reply.status == 400, reply.text
        assert isinstance(reply.json["error"], str)


def test_wrong_method(server: Server) -> None:
    assert server.call("GET", "/v1/models/sklearn-dense:predict").status == 405


@pytest.mark.parametrize("verb", ["classify", "regress", "explain"])
def test_other_verbs(server: Server, verb: str) -> None:
    reply = server.call("POST", f"/v1/models/sklearn-dense:{verb}", {"instances": [[1, 2, 3, 4]]})
    assert reply.status in (404, 501), reply.text
