"""The frame of the functions: what an event may be, what a result must be, and what is logged."""

import json
import subprocess
import sys

import pytest

from conftest import ROOT
from training import lambdas
from training.errors import InputError, PipelineError

EVENT = {"step": "gate", "execution": {"name": "e1", "start_time": "2026-11-28T00:00:00Z"}, "state": {}}


@pytest.fixture(autouse=True)
def _steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        lambdas, "STEPS", {"gate": lambda state: {"passed": True, "reason": state["execution"]["name"]}}
    )
    monkeypatch.setattr(lambdas, "ENVIRONMENT", {"pipeline": (), "release": ()})
    lambdas.check_environment.cache_clear()


def test_step_gets_the_execution_and_the_result_gets_the_time() -> None:
    result = lambdas.handler(EVENT, None)
    assert (result["passed"], result["reason"]) == (True, "e1")
    assert result["at"].endswith("Z")
    assert "until" not in result


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"step": "bake"}, "step: 'bake' is not a step of the pipeline; it has decide, prepare"),
        ({"step": None}, "step: None is not a step"),
        ({"step": "train"}, "step: nothing is registered for 'train'"),
        ({"execution": {}}, "execution: an object with the execution's name"),
        ({"state": []}, "input: an object such as"),
    ],
)
def test_event_that_is_not_as_agreed(change: dict[str, object], says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        lambdas.handler({**EVENT, **change}, None)
    with pytest.raises(PipelineError, match="event: an object"):
        lambdas.handler("event", None)


def test_function_has_only_its_own_steps() -> None:
    assert lambdas.pipeline_handler(EVENT, None)["passed"]
    with pytest.raises(PipelineError, match="'gate' is not a step of the release; it has push, judge"):
        lambdas.release_handler(EVENT, None)


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ([], "gate: a step returns a dict, not list"),
        ({"reason": ""}, r"gate\.passed: bool is needed, not None"),
        ({"passed": 1, "reason": ""}, r"gate\.passed: bool is needed, not 1"),
        ({"passed": True}, r"gate\.reason: str is needed, not None"),
        ({"passed": True, "reason": "", "x": float("nan")}, "gate: the result is not JSON"),
        ({"passed": True, "reason": "", "x": {1}}, "gate: the result is not JSON"),
        ({"passed": True, "reason": "x" * 9000}, "gate: the result has 9,030 bytes, more than 8,192"),
    ],
)
def test_result_that_is_not_as_agreed(result: object, says: str) -> None:
    with pytest.raises(PipelineError, match=says):
        lambdas.check_result("gate", result)


def test_largest_results_of_all_steps_fit_into_a_state() -> None:
    steps = [step for names in lambdas.FUNCTIONS.values() for step in names]
    assert lambdas.LIMIT * len(steps) < 256 * 1024 / 2


def test_environment_is_looked_at_again_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lambdas.ENVIRONMENT, "pipeline", ("TRAINING_TEST_B", "TRAINING_TEST_A"))
    with pytest.raises(PipelineError, match="environment: set TRAINING_TEST_A, TRAINING_TEST_B for the pipeline"):
        lambdas.pipeline_handler(EVENT, None)
    monkeypatch.setenv("TRAINING_TEST_A", "1")
    monkeypatch.setenv("TRAINING_TEST_B", "1")
    assert lambdas.pipeline_handler(EVENT, None)["passed"]


def test_trigger_with_everything_is_taken() -> None:
    trigger = {"kind": "alert", "reason": "PodAnomaly fires", "at": "2026-11-28T00:00:00+01:00"}
    given = {"shadow_wait_seconds": 900, "shadow_seconds": 0}
    assert lambdas.read_input({"trigger": trigger, "settings": given})["shadow_wait_seconds"] == 900
    with pytest.raises(InputError, match=r"settings\.shadow_seconds: a whole number of seconds from 0 to 1,296,000"):
        lambdas.read_input({"trigger": trigger, "settings": {"shadow_seconds": True}})


def test_in_lambda_the_log_is_json_lines() -> None:
    code = f"""
from training import lambdas
lambdas.STEPS["gate"] = lambda state: 1 / state["zero"]
event = {EVENT | {"state": {"zero": 0}}!r}
lambdas.handler(event, None)
"""
    environment = {"AWS_LAMBDA_FUNCTION_NAME": "pipeline", "PYTHONPATH": str(ROOT / "training" / "src")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    begins, failed = map(json.loads, done.stdout.splitlines())
    assert {**begins, "time": ""} == {
        "time": "",
        "level": "INFO",
        "logger": "training.lambdas",
        "message": "begins",
        "step": "gate",
        "execution": "e1",
    }
    assert (failed["level"], failed["message"]) == ("ERROR", "failed")
    assert failed["exception"].endswith("ZeroDivisionError: division by zero")
    assert done.returncode == 1
