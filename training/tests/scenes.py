"""A stage for tests of the state machine with its real steps, and scenes on it: each has copies of what was learned.

A small fleet whose load begins to last longer on day 2: the champion is of the days before, the retraining reads those
since. S3, Step Functions and the servers are those of `training.local`; MLflow keeps its database in a file.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3
import requests

from training import candidate, interpreter, local, onnxd
from training.config import Config
from training.data import rows
from training.data.days import Day, iso
from training.data.source import part
from training.data.synthetic import make_weeks
from training.features import table
from training.manifest import to_bytes
from training.pipeline import compare, gating, learn, repository, steps
from training.pipeline.settings import Settings
from training.pipeline.work import Run, tracking_of
from training.processes import environment
from training.tracking import Tracking
from training.traffic import Traffic

SEED, PODS, OLD, NEW, DAYS = 2, 10, 2, 2, 6
VERDICT = "--verdict-least-time,6h,--verdict-alpha,0.1"
AT_ONCE = {"shadow_wait_seconds": 0, "shadow_seconds": 60, "watch_wait_seconds": 0, "watch_seconds": 0}
TRIGGER = {"kind": "manual", "reason": "the forecast has lost its skill", "at": "2026-11-28T00:00:00Z"}
NOWHERE = "http://127.0.0.1:1"
"""Nothing listens on this port."""
BASE = "base"

Hook = Callable[[], object]


def fleet(begin: int, end: int, *, changed: bool) -> Day:
    """Rows of the days from `begin` to `end`; with `changed`, of the load that lasts longer from day 2 on."""
    config, kinds = Config(), ("cpu_stress",)
    day = OLD if changed else None
    seeded = replace(config, seed=SEED)
    whole = make_weeks(seeded, days=DAYS, pods=PODS, drift_day=day, drift=("persistence",), kinds=kinds, weekend=1.0)
    first = whole.span[0]
    cuts = first + begin * local.DAY, first + end * local.DAY
    return part(whole, *cuts, f"days {begin} to {end}", config, context=local.WINDOW)


@dataclass
class Stage:
    """What all scenes share.

    Attributes:
        endpoint: Of S3 and of Step Functions.
        folder: For files.
        timeouts: Seconds that the two functions may run, by their ARN; a test may change them.
        scene: Whose hooks the functions call.
        key: Of the run that was learned.
        end: Last second of the days that a retraining reads.
    """

    endpoint: str
    folder: Path
    timeouts: dict[str, float]
    scene: "Scene | None" = None
    key: str = ""
    end: int = 0

    @contextmanager
    def act(self, name: str, *, learned: bool = True) -> Iterator["Scene"]:
        """A scene, with its settings in the environment.

        Args:
            name: Of its places.
            learned: Whether the run and its entry in MLflow are there already, up to its gates.
        """
        for bucket in ("models", "work") if learned else ("models",):
            self._copy(bucket, name)
        folder = self.folder / name
        folder.mkdir()
        if learned:
            shutil.copy(self.folder / BASE / "mlflow.db", folder)
        with environment(self.environment(name)):
            self.scene = Scene(self, name, Settings.read())
            try:
                yield self.scene
            finally:
                self.scene = None

    def environment(self, name: str) -> dict[str, str]:
        """The functions' environment, before there is a server."""
        return {
            "TRAINING_SOURCE": f"rows:s3://metrics?days={NEW}&end={iso(self.end)}",
            "TRAINING_WORK": f"s3://work/{name}",
            "TRAINING_RECIPES": "monotone-logistic",
            "TRAINING_VERDICT": VERDICT,
            "ONNXD_REPOSITORY": f"s3://models/{name}",
            "ONNXD_MODEL": local.MODEL,
            "ONNXD_PEERS": NOWHERE.removeprefix("http://"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/{name}/mlflow.db",
        }

    def _copy(self, bucket: str, name: str) -> None:
        s3 = boto3.client("s3", endpoint_url=self.endpoint)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{BASE}/"):
            for one in page.get("Contents", ()):
                source = {"Bucket": bucket, "Key": one["Key"]}
                s3.copy_object(Bucket=bucket, Key=f"{name}/{one['Key'].removeprefix(f'{BASE}/')}", CopySource=source)

    def handler(self, function: local.Handler) -> local.Handler:
        """A function that calls the scene's hooks before and after a step."""

        def called(event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401 - as Lambda calls it
            scene, step = self.scene, event["step"]
            scene.calls.append(step)
            scene.before.get(step, lambda: None)()
            found = function(event, context)
            scene.after.get(step, lambda: None)()
            return found

        return called


@contextmanager
def open_stage(folder: Path) -> Iterator[Stage]:
    """A stage, with a champion in a repository and a run that has passed its gates."""
    stage = Stage("", folder, {})
    functions = (stage.handler(steps.pipeline_handler), stage.handler(steps.release_handler))
    with local.cloud(*functions, stage.timeouts) as stage.endpoint:
        old, new = fleet(0, OLD, changed=True), fleet(OLD, OLD + NEW, changed=True)
        stage.end = new.span[1] + 1
        local.first_champion(folder / "first", old, f"s3://models/{BASE}")
        rows.write("s3://metrics", new, Config())
        (folder / BASE).mkdir()
        with environment(stage.environment(BASE)):
            settings = Settings.read()
            stage.key = learn.prepare(settings)["run_key"]
            learn.train(settings, stage.key)
            compare.evaluate(settings, stage.key)
            found = gating.gate(settings, stage.key)
            assert found["passed"], found["reason"]
        yield stage


@dataclass
class Scene:
    """One repository, one work folder and one MLflow.

    Attributes:
        stage: Where it is played.
        name: Of its places.
        settings: What the steps read from the environment, but for the servers.
        before: What happens before a step, by its name.
        after: What happens after a step, before the machine learns of its end.
        calls: The steps in the order in which they were called.
    """

    stage: Stage
    name: str
    settings: Settings
    before: dict[str, Hook] = field(default_factory=dict)
    after: dict[str, Hook] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    executions: int = 0

    def execute(self, trigger: Mapping[str, str] = TRIGGER, **settings: int) -> interpreter.Outcome:
        """Runs the state machine to its end."""
        self.executions += 1
        client = boto3.client("stepfunctions", endpoint_url=self.stage.endpoint)
        given = {"trigger": dict(trigger), "settings": {**AT_ONCE, **settings}}
        return interpreter.run(client, local.definition(), given, f"{self.name}-{self.executions}", timeout=120)

    @contextmanager
    def servers(self, count: int = 1) -> Iterator[tuple[onnxd.Server, ...]]:
        """Servers of the repository, which the steps ask."""
        with ExitStack() as stack:
            place = self.stage.folder / self.name
            found = tuple(
                stack.enter_context(local.serve(place / f"server-{i}", self.settings.repository)) for i in range(count)
            )
            stack.enter_context(environment({"ONNXD_PEERS": ",".join(server.ops for server in found)}))
            yield found

    @property
    def aliases(self) -> dict[str, Any]:
        """`aliases.json`."""
        return repository.aliases(self.settings)

    @property
    def tracking(self) -> Tracking:
        """MLflow."""
        return tracking_of(self.settings)

    @property
    def run(self) -> Run:
        """The folder of the run that was learned."""
        return Run(self.settings, self.stage.key)

    def onnxd(self, command: str, *words: str | Path) -> Any:  # noqa: ANN401 - JSON
        """Changes the repository as a person would."""
        place = ["--model", self.settings.model, "--repository", self.settings.repository]
        return onnxd.call([command, *words, *place, "--by", "a person"]).answer

    def plant(self, made: candidate.Candidate, days: list[Day]) -> None:
        """Puts another candidate in the place of the one that was trained."""
        learned = table(days[0], Config())
        document = candidate.document(made, days, learned, metrics={}, config=Config(), at="2026-11-28T00:00:00Z")
        self.run.files.write("monotone-logistic/model.onnx", made.onnx)
        self.run.files.write("monotone-logistic/expected.npz", learn._pack(made.rows, made.expected))
        self.run.files.write("monotone-logistic/manifest.json", to_bytes(document))

    def forget(self, *steps: str) -> None:
        """Makes steps undone, as where a process died before it wrote down that they are done."""
        s3 = boto3.client("s3", endpoint_url=self.stage.endpoint)
        for step in steps:
            s3.delete_object(Bucket="work", Key=f"{self.name}/runs/{self.stage.key}/{step}.json")


def send(day: Day, servers: tuple[onnxd.Server, ...]) -> None:
    """Sends a day's rows and labels to servers, as soon as they compare two models."""
    deadline = time.monotonic() + 20
    while not all(compares(server) for server in servers):
        assert time.monotonic() < deadline, "the servers compare no models"
    Traffic(day, Config(), [server.http for server in servers], local.MODEL).send()


def compares(server: onnxd.Server) -> bool:
    """Whether a server compares a challenger, or the champion before, with the champion."""
    found = requests.get(f"http://{server.ops}/models/{local.MODEL}/verdict", timeout=10).json()
    return bool(found["verdicts"]) or found["previous"] is not None


def outage(times: int, variable: str) -> Hook:
    """A hook: the first times, a service is where nothing listens. It ends by an answer, or by `times`."""
    left, right = [times], os.environ[variable]

    def hook() -> None:
        os.environ[variable] = NOWHERE if left[0] > 0 else right
        left[0] -= 1

    return hook
