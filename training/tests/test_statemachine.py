"""The retraining state machine, executed: every branch, with steps that run and data that passes through S3."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest
from botocore.client import BaseClient

from asl import Steps, connect
from training import interpreter, lambdas

jitter = pytest.importorskip(
    "moto.stepfunctions.parser.asl.component.common.retry.jitter_strategy_decl",
    reason="moto is not installed: server/tests/requirements.lock",
)

Execute = Callable[..., interpreter.Outcome]

ARNS = {f"{name}_function_arn": f"arn:aws:lambda:us-east-1:123456789012:function:{name}" for name in lambdas.FUNCTIONS}
DEFINITION = interpreter.render(interpreter.MACHINE.read_text(encoding="utf-8"), **ARNS)
PIPELINE, RELEASE = ARNS["pipeline_function_arn"], ARNS["release_function_arn"]
TRIGGER = {"kind": "drift", "reason": "2 of 3 features for an hour", "at": "2026-11-28T00:00:00Z"}
AT_ONCE = {"shadow_wait_seconds": 0, "shadow_seconds": 60, "watch_wait_seconds": 0, "watch_seconds": 0}
TO_GATE = "Decide Proceed Prepare Train Evaluate Gate Passed"
TO_SHADOW = f"{TO_GATE} Register Push Pushed"
ROUND = "AwaitVerdict Judge Verdict"
END = "Report Ended"
FAILED = f"{END} Failed"


@pytest.fixture(scope="module")
def timeouts() -> dict[str, float]:
    """Seconds of the functions; a test may change them."""
    return {}


@pytest.fixture(scope="module")
def endpoint(timeouts: dict[str, float]) -> Iterator[str]:
    handlers = {PIPELINE: lambdas.pipeline_handler, RELEASE: lambdas.release_handler}
    with interpreter.serve(handlers, timeouts=timeouts) as endpoint:
        yield endpoint


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Of the bucket, the machine and the execution."""
    return "".join(c if c.isalnum() else "-" for c in request.node.name.removeprefix("test_").lower())[:60].strip("-")


