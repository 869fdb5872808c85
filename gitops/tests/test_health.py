"""Argo CD's health checks of ours, run by the Lua that Argo CD's interpreter is of (5.1), on what there really is."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa.lua51 import LuaRuntime

import manifests
from validate import ROOT

CHECKS: dict[str, str] = yaml.safe_load((ROOT / "gitops" / "argocd" / "values.yaml").read_text())["configs"]["cm"]
# As the operator wrote them into a real API server: before it looked, then of a spec that makes sense, of one that
# makes none, and of one that was changed while it was away.
POLICIES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "policies.json").read_text())


def health(kind: str, document: dict[str, Any]) -> tuple[str, str]:
    """What the check of a kind says: status and message."""
    lua = LuaRuntime(unpack_returned_tuples=True, register_eval=False, register_builtins=False)
    lua.globals().obj = lua.table_from(document, recursive=True)
    answer = lua.execute(CHECKS[f"resource.customizations.health.{kind}"])
    return answer["status"], answer["message"]


@pytest.mark.parametrize(
    ("when", "status", "message"),
    [
        ("nobody has looked", "Progressing", "has not looked at it yet"),
        ("carried out", "Healthy", "the policy is carried out"),
        ("makes no sense", "Degraded", "spec.budget.per"),
        ("changed since", "Progressing", "has not looked at it yet"),
    ],
)
def test_a_policy_is_what_the_operator_says(when: str, status: str, message: str) -> None:
    policy = POLICIES[when]
    assert manifests.wrong_with(policy) == []
    found = health("onnxd.dev_RemediationPolicy", policy)
    assert found[0] == status
    assert message in found[1]


def test_a_policy_that_acts_is_healthy() -> None:
    policy = json.loads(json.dumps(POLICIES["carried out"]))
    (active,) = [one for one in policy["status"]["conditions"] if one["type"] == "Active"]
    active.update(status="True", reason="BudgetSpent", message="failing: crash_loop; waiting: the budget is spent")
    # The order of conditions means nothing.
    policy["status"]["conditions"].reverse()
    assert health("onnxd.dev_RemediationPolicy", policy)[0] == "Healthy"


def application(health_status: str | None, sync: str | None, phase: str | None, message: str = "") -> dict[str, Any]:
    """An application with this status."""
    status: dict[str, Any] = {}
    if health_status:
        status["health"] = {"status": health_status}
    if sync:
        compared = {"destination": {"namespace": "ml"}, "source": {"repoURL": "https://git.example.com/onnxd.git"}}
        status["sync"] = {"status": sync, "comparedTo": compared}
    if phase:
        at = "2026-11-28T00:00:00Z"
        status["operationState"] = {"phase": phase, "startedAt": at, "operation": {}, "message": message}
    document = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Application", "metadata": {"name": "one"}}
    return document | {"spec": {"project": "ml", "destination": {"namespace": "ml"}}, "status": status}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ((None, None, None), "Progressing"),  # just made
        (("Healthy", "OutOfSync", None), "Progressing"),  # nothing of it is there, which 3.4 and later call healthy
        (("Healthy", "OutOfSync", "Running"), "Progressing"),
        (("Healthy", "Synced", "Running"), "Progressing"),
        (("Missing", "OutOfSync", None), "Progressing"),
        (("Unknown", "Unknown", None), "Progressing"),
        (("Progressing", "Synced", "Succeeded"), "Progressing"),
        (("Healthy", "Synced", "Succeeded"), "Healthy"),
        (("Healthy", "Synced", None), "Healthy"),  # it was there before
        (
            ("Healthy", "OutOfSync", "Succeeded"),
            "Healthy",
        ),  # something that Git does not own differs: no reason to wait for ever
        (("Degraded", "Synced", "Succeeded"), "Degraded"),
        (("Suspended", "Synced", "Succeeded"), "Suspended"),
        (("Healthy", "OutOfSync", "Failed"), "Degraded"),
        (("Progressing", "OutOfSync", "Error"), "Degraded"),
    ],
)
def test_a_wave_waits_for_applications_that_are_there_and_well(status: tuple, expected: str) -> None:
    document = application(*status)
    with contextlib.suppress(manifests.UnavailableError):
        assert manifests.wrong_with(document) == []
    assert health("argoproj.io_Application", document)[0] == expected


def test_the_message_says_why_a_sync_failed() -> None:
    document = application("Healthy", "OutOfSync", "Failed", "ServiceMonitor is not permitted in project ml")
    found = health("argoproj.io_Application", document)
    assert found == ("Degraded", "the last sync failed: ServiceMonitor is not permitted in project ml")


def test_there_is_a_check_for_each_kind_of_ours() -> None:
    kinds = {re.sub(r".*\.health\.", "", key) for key in CHECKS if ".health." in key}
    assert kinds == {"argoproj.io_Application", "onnxd.dev_RemediationPolicy"}
