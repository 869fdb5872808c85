"""Every step as the state machine calls it: the whole state in, a small dict out. Settings are of the environment.

The image's entry points are `training.pipeline.steps.pipeline_handler` and `.release_handler`.
"""

from collections.abc import Callable
from typing import Any

from training import lambdas
from training.lambdas import pipeline_handler, release_handler
from training.pipeline.compare import evaluate
from training.pipeline.decide import Trigger, decide, report
from training.pipeline.gating import gate
from training.pipeline.learn import prepare, train
from training.pipeline.release import judge, promote, push, recheck, register, rollback, withdraw
from training.pipeline.settings import Settings

__all__ = ["pipeline_handler", "release_handler"]

State = dict[str, Any]
BY_KEY: dict[str, Callable[..., dict[str, Any]]] = {
    "train": train,
    "evaluate": evaluate,
    "gate": gate,
    "register": register,
    "push": push,
    "judge": judge,
    "promote": promote,
    "recheck": recheck,
    "rollback": rollback,
    "withdraw": withdraw,
}
"""The steps that know their run."""


def _decide(state: State) -> dict[str, Any]:
    trigger = state["trigger"]
    return decide(Settings.read(), Trigger(trigger["kind"], trigger["reason"]))


def _prepare(_: State) -> dict[str, Any]:
    return prepare(Settings.read())


def _keyed(step: Callable[..., dict[str, Any]]) -> Callable[[State], dict[str, Any]]:
    return lambda state: _small(step(Settings.read(), state["prepare"]["run_key"]))


def _small(result: dict[str, Any]) -> dict[str, Any]:
    """What the machine need not carry is left to the run's folder."""
    return {k: v for k, v in result.items() if isinstance(v, (str, bool, int, float)) or k in {"failed", "aliases"}}


def _report(state: State) -> dict[str, Any]:
    """Ends the run in MLflow with what the machine came to."""
    end = state["end"]
    key = state.get("prepare", {}).get("run_key")
    reason = end.get("cause") or ""
    if isinstance(state.get("withdraw"), dict) and "Error" in state["withdraw"]:
        reason = f"{reason} The challenger was not withdrawn: {state['withdraw'].get('Cause', '')}".strip()
    return report(Settings.read(), key, end["outcome"], reason, failed=end["outcome"] == "failed")


_PLACES = ("TRAINING_WORK", "ONNXD_REPOSITORY", "MLFLOW_TRACKING_URI", "ONNXD_PEERS")
lambdas.ENVIRONMENT.update(pipeline=("TRAINING_SOURCE", *_PLACES), release=_PLACES)
lambdas.STEPS.update({"decide": _decide, "prepare": _prepare, "report": _report})
lambdas.STEPS.update({name: _keyed(step) for name, step in BY_KEY.items()})
