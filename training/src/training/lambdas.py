"""The functions behind the retraining state machine: one image, two entry points with different rights.

`training/statemachine/retraining.asl.json` calls a function with the step's name, the execution and the whole state and
puts what it returns under `$.<step>`. What a step does stands in `training.pipeline`; here is what all have in common:
the event and the environment are checked, the result is checked for what the machine reads from it (a field that is
missing would end an execution in a way that no `Catch` sees), loops get their ends, logs are JSON.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from training.errors import InputError, PipelineError

Step = Callable[[dict[str, Any]], dict[str, Any]]

STEPS: dict[str, Step] = {}
"""What a step does: takes the whole state, whose `execution` is that of the event, and returns a small dict."""

FUNCTIONS = {
    "pipeline": ("decide", "prepare", "train", "evaluate", "gate", "register", "report"),
    "release": ("push", "judge", "promote", "recheck", "rollback", "withdraw"),
}
"""Which function runs which step. Only `release` has the right to write the model repository."""

ENVIRONMENT: dict[str, tuple[str, ...]] = {"pipeline": (), "release": ()}
"""Variables that a function needs; the package with the steps fills it, as it does `STEPS`."""

KINDS = ("schedule", "drift", "skill", "alert", "manual")
"""What may start a retraining."""

SETTINGS = {
    "shadow_wait_seconds": (600, 0, 86_400),
    "shadow_seconds": (15 * 86_400, 0, 15 * 86_400),
    "watch_wait_seconds": (600, 0, 86_400),
    "watch_seconds": (86_400, 0, 3 * 86_400),
}
"""Optional whole numbers in `settings` of the input: default, least, most, in seconds. The verdict expires
after 14 days by itself; `shadow_seconds` ends the loop a day later whatever the server says."""

RESULTS: dict[str, dict[str, type | tuple[str, ...]]] = {
    "decide": {"proceed": bool, "reason": str},
    "prepare": {"run_key": str},
    "gate": {"passed": bool, "reason": str},
    "push": {"pushed": bool, "reason": str},
    "judge": {"verdict": ("promote", "reject", "hold", "expired"), "reason": str},
    "promote": {"promoted": bool, "reason": str},
    "recheck": {"verdict": ("keep", "rollback"), "reason": str},
}
"""Fields of results that the machine or the next steps rely on; any others may be added."""

UNTIL = {"push": "shadow_seconds", "promote": "watch_seconds"}
"""Steps that begin a loop, and the setting that says how long it may last."""

LIMIT = 8192
"""Bytes of a result. Step Functions carries 256 KiB in all, and nothing catches it when a state has more."""

EVENTS = 21_000
"""Events of the history that the two loops may use. Step Functions ends an execution at 25,000 of them; the rest is for
the other states and for retries, 3 events each."""
EVENTS_A_ROUND = 9
"""Wait 2, Task 5, Choice 2."""

_log = logging.getLogger("training.lambdas")


def pipeline_handler(event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401 - as AWS Lambda calls it
    """Entry point of the function that reads metrics and writes the work bucket and MLflow."""
    return _handle("pipeline", event, context)


def release_handler(event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401 - as AWS Lambda calls it
    """Entry point of the function that may write the model repository."""
    return _handle("release", event, context)


def handler(event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401 - as AWS Lambda calls it
    """Any step, for runs on one machine where one process has all rights.

    Args:
        event: `{"step": ..., "execution": {"name": ..., "start_time": ...}, "state": ...}`.
        context: Lambda's context object; only `aws_request_id` is read.

    Returns:
        The step's result with `at`, the time it was ready, RFC 3339; `push` and `promote` also get `until`, when the
        loop that follows must be over, and `decide` gets `settings` with the defaults filled in.

    Raises:
        InputError: The input of the execution is malformed.
        PipelineError: The event, the environment or the result is not as agreed, or the step failed for good.
        TransientError: Something does not answer; the state machine tries again.
    """
    return _handle(None, event, context)


def _handle(function: str | None, event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401
    set_up_logging()
    step, execution, state = _read(function, event)
    names = {"step": step, "execution": execution["name"], "request_id": getattr(context, "aws_request_id", None)}
    _log.info("begins", extra=names)
    try:
        check_environment(function)
        settings = read_input(state) if step == "decide" else None
        result = check_result(step, STEPS[step]({**state, "execution": execution}))
    except Exception:
        _log.exception("failed", extra=names)
        raise
    now = datetime.now(UTC)
    result["at"] = _timestamp(now)
    if settings is not None:
        result["settings"] = settings
    if step in UNTIL:
        result["until"] = _timestamp(now + timedelta(seconds=state["decide"]["settings"][UNTIL[step]]))
    _log.info("done", extra={**names, "result": result})
    return result


def _read(function: str | None, event: Any) -> tuple[str, dict[str, str], dict[str, Any]]:  # noqa: ANN401
    if not isinstance(event, dict):
        msg = f"event: an object with step, execution and state is needed, not {type(event).__name__}"
        raise PipelineError(msg)
    step, execution, state = event.get("step"), event.get("execution"), event.get("state")
    known = [s for name, steps in FUNCTIONS.items() if function in (None, name) for s in steps]
    if step not in known:
        msg = f"step: {step!r} is not a step of the {function or 'pipeline'}; it has {', '.join(known)}"
        raise PipelineError(msg)
    if step not in STEPS:
        msg = f"step: nothing is registered for {step!r}; import the package that fills training.lambdas.STEPS"
        raise PipelineError(msg)
    if not isinstance(execution, dict) or not isinstance(execution.get("name"), str):
        msg = "execution: an object with the execution's name is needed; pass $$.Execution.Name"
        raise PipelineError(msg)
    if not isinstance(state, dict):
        msg = f'input: an object such as {{"trigger": {{...}}}} is needed, not {json.dumps(state)[:80]}'
        raise InputError(msg)
    return step, execution, state


def read_input(state: dict[str, Any]) -> dict[str, int]:
    """The settings of an execution, with defaults for those that its input leaves out.

    Raises:
        InputError: Names the field that is wrong.
    """
    trigger = state.get("trigger")
    if not isinstance(trigger, dict):
        msg = 'trigger: an object is needed, such as {"kind": "manual", "reason": "...", "at": "2026-01-01T00:00:00Z"}'
        raise InputError(msg)
    if trigger.get("kind") not in KINDS:
        msg = f"trigger.kind: one of {', '.join(KINDS)} is needed, not {trigger.get('kind')!r}"
        raise InputError(msg)
    if not isinstance(trigger.get("reason"), str) or not trigger["reason"].strip():
        msg = "trigger.reason: say in words why the model is trained anew; it goes into the MLflow run"
        raise InputError(msg)
    try:
        aware = datetime.fromisoformat(trigger.get("at")).tzinfo is not None
    except (TypeError, ValueError):
        aware = False
    if not aware:
        msg = f"trigger.at: an RFC 3339 time with its zone is needed, not {trigger.get('at')!r}"
        raise InputError(msg)
    return _settings(state.get("settings", {}))


def _settings(given: Any) -> dict[str, int]:  # noqa: ANN401 - it is checked here
    if not isinstance(given, dict) or set(given) - set(SETTINGS):
        msg = f"settings: only an object with {', '.join(SETTINGS)} is taken, not {given!r}"
        raise InputError(msg)
    settings = {}
    for name, (default, least, most) in SETTINGS.items():
        value = given.get(name, default)
        if type(value) is not int or not least <= value <= most:
            msg = f"settings.{name}: a whole number of seconds from {least:,} to {most:,} is needed, not {value!r}"
            raise InputError(msg)
        settings[name] = value
    rounds = sum(settings[f"{loop}_seconds"] / max(1, settings[f"{loop}_wait_seconds"]) for loop in ("shadow", "watch"))
    if rounds * EVENTS_A_ROUND > EVENTS:
        msg = f"settings.shadow_wait_seconds: {rounds:,.0f} rounds are too many for an execution's history; wait longer"
        raise InputError(msg)
    return settings


def check_result(step: str, result: Any) -> dict[str, Any]:  # noqa: ANN401 - it is checked here
    """A copy of a step's result, if it is small and has what the machine reads.

    Raises:
        PipelineError: Names the step and the field.
    """
    if not isinstance(result, dict):
        msg = f"{step}: a step returns a dict, not {type(result).__name__}"
        raise PipelineError(msg)
    try:
        size = len(json.dumps(result, allow_nan=False).encode())
    except (TypeError, ValueError) as error:
        msg = f"{step}: the result is not JSON ({error}); return numbers, strings and lists"
        raise PipelineError(msg) from error
    if size > LIMIT:
        msg = f"{step}: the result has {size:,} bytes, more than {LIMIT:,}; put it into the bucket and return its key"
        raise PipelineError(msg)
    for field, kind in RESULTS.get(step, {}).items():
        value = result.get(field)
        if value not in kind if isinstance(kind, tuple) else not isinstance(value, kind):
            wanted = " or ".join(kind) if isinstance(kind, tuple) else kind.__name__
            msg = f"{step}.{field}: {wanted} is needed, not {value!r}"
            raise PipelineError(msg)
    return dict(result)


@lru_cache
def check_environment(function: str | None) -> None:
    """Looks once whether a function's variables are there; a failure is not remembered.

    Raises:
        PipelineError: Names all that are missing.
    """
    needed = {name for key, names in ENVIRONMENT.items() if function in (None, key) for name in names}
    missing = sorted(name for name in needed if not os.environ.get(name))
    if missing:
        msg = f"environment: set {', '.join(missing)} for the {function or 'pipeline'} function"
        raise PipelineError(msg)


class JsonLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and the fields that the caller added."""

    EXTRA = ("step", "execution", "request_id", "result")

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **{name: getattr(record, name) for name in self.EXTRA if getattr(record, name, None) is not None},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


@lru_cache
def set_up_logging() -> None:
    """Replaces the logging of the Lambda runtime; elsewhere, as in a command, logging is the caller's business."""
    if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        out = logging.StreamHandler(sys.stdout)
        out.setFormatter(JsonLines())
        logging.basicConfig(handlers=[out], level=os.environ.get("LOG_LEVEL", "INFO"), force=True)


def _timestamp(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")
