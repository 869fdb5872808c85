"""The training's image: as AWS Lambda runs its functions, by their own client, and as Kubernetes runs commands."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from container import Container, Image, open_folder, run, serve, start, until

ARN = "arn:aws:lambda:eu-west-1:111122223333:function:training"
SOURCE = "synthetic:?days=8&pods=8&seed=3&share=0.5&kinds=cpu_stress"
TRIGGER = {"kind": "manual", "reason": "to see it run", "at": "2026-01-01T00:00:00Z"}


class RuntimeApi(ThreadingHTTPServer):
    """What Lambda's runtime client talks to: it asks for the next event, and tells what became of it.

    https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
    """

    daemon_threads = True

    def __init__(self) -> None:
        """On any free port."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self.told: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.invoked = 0
        self.container: Container | None = None

    def invoke(self, step: str, state: dict[str, Any]) -> tuple[str, Any]:
        """An invocation as the state machine makes it. Returns `response` or `error`, and the result."""
        self.invoked += 1
        execution = {"name": "execution-1", "start_time": "2026-01-01T00:00:00Z"}
        event = {"step": step, "execution": execution, "state": state}
        self.events.put((f"request-{self.invoked}", json.dumps(event).encode()))
        return until(step, self.answer, self.container)

    def answer(self) -> tuple[str, Any] | None:
        """What was told, if anything was."""
        with suppress(queue.Empty):
            return self.told.get_nowait()
        return None


class Handler(BaseHTTPRequestHandler):
    """One request of the client."""

    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """`/2018-06-01/runtime/invocation/next`: waits for an event."""
        request, event = self.server.events.get()
        self.send_response(200)
        # The client counts on this one: without it, it ends by a signal.
        self.send_header("Content-Type", "application/json")
        self.send_header("Lambda-Runtime-Aws-Request-Id", request)
        self.send_header("Lambda-Runtime-Deadline-Ms", "4102444800000")
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", ARN)
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0")
        self.send_header("Content-Length", str(len(event)))
        self.end_headers()
        self.wfile.write(event)

    def do_POST(self) -> None:
        """`/2018-06-01/runtime/invocation/ID/response` and `/error`, and `/2018-06-01/runtime/init/error`."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.put((self.path.rsplit("/", 1)[1], json.loads(body)))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@contextmanager
def function(image: Image, place: Path, command: list[str] | None = None) -> Iterator[RuntimeApi]:
    """A function as Lambda runs it: /tmp alone can be written to."""
    api = RuntimeApi()
    threading.Thread(target=api.serve_forever, daemon=True).start()
    environment = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{api.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": "training",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "2048",
        "AWS_LAMBDA_LOG_GROUP_NAME": "training",
        "AWS_LAMBDA_LOG_STREAM_NAME": "1",
        "TRAINING_SOURCE": SOURCE,
        "TRAINING_WORK": "/tmp/work",
        "TRAINING_RECIPES": "monotone-logistic",
        "MLFLOW_TRACKING_URI": "sqlite:////tmp/work/mlflow.db",
        # Nobody listens there: these steps ask no server.
        "ONNXD_PEERS": "127.0.0.1:1",
        "ONNXD_REPOSITORY": "/tmp/models",
    }
    tmp = open_folder(place / "tmp")
    open_folder(tmp / "models")
    try:
        more = {"command": command, "environment": environment, "writable": {"/tmp": tmp}}
        with start(image, place / "log", **more) as api.container:
            yield api
    finally:
        api.shutdown()
        api.server_close()


def test_the_pipelines_function_prepares_trains_and_gates(training: Image, place: Path) -> None:
    """Its steps from the first to the gates, in which the image's onnxd serves the candidate."""
    with function(training, place) as api:
        state: dict[str, Any] = {"trigger": TRIGGER}
        for step in ("prepare", "train", "evaluate", "gate"):
            kind, result = api.invoke(step, state)
            assert kind == "response", result
            state[step] = result
        assert state["gate"]["passed"], state["gate"]
        assert api.invoke("push", state)[0] == "error"
    log = (place / "log").read_text()
    done = [json.loads(line) for line in log.splitlines() if '"message": "done"' in line]
    assert [line["step"] for line in done] == ["prepare", "train", "evaluate", "gate"]
    assert done[0]["request_id"] == "request-1"
    [manifest] = (place / "tmp/work/runs").glob("*/monotone-logistic/manifest.json")
    revision = training.config["Labels"].get("org.opencontainers.image.revision")
    assert json.loads(manifest.read_text())["training"]["git_commit"] == revision


def test_the_other_function_has_its_own_steps(training: Image, place: Path) -> None:
    with function(training, place, ["training.pipeline.steps.release_handler"]) as api:
        kind, said = api.invoke("gate", {"trigger": TRIGGER})
        assert kind == "error"
        assert (said["errorType"], "is not a step of the release" in said["errorMessage"]) == ("PipelineError", True)


@pytest.mark.parametrize("python", ["python", "python3", "/usr/bin/python3.11"])
def test_commands_run_as_in_kubernetes(training: Image, place: Path, python: str) -> None:
    program = {"python": "/usr/bin/python", "python3": "/usr/bin/python3"}.get(python, python)
    code, said = run(training, place / "log", ["-m", "training", "--help"], entrypoint=[program])
    assert (code, "prepare" in said) == (0, True), said


def test_the_registry_starts_from_the_same_image(training: Image, place: Path) -> None:
    """`python -m mlflow server` with a database in a file, as the cluster's deployment starts it."""
    words = {"entrypoint": ["/usr/bin/python", "-m", "mlflow", "server"], "command": []}
    environment = {
        "MLFLOW_BACKEND_STORE_URI": "sqlite:////tmp/mlflow.db",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with serve(training, place, environment={**environment, "MLFLOW_WORKERS": "1"}, **words) as server:
        assert server.wait("5000/health") == "OK"
        assert server.ask("5000/")[0] == 200
