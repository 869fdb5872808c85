"""The definition of the retraining state machine, read as a graph: nothing dangles, nothing goes unhandled."""

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from training import interpreter, lambdas

TEXT = interpreter.MACHINE.read_text(encoding="utf-8")
MACHINE: dict[str, Any] = json.loads(
    interpreter.render(TEXT, pipeline_function_arn="arn:pipeline", release_function_arn="arn:release")
)
STATES: dict[str, dict[str, Any]] = MACHINE["States"]
TASKS = {name: state for name, state in STATES.items() if state["Type"] == "Task"}
FIELDS = {
    "Task": {"Type", "Resource", "Parameters", "ResultPath", "TimeoutSeconds", "Retry", "Catch", "Next"},
    "Choice": {"Type", "Choices", "Default"},
    "Pass": {"Type", "Parameters", "Next"},
    "Wait": {"Type", "SecondsPath", "Next"},
    "Succeed": {"Type"},
    "Fail": {"Type", "ErrorPath", "CausePath"},
}


def targets(state: dict[str, Any]) -> set[str]:
    rules = [state, *state.get("Choices", []), *state.get("Catch", [])]
    return {rule[field] for rule in rules for field in ("Next", "Default") if field in rule}


def reachable(*start: str, without: str | None = None) -> set[str]:
    seen, ahead = set(), set(start)
    while ahead:
        name = ahead.pop()
        seen.add(name)
        ahead |= targets(STATES[name]) - seen - {without}
    return seen


def test_placeholders_are_the_two_functions_and_nothing_else_of_a_template() -> None:
    assert set(re.findall(r"\$\{([^}]*)\}", TEXT)) == {"pipeline_function_arn", "release_function_arn"}
    assert "%{" not in TEXT
    with pytest.raises(interpreter.InterpreterError, match="give each placeholder one"):
        interpreter.render(TEXT, pipeline_function_arn="arn:pipeline")


def test_paths_stay_as_they_are() -> None:
    assert interpreter.render('"$.a $$.b ${c} $"', c="d") == '"$.a $$.b d $"'


def test_no_key_stands_twice() -> None:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), keys
        return dict(pairs)

    json.loads(TEXT, object_pairs_hook=once)


@pytest.mark.parametrize("name", STATES)
def test_state_has_the_fields_of_its_type(name: str) -> None:
    state = STATES[name]
    assert set(state) - {"Comment", "ResultPath"} == FIELDS[state["Type"]] - {"ResultPath"}
    assert len(name) <= 80
    assert targets(state) <= set(STATES)


def test_every_state_is_reached_and_reaches_an_end() -> None:
    assert MACHINE["QueryLanguage"] == "JSONPath"
    assert reachable(MACHINE["StartAt"]) == set(STATES)
    ends = {name for name, state in STATES.items() if state["Type"] in {"Succeed", "Fail"}}
    assert all(reachable(name) & ends for name in STATES)


def test_tasks_are_the_steps_with_the_rights_that_they_need() -> None:
    called = {(state["Resource"], state["Parameters"]["step"]) for state in TASKS.values()}
    assert called == {(f"arn:{name}", step) for name, steps in lambdas.FUNCTIONS.items() for step in steps}
    assert len(called) == len(TASKS)
    for state in TASKS.values():
        step = state["Parameters"]["step"]
        assert state["ResultPath"] == f"$.{step}"
        assert state["Parameters"]["state.$"] == "$"
        # Lambda's own limit is 900 s, 300 s for a release: the function's time-out comes first.
        assert state["TimeoutSeconds"] in ({330, 930} if state["Resource"] == "arn:pipeline" else {330})


@pytest.mark.parametrize("name", TASKS)
def test_task_retries_and_catches(name: str) -> None:
    retry = {error: retrier for retrier in TASKS[name]["Retry"] for error in retrier["ErrorEquals"]}
    assert {"Lambda.TooManyRequestsException", "Lambda.ServiceException", "TransientError"} <= set(retry)
    assert retry["States.Timeout"]["MaxAttempts"] == retry["Sandbox.Timedout"]["MaxAttempts"] == 1
    assert not {"States.ALL", "States.TaskFailed", "PipelineError", "InputError"} & set(retry)
    for retrier in TASKS[name]["Retry"]:
        assert retrier["JitterStrategy"] == "FULL"
        assert retrier["BackoffRate"] > 1
        assert 1 <= retrier["MaxAttempts"] <= 30
        assert retrier["IntervalSeconds"] <= retrier["MaxDelaySeconds"] <= 300
    last = TASKS[name]["Catch"][-1]
    assert last["ErrorEquals"] == ["States.ALL"]
    assert last["ResultPath"] in {"$.error", "$.withdraw", "$.report"}
    assert "Report" in reachable(last["Next"]) or name == "Report"


def test_after_the_push_every_way_takes_the_challenger_back() -> None:
    assert "Report" not in reachable("AwaitVerdict", "ReleaseFailed", without="Withdraw")
    assert TASKS["Push"]["Catch"][-1]["Next"] == "ReleaseFailed"


def test_machine_lasts_longer_than_its_loops_and_fits_the_history() -> None:
    settings = lambdas.read_input({"trigger": {"kind": "manual", "reason": "test", "at": "2026-11-28T00:00:00Z"}})
    longest = lambdas.SETTINGS["shadow_seconds"][2] + lambdas.SETTINGS["watch_seconds"][2]
    assert longest + 86_400 <= MACHINE["TimeoutSeconds"]
    assert lambdas.EVENTS <= 25_000 - 4_000
    assert settings == {name: default for name, (default, _, _) in lambdas.SETTINGS.items()}


def test_functions_that_the_readme_names_have_all_their_steps_and_say_what_they_lack() -> None:
    """In a process of its own, as the image's runtime imports them, without any of the variables."""
    readme = (interpreter.MACHINE.parent / "README.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"^\| (pipeline|release) \| `([a-z._]+)`", readme, re.MULTILINE))
    assert set(named) == set(lambdas.FUNCTIONS)
    for function, entry in named.items():
        module, _, handler = entry.rpartition(".")
        event = {"step": lambdas.FUNCTIONS[function][-1], "execution": {"name": "e"}, "state": {}}
        code = f"import {module} as m; print(*sorted(m.lambdas.STEPS)); m.{handler}({event}, None)"
        path = {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ["PATH"]}
        done = subprocess.run([sys.executable, "-c", code], env=path, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.stdout.split() == sorted(step for steps in lambdas.FUNCTIONS.values() for step in steps)
        said = done.stderr.splitlines()[-1]
        assert "environment: set MLFLOW_TRACKING_URI, ONNXD_PEERS, ONNXD_REPOSITORY, " in said
        for name in re.findall(r"[A-Z]+_[A-Z_]+", said):
            assert f"`{name}`" in readme
