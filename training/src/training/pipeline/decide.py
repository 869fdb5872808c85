"""Whether to retrain now, and the end of a run: the first and the last step."""

import time
from dataclasses import dataclass
from typing import Any

import requests

from training.errors import TransientError
from training.pipeline import repository
from training.pipeline.learn import Told
from training.pipeline.release import tracking_of
from training.pipeline.settings import Settings

KINDS = ("schedule", "drift", "skill", "alert", "manual")
"""What may start a retraining."""
ASK = 10
"""Seconds that a server may take to answer."""


@dataclass(frozen=True)
class Trigger:
    """What started it: one of `KINDS`, and why in words."""

    kind: str
    reason: str = ""


def decide(
    settings: Settings, trigger: Trigger, told: Told = lambda _: None, *, at: float | None = None
) -> dict[str, Any]:
    """Whether a retraining begins: not beside a challenger in the shadow, not within the cool-down, not without cause.

    A person (`manual`) needs no cause and waits for no cool-down. A drift is looked at again: what started the machine
    may be an hour old.

    Args:
        settings: Where things are.
        trigger: What asks for it.
        told: Told what happens next.
        at: Now, Unix seconds.

    Returns:
        `proceed`, and `reason` either way.

    Raises:
        TransientError: The repository, MLflow or every server does not answer.
    """
    challengers = (repository.aliases(settings) or {}).get("challengers", [])
    if challengers:
        return {"proceed": False, "reason": f"version {challengers[0]} is in the shadow: one challenger at a time"}
    if trigger.kind == "manual":
        return {"proceed": True, "reason": trigger.reason or "asked for"}
    told("when the last one was")
    last = tracking_of(settings).last_start()
    now = time.time() if at is None else at
    if last is not None and now - last < settings.cool_down:
        hours = (now - last) / 3600
        return {"proceed": False, "reason": f"cool-down: the last one began {hours:.1f} h ago"}
    if trigger.kind == "drift":
        told(f"asking {', '.join(settings.peers)}")
        features = drifted(settings)
        if not features:
            return {"proceed": False, "reason": "the inputs are as in training again"}
        return {"proceed": True, "reason": f"inputs are not as in training: {', '.join(features)}"}
    return {"proceed": True, "reason": trigger.reason or trigger.kind}


def drifted(settings: Settings) -> list[str]:
    """The features of which the servers say that they drift.

    Raises:
        TransientError: No server answers.
    """
    found, failures = set(), []
    for peer in settings.peers:
        try:
            answer = requests.get(f"http://{peer}/models/{settings.model}/verdict", timeout=ASK)
            answer.raise_for_status()
        except requests.RequestException as error:
            failures.append(str(error))
            continue
        found |= {name for name, one in answer.json()["drift"].items() if one["alarm"]}
    if len(failures) == len(settings.peers):
        msg = f"no server answers: {failures[0]}"
        raise TransientError(msg)
    return sorted(found)


def report(settings: Settings, key: str | None, end: str, reason: str, *, failed: bool) -> dict[str, Any]:
    """Ends the run in MLflow with what came of it. Without a key there was no run yet, and nothing is to be ended.

    Returns:
        `end`, `reason`.
    """
    if key is not None:
        tracking_of(settings).end(key, end, reason, failed=failed)
    return {"end": end, "reason": reason}
