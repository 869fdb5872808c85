"""Whether to retrain now, and the end of a run: the first and the last step."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests

from training.data.days import DataError
from training.data.source import open_source
from training.errors import TransientError
from training.features import join, table
from training.model import forecast_rows
from training.pipeline import repository
from training.pipeline.compare import graph_of
from training.pipeline.learn import config_of
from training.pipeline.settings import Settings
from training.pipeline.work import tracking_of
from training.told import Told, nobody

LEAST_SKILL = 0.10
"""A champion whose forecasts are not this much better than "it stays as it is" has lost its skill."""
ASK = 10
"""Seconds that a server may take to answer."""


@dataclass(frozen=True)
class Trigger:
    """What started it: one of `lambdas.KINDS`, and why in words."""

    kind: str
    reason: str = ""


def decide(settings: Settings, trigger: Trigger, told: Told = nobody, *, at: float | None = None) -> dict[str, Any]:
    """Whether a retraining begins: not beside a challenger in the shadow, not within the cool-down, not without cause.

    A person (`manual`) needs no cause and waits for no cool-down. A drift and a lost skill are looked at again: what
    started the machine may be an hour old.

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
    proceed, reason = _cause(settings, trigger, told)
    return {"proceed": proceed, "reason": reason}


def _cause(settings: Settings, trigger: Trigger, told: Told) -> tuple[bool, str]:
    """Whether what started the machine still holds, and why."""
    if trigger.kind == "drift":
        told(f"asking {', '.join(settings.peers)}")
        features = drifted(settings)
        drifts = f"inputs are not as in training: {', '.join(features)}"
        return bool(features), drifts if features else "the inputs are as in training again"
    if trigger.kind == "skill":
        told("the champion's forecasts of the last day")
        gained = skill(settings)
        if gained is None:
            return True, "the champion takes other inputs, so that its forecasts are not measured"
        than = f"{abs(gained):.0%} {'better' if gained > 0 else 'worse'} than 'it stays as it is'"
        return gained < LEAST_SKILL, f"the champion's forecast of the last day is {than}, {LEAST_SKILL:.0%} is least"
    return True, trigger.reason or trigger.kind


def skill(settings: Settings) -> float | None:
    """By what share the champion's forecast errors of the last day are below those of "it stays as it is".

    None if the champion takes other inputs than this pipeline makes.

    Raises:
        DataError: The source holds no rows whose actual value came.
    """
    champion = graph_of(repository.champion(settings))
    if champion is None:
        return None
    config = config_of(settings)
    day = join([table(one, config) for one in open_source(settings.source).last(1).read(config)])
    known = forecast_rows(day)
    if not known.any():
        msg = f"{settings.source} holds no rows of the last day whose actual value came"
        raise DataError(msg)
    forecast = champion.predict(day.features).forecast
    error, naive = (float(np.abs(guess - day.target)[known].mean()) for guess in (forecast, day.cpu))
    return 1 - error / naive if naive > 0 else 0.0


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
