"""The folder of a run: what its steps hand to each other. A step that is done has written `<step>.json` there, last."""

import functools
from collections.abc import Callable
from typing import Any

from training import lineage
from training.errors import PipelineError
from training.pipeline.settings import Settings
from training.storage import Storage
from training.tracking import Tracking

LATEST = "latest.json"


class Run:
    """A run by its key, in the work folder.

    Attributes:
        key: SHA-256, hexadecimal, of data, code and parameters.
        files: The run's folder.
    """

    def __init__(self, settings: Settings, key: str) -> None:
        """Opens it; nothing is read."""
        self.key = key
        self.files = Storage(settings.work).under(f"runs/{key}")

    def done(self, step: str) -> dict[str, Any] | None:
        """What a step returned, if it is done."""
        return self.files.read_json(f"{step}.json")

    def needs(self, step: str) -> dict[str, Any]:
        """What a step returned.

        Raises:
            PipelineError: It is not done.
        """
        found = self.done(step)
        if found is None:
            msg = f"run {self.key[:12]} has no {step}: run `python -m training {step}` first"
            raise PipelineError(msg)
        return found

    def read(self, name: str) -> bytes:
        """A file that an earlier step wrote.

        Raises:
            PipelineError: It is gone.
        """
        content = self.files.read(name)
        if content is None:
            msg = f"{self.files.uri}/{name} is gone: remove the run's folder and begin again with `prepare`"
            raise PipelineError(msg)
        return content


def tracking_of(settings: Settings) -> Tracking:
    """MLflow, as the settings name it."""
    return Tracking(settings.mlflow, settings.experiment, settings.model)


def latest(settings: Settings) -> str:
    """The key of the run that was prepared last.

    Raises:
        PipelineError: There is none.
    """
    found = Storage(settings.work).read_json(LATEST)
    if found is None:
        msg = f"{settings.work} holds no run: begin with `python -m training prepare`"
        raise PipelineError(msg)
    return found["run"]


def _written(settings: Settings, run: Run, step: str) -> tuple[str, ...]:
    """Where a step's results go, for lineage."""
    repository = f"{settings.repository}/{settings.model}"
    return {"push": (repository,), "register": (f"models:/{settings.model}",)}.get(step, (run.files.uri,))


Step = Callable[..., dict[str, Any]]


def once(step: Step) -> Step:
    """A step that does nothing when it is done: its result is read. Its name is the function's."""
    name = step.__name__

    @functools.wraps(step)
    def called(settings: Settings, key: str, *arguments: Any, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - the step's own
        run = Run(settings, key)
        if (found := run.done(name)) is not None:
            return found
        with lineage.told(settings.model, name, key, reads=(run.files.uri,), writes=_written(settings, run, name)):
            result = step(settings, key, *arguments, **more)
        if result.get("pushed", True):
            run.files.write_json(f"{name}.json", result)
        return result

    return called