@pytest.fixture
def steps(endpoint: str, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Steps]:
    steps = Steps(endpoint, name)
    monkeypatch.setattr(lambdas, "STEPS", steps.table())
    monkeypatch.setattr(lambdas, "ENVIRONMENT", {"pipeline": (), "release": ()})
    yield steps
    steps.released.set()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest pause before each retry; with full jitter the one that is made may be 0, and here it is."""
    longest: list[float] = []

    def uniform(least: float, most: float) -> float:
        longest.append(most)
        return least

    monkeypatch.setattr(jitter, "random", SimpleNamespace(uniform=uniform))
    return longest


@pytest.fixture
def client(endpoint: str) -> BaseClient:
    return connect("stepfunctions", endpoint)


@pytest.fixture
def execute(client: BaseClient, name: str, pauses: list[float]) -> Execute:
    """Runs the machine and returns its end."""
    assert pauses == []

    def execute(**settings: int) -> interpreter.Outcome:
        given = {"trigger": TRIGGER, "settings": {**AT_ONCE, **settings}}
        return interpreter.run(client, DEFINITION, given, name, timeout=60)

    return execute


def path(outcome: interpreter.Outcome) -> str:
    return " ".join(outcome.states)


def message(outcome: interpreter.Outcome) -> str:
    """What the exception said that ended the execution."""
    return json.loads(outcome.cause)["errorMessage"]


def test_promoted_and_kept(steps: Steps, execute: Execute, name: str) -> None:
    outcome = execute()
    watch = "Promote Promoted Watch Recheck Keep"
    assert path(outcome) == f"{TO_SHADOW} {ROUND} {ROUND} {watch} Kept Withdraw {END} Done"
    assert (outcome.status, outcome.error) == ("SUCCEEDED", None)
    assert steps.bucket.get("aliases.json") == {"champion": "2", "challengers": [], "epoch": 4}
    assert steps.bucket.get("anomaly/2/model.json") == {"mean": 2.0}
    assert steps.bucket.get(f"ends/{name}.json") == {
        "outcome": "promoted",
        "error": "",
        "cause": "the server says keep",
    }
    assert outcome.output["end"]["outcome"] == "promoted"
    assert outcome.output["decide"]["settings"] == AT_ONCE
    push = outcome.output["push"]
    assert (datetime.fromisoformat(push["until"]) - datetime.fromisoformat(push["at"])).total_seconds() == 60


def test_skipped_while_a_challenger_is_in_the_shadow(steps: Steps, execute: Execute) -> None:
    steps.bucket.put("aliases.json", {"champion": "1", "challengers": ["7"], "epoch": 1})
    outcome = execute()
    assert (outcome.status, path(outcome)) == ("SUCCEEDED", "Decide Proceed Skipped")
    assert outcome.output["decide"]["reason"] == "in the shadow: ['7']"
    assert steps.calls == ["decide"]


def test_failed_gate(steps: Steps, execute: Execute, name: str) -> None:
    steps.bucket.put("limit.json", 1.5)
    outcome = execute()
    assert path(outcome) == f"{TO_GATE} GateFailed {FAILED}"
    assert (outcome.status, outcome.error, outcome.cause) == ("FAILED", "GateFailed", "error 2.0 against 1.5")
    assert steps.bucket.get(f"ends/{name}.json")["error"] == "GateFailed"
    assert steps.bucket.get("aliases.json")["challengers"] == []


def test_shadow_taken_by_another_execution(steps: Steps, execute: Execute) -> None:
    steps.before["push"] = lambda: steps._change(None, challengers=["7"])
    outcome = execute()
    assert (outcome.status, path(outcome)) == ("SUCCEEDED", f"{TO_SHADOW} ShadowTaken {END} Skipped")
    assert steps.bucket.get("aliases.json")["challengers"] == ["7"]


@pytest.mark.parametrize(("verdict", "error"), [("reject", "Rejected"), ("expired", "Expired")])
def test_challenger_not_promoted_leaves_the_shadow(
    steps: Steps, execute: Execute, name: str, verdict: str, error: str
) -> None:
    steps.bucket.put("verdicts.json", ["hold", "hold", verdict])
    outcome = execute()
    assert path(outcome) == f"{TO_SHADOW} {ROUND} {ROUND} {ROUND} Verdict{error} Withdraw {END} Rejected"
    assert outcome.status == "SUCCEEDED"
    assert steps.bucket.get(f"ends/{name}.json")["error"] == error
    assert steps.bucket.get("aliases.json") == {"champion": "1", "challengers": [], "epoch": 3}


def test_endless_hold_ends_by_the_clock(steps: Steps, execute: Execute) -> None:
    steps.bucket.put("verdicts.json", ["hold"])
    outcome = execute(shadow_seconds=1)
    assert outcome.status == "SUCCEEDED"
    assert path(outcome).startswith(f"{TO_SHADOW} {ROUND} ")
    assert path(outcome).endswith(f"{ROUND} VerdictExpired Withdraw {END} Rejected")
    assert outcome.output["judge"]["verdict"] == "hold"
    assert outcome.output["judge"]["at"] >= outcome.output["push"]["until"]
    entered = [n for n, event in enumerate(outcome.events) if "stateEnteredEventDetails" in event]
    rounds = [n for n, name in zip(entered, outcome.states) if name == "AwaitVerdict"]
    assert {after - before for before, after in pairwise(rounds)} == {lambdas.EVENTS_A_ROUND}


def test_lost_promotion_race(steps: Steps, execute: Execute) -> None:
    steps.before["promote"] = lambda: steps._change(None, champion="9")
    outcome = execute()
    assert path(outcome) == f"{TO_SHADOW} {ROUND} {ROUND} Promote Promoted PromotionLost Withdraw {FAILED}"
    assert (outcome.status, outcome.error) == ("FAILED", "PromotionLost")
    assert outcome.cause == "aliases.json has changed"
    assert steps.bucket.get("aliases.json") == {"champion": "9", "challengers": [], "epoch": 4}


def test_rolled_back(steps: Steps, execute: Execute, name: str) -> None:
    steps.bucket.put("rechecks.json", ["keep", "rollback"])
    outcome = execute(watch_seconds=60)
    watch = "Watch Recheck Keep"
    assert path(outcome).endswith(f"Promote Promoted {watch} {watch} Rollback RolledBack Withdraw {FAILED}")
    assert (outcome.status, outcome.error, outcome.cause) == ("FAILED", "RolledBack", "the server says rollback")
    assert steps.bucket.get("aliases.json")["champion"] == "1"
    assert steps.bucket.get(f"ends/{name}.json")["error"] == "RolledBack"


def test_outage_is_waited_for(steps: Steps, execute: Execute, pauses: list[float]) -> None:
    steps.outages = {"train": 6, "judge": 30}
    outcome = execute()
    assert outcome.status == "SUCCEEDED"
    assert (steps.calls.count("train"), steps.calls.count("judge")) == (7, 32)
    assert pauses[:6] == [5, 10, 20, 40, 80, 160]
    assert pauses[6:14] == [5, 10, 20, 40, 80, 160, 300, 300]


def test_outage_that_lasts_ends_the_run(steps: Steps, execute: Execute, name: str) -> None:
    steps.outages = {"evaluate": 99}
    outcome = execute()
    assert steps.calls.count("evaluate") == 7
    assert path(outcome) == f"Decide Proceed Prepare Train Evaluate StepFailed {FAILED}"
    assert (outcome.status, outcome.error) == ("FAILED", "TransientError")
    assert message(outcome) == f'Could not connect to the endpoint URL: "http://127.0.0.1:1/{name}/rows.json"'
    assert steps.bucket.get(f"ends/{name}.json")["error"] == "TransientError"


def test_throttled_function_is_called_again(steps: Steps, execute: Execute, pauses: list[float]) -> None:
    refusals = [interpreter.ServiceError("Lambda.TooManyRequestsException", "Rate exceeded")] * 8

    def throttle() -> None:
        if refusals:
            raise refusals.pop()

    steps.before["register"] = throttle
    assert execute().status == "SUCCEEDED"
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60]


def test_function_out_of_time(steps: Steps, execute: Execute, timeouts: dict[str, float]) -> None:
    timeouts[PIPELINE] = 0.5
    steps.before["train"] = lambda: steps.released.wait(60)
    try:
        outcome = execute()
    finally:
        del timeouts[PIPELINE]
    assert steps.calls.count("train") == 2
    assert (outcome.status, outcome.error) == ("FAILED", "Sandbox.Timedout")
    assert message(outcome) == "Task timed out after 0.50 seconds"
    assert path(outcome) == f"Decide Proceed Prepare Train StepFailed {FAILED}"


def test_error_for_good_is_not_retried(steps: Steps, execute: Execute, pauses: list[float]) -> None:
    steps.bucket.put("rows.json", [])
    outcome = execute()
    assert (steps.calls.count("train"), pauses) == (1, [])
    assert (outcome.status, outcome.error) == ("FAILED", "PipelineError")
    assert message(outcome) == "rows.json: there is nothing to train on; wait for metrics"


def test_error_in_the_shadow_takes_the_challenger_back(steps: Steps, execute: Execute) -> None:
    steps.bucket.put("verdicts.json", ["perhaps"])
    outcome = execute()
    assert path(outcome) == f"{TO_SHADOW} AwaitVerdict Judge ReleaseFailed Withdraw {FAILED}"
    assert message(outcome) == "judge.verdict: promote or reject or hold or expired is needed, not 'perhaps'"
    assert steps.bucket.get("aliases.json")["challengers"] == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "trigger: an object is needed"),
        ([1], "input: an object such as"),
        ("text", "input: an object such as"),
        ({"trigger": {**TRIGGER, "kind": "whim"}}, "trigger.kind: one of schedule, drift"),
        ({"trigger": {**TRIGGER, "reason": " "}}, "trigger.reason: say in words"),
        ({"trigger": {**TRIGGER, "at": "2026-11-28T00:00:00"}}, "trigger.at: an RFC 3339 time with its zone"),
        ({"trigger": TRIGGER, "settings": {"wait": 1}}, "settings: only an object with shadow_wait_seconds"),
        ({"trigger": TRIGGER, "settings": {"watch_seconds": "1"}}, "settings.watch_seconds: a whole number"),
        (
            {"trigger": TRIGGER, "settings": {"shadow_wait_seconds": 60}},
            "settings.shadow_wait_seconds: 21,744 rounds are too many",
        ),
    ],
)
def test_malformed_input(steps: Steps, client: BaseClient, name: str, given: object, says: str) -> None:
    outcome = interpreter.run(client, DEFINITION, given, name, timeout=60)
    assert path(outcome) == f"Decide InputRefused StepFailed {FAILED}"
    assert (outcome.status, outcome.error) == ("FAILED", "InputError")
    assert message(outcome).startswith(says)
    assert steps.calls == ["report"]
    assert steps.bucket.get(f"ends/{name}.json")["error"] == "InputError"


@pytest.mark.parametrize("limit", [1.5, 2.5])
def test_failing_report_does_not_hide_the_first_error(steps: Steps, execute: Execute, limit: float) -> None:
    steps.bucket.put("limit.json", limit)
    steps.outages = {"report": 99}
    outcome = execute()
    assert steps.calls.count("report") == 7
    if limit == 1.5:
        assert path(outcome) == f"{TO_GATE} GateFailed {FAILED}"
        assert (outcome.status, outcome.error) == ("FAILED", "GateFailed")
    else:
        assert path(outcome).endswith(f"Kept Withdraw {END} ReportFailed")
        assert (outcome.status, outcome.error) == ("FAILED", "TransientError")
        assert steps.bucket.get("aliases.json")["champion"] == "2"


def test_shadow_that_stays_taken_is_a_failure(steps: Steps, execute: Execute) -> None:
    steps.bucket.put("verdicts.json", ["reject"])
    steps.outages = {"withdraw": 99}
    outcome = execute()
    assert path(outcome).endswith(f"VerdictRejected Withdraw {END} WithdrawFailed")
    assert (outcome.status, outcome.error) == ("FAILED", "TransientError")


def test_execution_that_does_not_end_is_stopped(steps: Steps, client: BaseClient, name: str) -> None:
    steps.before["train"] = lambda: steps.released.wait(60)
    with pytest.raises(interpreter.InterpreterError, match=r"has not ended after 0\.5 s and was stopped"):
        interpreter.run(client, DEFINITION, {"trigger": TRIGGER}, name, timeout=0.5)


def test_only_one_server_at_a_time(endpoint: str) -> None:
    assert endpoint.startswith("http://127.0.0.1:")
    with pytest.raises(interpreter.InterpreterError, match="runs in this process already"), interpreter.serve({}):
        pass


def test_conditional_writes_are_atomic(steps: Steps) -> None:
    _, etag = steps._aliases()
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda: won.append(steps.bucket.put("aliases.json", {}, etag))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
