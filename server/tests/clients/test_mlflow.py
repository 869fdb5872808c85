"""MLflow's scoring protocol: its client, and bodies made by its own helpers."""

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.deployments import PredictionsResponse
from mlflow.models.utils import convert_input_example_to_serving_input
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.utils.proto_json_utils import dump_input_data

import oracle
from repository import Export
from running import Reply, Server

Models = dict[str, Export]

FEATURES = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"]
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def columns_server(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One model, as MLflow serves it: an input for each column of a frame."""
    with Server(tmp_path_factory.mktemp("columns"), models["sklearn-pipeline"].path) as started:
        yield started.ready()


@pytest.fixture
def client(server: Server) -> ScoringServerClient:
    host, port = server.http.split(":")
    return ScoringServerClient(host, int(port))


def frame(models: Models) -> pd.DataFrame:
    return pd.DataFrame(models["anomaly"].inputs["features"].astype(np.float64), columns=FEATURES)


def check(response: PredictionsResponse, expected: dict[str, np.ndarray]) -> None:
    """A frame of predictions: a column an output."""
    got = response.get_predictions()
    assert set(got.columns) == set(expected)
    for name, array in expected.items():
        oracle.same_text(got[name].tolist(), array.reshape(len(got), *array.shape[1:]), name)


def invoke(server: Server, body: str | bytes | dict, headers: dict[str, str] | None = None) -> Reply:
    return server.call("POST", "/invocations", body, headers or JSON)


def parsed(reply: Reply) -> PredictionsResponse:
    assert reply.status == 200, reply.text
    return PredictionsResponse.from_json(reply.text)


def test_ping_and_version(client: ScoringServerClient, server: Server) -> None:
    client.ping()
    client.wait_server_ready(timeout=5)
    assert client.get_version().strip()
    for path in ("/ping", "/health"):
        assert server.call("GET", path).status == 200


def test_client_with_a_frame(client: ScoringServerClient, models: Models) -> None:
    check(client.invoke(frame(models)), models["anomaly"].expected())


def test_client_with_an_array(client: ScoringServerClient, models: Models) -> None:
    response = client.invoke(models["anomaly"].inputs["features"].astype(np.float64))
    check(response, models["anomaly"].expected())


def test_client_with_params(client: ScoringServerClient, models: Models) -> None:
    """What a model does not take is ignored, as MLflow does with a warning."""
    check(client.invoke(frame(models), params={"temperature": 0.5}), models["anomaly"].expected())


def test_client_with_missing_values(client: ScoringServerClient, models: Models) -> None:
    """A frame's missing values are sent as a bare NaN; the model counts them as missing."""
    holes = frame(models)
    holes.loc[1, ["disk_io_zscore", "cpu_baseline"]] = np.nan
    expected = models["anomaly"].expected({"features": holes.to_numpy(dtype=np.float32)})
    check(client.invoke(holes), expected)


def test_client_says_what_is_wrong(client: ScoringServerClient, models: Models) -> None:
    with pytest.raises(Exception, match="cpu_zscore"):
        client.invoke(frame(models).drop(columns="cpu_zscore"))


def test_input_examples(server: Server, models: Models) -> None:
    """What MLflow logs beside a model as an example to send."""
    expected = models["anomaly"].expected()
    rows = frame(models)
    for example in (rows, rows.to_numpy(dtype=np.float32), rows.to_numpy().tolist(), rows.to_dict(orient="records")):
        check(parsed(invoke(server, convert_input_example_to_serving_input(example))), expected)


def test_dumped_data(server: Server, models: Models) -> None:
    expected = models["anomaly"].expected()
    rows = frame(models)
    for data in (rows, rows.to_numpy(), rows.to_numpy().tolist()):
        check(parsed(invoke(server, dump_input_data(data))), expected)
    instances = dump_input_data(rows.to_numpy(), inputs_key="instances")
    check(parsed(invoke(server, instances)), expected)


def test_every_form(server: Server, models: Models) -> None:
    expected = models["anomaly"].expected()
    rows = frame(models)
    records = rows.to_dict(orient="records")
    lists = rows.to_dict(orient="list")
    for body in (
        {"dataframe_records": records},
        {"dataframe_split": rows.to_dict(orient="split")},
        {"dataframe_split": {"columns": FEATURES, "data": rows.to_numpy().tolist()}},
        {"dataframe_split": {"columns": FEATURES[::-1], "data": rows[FEATURES[::-1]].to_numpy().tolist()}},
        {"dataframe_split": {"data": rows.to_numpy().tolist()}},
        {"instances": records},
        {"instances": rows.to_numpy().tolist()},
        {"inputs": lists},
        {"inputs": {"features": rows.to_numpy().tolist()}},
        {"inputs": rows.to_numpy().tolist(), "params": {}},
    ):
        check(parsed(invoke(server, body)), expected)


def test_columns_by_name(columns_server: Server, models: Models) -> None:
    """An input a column, one of them of strings; outputs that are a matrix."""
    export = models["sklearn-pipeline"]
    rows = pd.DataFrame({name: array[:, 0] for name, array in export.inputs.items()})
    rows = rows.astype({"cpu": np.float64, "mem": np.float64})
    label = export.expected()["output_label"]
    csv = rows.to_csv(index=False)
    for reply in (
        invoke(columns_server, dump_input_data(rows)),
        invoke(columns_server, {"dataframe_records": rows.to_dict(orient="records")}),
        invoke(columns_server, {"inputs": rows.to_dict(orient="list")}),
        invoke(columns_server, csv, {"content-type": "text/csv"}),
    ):
        got = parsed(reply).get_predictions()
        oracle.same_text(got["output_label"].tolist(), label)


@pytest.mark.parametrize("content_type", ["text/csv", "text/csv; charset=utf-8"])
def test_csv(server: Server, models: Models, content_type: str) -> None:
    rows = frame(models)
    reply = invoke(server, rows.to_csv(index=False), {"content-type": content_type})
    check(parsed(reply), models["anomaly"].expected())


def test_csv_in_another_order_and_with_holes(server: Server, models: Models) -> None:
    rows = frame(models)[FEATURES[::-1]]
    rows.loc[0, "cpu_scale"] = np.nan
    text = StringIO()
    rows.to_csv(text, index=False)
    expected = models["anomaly"].expected({"features": rows[FEATURES].to_numpy(dtype=np.float32)})
    check(parsed(invoke(server, text.getvalue(), {"content-type": "text/csv"})), expected)


def test_charset(server: Server, models: Models) -> None:
    body = dump_input_data(frame(models))
    for good in ("application/json; charset=utf-8", "application/json;charset=UTF-8", "Application/JSON"):
        assert invoke(server, body, {"content-type": good}).status == 200, good
    for bad in ("application/json; charset=latin-1", "application/json; format=pandas-split", "text/html", "image/png"):
        assert invoke(server, body, {"content-type": bad}).status == 415, bad


WRONG: list[object] = [
    [],
    3,
    {},
    {"data": [[1, 2, 0, 48, 8]]},
    {"columns": FEATURES, "data": [[1, 2, 0, 48, 8]]},
    {"instances": [[1, 2, 0, 48, 8]], "inputs": [[1, 2, 0, 48, 8]]},
    {"dataframe_split": {"columns": FEATURES, "data": [[1, 2, 0, 48, 8]], "dtypes": []}},
    {"dataframe_split": {"columns": FEATURES}},
    {"dataframe_split": [[1, 2]]},
    {"dataframe_split": {"columns": FEATURES, "data": [[1, 2, 0, 48]]}},
    {"dataframe_split": {"columns": [*FEATURES, "extra"], "data": [[1, 2, 0, 48, 8, 1]]}},
    {"dataframe_records": {"cpu_zscore": 1}},
    {"dataframe_records": [{"cpu_zscore": "high", "memory_zscore": 1}]},
    {"dataframe_records": [{"memory_zscore": 1}]},
    {"inputs": {"cpu_zscore": [1, 2], "memory_zscore": [1]}},
    {"instances": [[1, 2, 0, 48, 8]], "signature_name": "serving_default"},
]


@pytest.mark.parametrize("body", WRONG, ids=lambda body: json.dumps(body)[:40])
def test_wrong_bodies(server: Server, body: object) -> None:
    reply = invoke(server, json.dumps(body))
    assert reply.status in (400, 422), reply.text
    assert isinstance(reply.json["message"], str)
    assert isinstance(reply.json["error_code"], str)


def test_not_json_and_not_csv(server: Server) -> None:
    for body, kind in [("{", "application/json"), ("", "application/json"), ("", "text/csv"), ('a"b', "text/csv")]:
        reply = invoke(server, body, {"content-type": kind})
        assert reply.status in (400, 422), reply.text
        assert reply.json["error_code"]


def test_model_of_a_file(models: Models, tmp_path: Path) -> None:
    """The smallest server there is: one file, which answers /invocations."""
    export = models["sklearn-dense"]
    with Server(tmp_path, export.path) as single:
        single.ready()
        matrix = export.inputs["X"].astype(np.float64)
        names = pd.DataFrame(matrix, columns=["a", "b", "c", "d"])
        for body in (dump_input_data(matrix), dump_input_data(names)):
            check(parsed(invoke(single, body)), export.expected())
