"""Executes state machines on this machine: S3 and Step Functions on one port, Lambda functions in this process.

moto's interpreter of the Amazon States Language is real (a port of LocalStack's), but its Lambda only repeats queued
answers. Here it calls Python functions and answers as AWS Lambda does: errors by the name of their class, time-outs.
"""

import json
import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from training.processes import environment

Handler = Callable[[Any, Any], Any]

MACHINE = Path(__file__).resolve().parents[2] / "statemachine" / "retraining.asl.json"
"""The retraining state machine, in the source tree."""

ROLE = "arn:aws:iam::123456789012:role/states"
TIMEOUT = 900.0
"""Seconds that a function may run: the most that Lambda allows."""
POLL = 0.02
"""Seconds between two looks at an execution."""
READING = 60.0
"""Seconds that reading a definition may take."""

_one = threading.Lock()


class InterpreterError(RuntimeError):
    """The interpreter cannot run, or an execution did not end."""


class ServiceError(Exception):
    """An error of the Lambda service and not of the function: a handler that raises it plays the service."""

    def __init__(self, name: str, message: str) -> None:
        """Keeps the error's name, such as `Lambda.TooManyRequestsException`."""
        super().__init__(message)
        self.name = name


@dataclass(frozen=True)
class Context:
    """What a handler gets as its second argument."""

    invoked_function_arn: str
    aws_request_id: str
    deadline: float
    """On the clock of `time.monotonic`."""

    @property
    def function_name(self) -> str:
        """The last part of the ARN."""
        return self.invoked_function_arn.rsplit(":", 1)[-1]

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is out of time."""
        return max(0, round(1000 * (self.deadline - time.monotonic())))


@dataclass(frozen=True)
class Outcome:
    """How an execution ended."""

    status: str
    """`SUCCEEDED`, `FAILED`, `TIMED_OUT` or `ABORTED`."""
    error: str | None
    cause: str | None
    output: Any
    states: tuple[str, ...]
    """Names of the states in the order in which they were entered."""
    events: tuple[dict[str, Any], ...]


def render(text: str, **values: str) -> str:
    """Fills the placeholders `${name}` of a definition as Terraform's templatefile does.

    Raises:
        InterpreterError: A placeholder has no value, or a value no placeholder.
    """
    template = _Placeholders(text)
    if (wanted := set(template.get_identifiers())) != set(values):
        msg = f"definition: placeholders {sorted(wanted)}, values for {sorted(values)}; give each placeholder one"
        raise InterpreterError(msg)
    return template.substitute(values)


class _Placeholders(Template):
    """Only `${name}`: a lone `$` begins a JSONPath."""

    pattern = r"\$(?:(?P<escaped>\$(?=\{))|\{(?P<braced>[a-z_]+)\}|(?P<named>(?!))|(?P<invalid>(?!)))"


@contextmanager
def serve(
    handlers: Mapping[str, Handler], *, port: int = 0, timeouts: Mapping[str, float] | None = None
) -> Iterator[str]:
    """Serves S3 and Step Functions until the block ends; then all that they held is gone.

    moto keeps its state in the process, so there is one server at a time.

    Args:
        handlers: Python functions by the ARN under which state machines call them.
        port: A port of 127.0.0.1; 0 takes a free one.
        timeouts: Seconds that a function may run, by ARN; 900 if not given. Lambda kills a function that is
            out of time; here its thread goes on by itself while the state machine gets the error.

    Yields:
        The endpoint, for S3 and for Step Functions.

    Raises:
        InterpreterError: moto is not installed, or a server runs already.
    """
    try:
        from moto.awslambda_simple.models import LambdaSimpleBackend  # noqa: PLC0415 - only tests and local runs have it
        from moto.core.config import default_user_config  # noqa: PLC0415
        from moto.moto_api._internal.models import moto_api_backend  # noqa: PLC0415
    except ImportError as error:
        msg = f"{error}: moto is needed; pip install --require-hashes -r server/tests/requirements.lock"
        raise InterpreterError(msg) from error

    def invoke(_: object, name: str, __: object, body: str | bytes, ___: object, headers: dict[str, str]) -> bytes:
        return _invoke(name, handlers.get(name), (timeouts or {}).get(name, TIMEOUT), body, headers)

    # It logs as errors what the machine catches; the machine's own end says what was wrong.
    logging.getLogger("moto.stepfunctions").setLevel(logging.CRITICAL)
    if not _one.acquire(blocking=False):
        msg = "serve: a server runs in this process already; end it first"
        raise InterpreterError(msg)
    with ExitStack() as stack:
        stack.callback(_one.release)
        config = {"stepfunctions": {"execute_state_machine": True}, "lambda": {"use_docker": False}}
        stack.callback(default_user_config.update, {key: default_user_config[key] for key in config})
        default_user_config.update(config)
        stack.callback(setattr, LambdaSimpleBackend, "invoke", LambdaSimpleBackend.invoke)
        LambdaSimpleBackend.invoke = invoke
        server = _server(port)
        stack.callback(server.server_close)
        stack.callback(moto_api_backend.reset)
        stack.enter_context(environment({"MOTO_PORT": str(server.port)}))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL}, daemon=True)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"http://127.0.0.1:{server.port}"


def _server(port: int) -> Any:  # noqa: ANN401 - a server of werkzeug, which comes with moto
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server  # noqa: PLC0415

    class App(DomainDispatcherApplication):
        """moto looks at If-Match and then writes, in two steps: here, as in S3, nothing comes between them."""

        writing = threading.Lock()

        def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:  # noqa: ANN401 - WSGI
            # A function that is called writes to S3 itself, so its own call must not hold the lock.
            if environ["REQUEST_METHOD"] == "GET" or environ["PATH_INFO"].endswith("/invocations"):
                return super().__call__(environ, start_response)
            with self.writing:
                return super().__call__(environ, start_response)

    class Quiet(MotoRequestHandler):
        """Writes no line for each request."""

        def log_request(self, *_: object) -> None:
            """Nothing."""

    return make_server("127.0.0.1", port, App(create_backend_app), threaded=True, request_handler=Quiet)


def _invoke(arn: str, handler: Handler | None, timeout: float, body: str | bytes, headers: dict[str, str]) -> bytes:
    """Calls a function as Lambda does; an error is a header, and its description the payload."""
    request = str(uuid.uuid4())
    context = Context(arn, request, time.monotonic() + timeout)
    answers: list[Any] = []

    def call() -> None:
        try:
            answers.append((None, json.dumps(handler(json.loads(body), context), allow_nan=False)))
        except ServiceError as error:
            answers.append((error.name, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, Lambda passes on its name
            answers.append((type(error).__name__, error))

    if handler is None:
        answers.append(("Lambda.ResourceNotFoundException", f"Function not found: {arn}"))
    else:
        thread = threading.Thread(target=call, name=arn, daemon=True)
        thread.start()
        thread.join(timeout)
        if not answers and thread.is_alive():
            answers.append(("Sandbox.Timedout", f"Task timed out after {timeout:.2f} seconds"))
        elif not answers:
            answers.append(("Runtime.ExitError", "Runtime exited without providing a reason"))
    name, answer = answers[0]
    if name is None:
        return answer.encode()
    headers["x-amz-function-error"] = "Unhandled"
    described = {"errorMessage": str(answer), "errorType": name, "requestId": request}
    if isinstance(answer, Exception):
        described["stackTrace"] = traceback.format_tb(answer.__traceback__)
    return json.dumps(described).encode()


def run(client: Any, definition: str, execution_input: Any, name: str, timeout: float = 3600.0) -> Outcome:  # noqa: ANN401
    """Makes a state machine, executes it once and waits for its end.

    Args:
        client: A boto3 client of Step Functions at the endpoint of `serve`.
        definition: The state machine, its placeholders filled.
        execution_input: Anything that JSON can say.
        name: Name of the execution and of the machine; used once in the life of a server.
        timeout: Seconds to wait.

    Raises:
        InterpreterError: The execution has not ended in time; it is stopped.
    """
    machine = client.create_state_machine(name=name, definition=definition, roleArn=ROLE)["stateMachineArn"]
    arn = client.start_execution(stateMachineArn=machine, name=name, input=json.dumps(execution_input))["executionArn"]
    deadline = time.monotonic() + timeout
    while (found := client.describe_execution(executionArn=arn))["status"] == "RUNNING":
        if time.monotonic() > deadline:
            try:
                client.stop_execution(executionArn=arn, error="Timeout", cause=f"not over after {timeout:g} s")
            except client.exceptions.ClientError:
                # moto cannot stop what it has not begun: it reads the definition first.
                if time.monotonic() > deadline + READING:
                    raise
                time.sleep(POLL)
                continue
            msg = f"{name}: the execution has not ended after {timeout:g} s and was stopped"
            raise InterpreterError(msg)
        time.sleep(POLL)
    events = tuple(client.get_execution_history(executionArn=arn)["events"])
    entered = tuple(
        event["stateEnteredEventDetails"]["name"] for event in events if "stateEnteredEventDetails" in event
    )
    output = json.loads(found["output"]) if "output" in found else None
    return Outcome(found["status"], found.get("error"), found.get("cause"), output, entered, events)
