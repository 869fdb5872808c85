"""Events of steps reach a collector; one that is not there stops nothing."""

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from openlineage.client import event_v2 as events
from openlineage.client.generated.error_message_run import ErrorMessageRunFacet
from openlineage.client.generated.parent_run import Job, ParentRunFacet, Run
from openlineage.client.serde import Serde

from training import lineage
from training.processes import environment

KEY = "a" * 64


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, dict[str, str], dict[str, Any]]]]]:
    """An HTTP server that keeps what it is sent: path, headers, event."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", taken
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def official(event: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """The event as OpenLineage's own client would send it, by classes that are generated from its schema.

    They refuse a field that is unknown, missing, or no time or id.
    """
    run, facets = event["run"], {}
    for name, facet in run["facets"].items():
        given = {field: value for field, value in facet.items() if field[0] != "_"}
        if name == "parent":
            facets[name] = ParentRunFacet(run=Run(**given.pop("run")), job=Job(**given.pop("job")), **given)
        else:
            facets[name] = ErrorMessageRunFacet(**given)
    made = events.RunEvent(
        eventType=events.RunState(event["eventType"]),
        eventTime=event["eventTime"],
        run=events.Run(run["runId"], facets),
        job=events.Job(**event["job"]),
        inputs=[events.InputDataset(**one) for one in event["inputs"]],
        outputs=[events.OutputDataset(**one) for one in event["outputs"]],
    )
    return filled(Serde.to_dict(made))


def filled(found: Any) -> Any:  # noqa: ANN401 - JSON
    """JSON without what is empty, and without who made it."""
    if isinstance(found, list):
        return [filled(one) for one in found]
    if not isinstance(found, dict):
        return found
    made_by = ("producer", "_producer")
    return {name: filled(one) for name, one in found.items() if name not in made_by and one not in ({}, [])}


def test_events_are_what_openlineages_own_client_would_send(collector: tuple[str, list]) -> None:
    url, taken = collector
    with (
        environment({"OPENLINEAGE_URL": url}),
        pytest.raises(ValueError, match="no data"),
        lineage.told("anomaly", "train", KEY, reads=("s3://work/a", "s3://work/b"), writes=("build/x",)),
    ):
        raise ValueError(*["no data"])
    sent = [event for _, _, event in taken]
    assert len(sent) == 2
    for event in sent:
        assert filled(event) == official(event)
    with pytest.raises(TypeError, match="bytes"):
        official({**sent[0], "inputs": [{**sent[0]["inputs"][0], "bytes": 3}]})
    with pytest.raises(ValueError, match="badly formed"):
        official({**sent[0], "run": {"runId": "first", "facets": {}}})


def test_step_tells_that_it_begins_and_ends(collector: tuple[str, list]) -> None:
    url, taken = collector
    with (
        environment({"OPENLINEAGE_URL": url, "OPENLINEAGE_API_KEY": "secret"}),
        lineage.told("anomaly", "train", KEY, reads=("s3://work/runs/a/train.parquet",), writes=("build/x",)),
    ):
        assert [event["eventType"] for _, _, event in taken] == ["START"]
    assert [event["eventType"] for _, _, event in taken] == ["START", "COMPLETE"]
    path, headers, event = taken[0]
    assert (path, headers["Authorization"]) == ("/api/v1/lineage", "Bearer secret")
    assert event["job"] == {"namespace": "onnxd", "name": "anomaly.train"}
    assert event["inputs"] == [{"namespace": "s3://work", "name": "runs/a/train.parquet"}]
    assert event["outputs"] == [{"namespace": "file", "name": "build/x"}]
    assert {"eventTime", "producer", "schemaURL"} <= set(event)
    assert uuid.UUID(event["run"]["runId"]) != uuid.UUID(event["run"]["facets"]["parent"]["run"]["runId"])
    assert len({one["run"]["runId"] for _, _, one in taken}) == 1


def test_failure_is_told_and_goes_on(collector: tuple[str, list]) -> None:
    url, taken = collector
    with (
        environment({"OPENLINEAGE_URL": url}),
        pytest.raises(ValueError, match="no data"),
        lineage.told("anomaly", "train", KEY),
    ):
        raise ValueError(*["no data"])
    assert [event["eventType"] for _, _, event in taken] == ["START", "FAIL"]
    assert taken[1][2]["run"]["facets"]["errorMessage"]["message"] == "no data"


def test_collector_that_is_gone_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with environment({"OPENLINEAGE_URL": "http://127.0.0.1:1"}), lineage.told("anomaly", "train", KEY):
        pass
    assert "OpenLineage event not taken" in caplog.text


def test_nothing_is_sent_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    monkeypatch.setattr(lineage, "_send", lambda *_: pytest.fail("sent"))
    with lineage.told("anomaly", "train", KEY):
        pass
