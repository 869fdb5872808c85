"""The whole loop on one machine, with every part real: PostgreSQL, MLflow, S3, the state machine, two servers, traffic.

The story: a fleet's load begins to last longer on day 4, which z-scores hardly show and forecasts do. The champion, of
the days before, has lost its skill. The retraining reads the collector's rows from the metrics bucket, makes a
candidate, puts it through the gates and into the shadow; the next days' traffic is replayed to two servers with the
labels of the faults; the verdict promotes it, by its defaults; both servers swap.

Where drift begins it, limits are raised as well. The servers have seen a day's traffic since, and say that the inputs
are not as in the champion's training; the challenger is held by its own, where they were.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
import requests
from rich.console import Console
from rich.table import Table as Shown

from training import candidate, interpreter, onnxd, services
from training.config import Config
from training.data import rows
from training.data.days import Day, iso
from training.data.source import open_source, part
from training.errors import PipelineError
from training.features import table
from training.manifest import now, to_bytes
from training.pipeline import repository, steps
from training.pipeline.decide import drifted
from training.pipeline.settings import Settings
from training.pipeline.work import tracking_of
from training.processes import environment
from training.told import Story
from training.traffic import Traffic

DAY = 86_400
OLD_DAYS, NEW_DAYS = 4, 4
"""Days that the champion was trained on, and those after them, that the retraining reads."""
WINDOW = 6 * 3600
BUCKETS = ("metrics", "models", "work", "mlflow-artifacts")
MODEL = "anomaly"
PIPELINE = "arn:aws:lambda:us-east-1:123456789012:function:training-pipeline"
RELEASE = "arn:aws:lambda:us-east-1:123456789012:function:training-release"
SETTINGS = {"shadow_wait_seconds": 2, "shadow_seconds": 300, "watch_wait_seconds": 1, "watch_seconds": 3}
"""The machine's waits, for a week that takes a minute."""
MINUTES = 30
LIMIT = 60 * MINUTES

Handler = Callable[[Any, Any], dict[str, Any]]
"""A Lambda function: the event and the context in, a result out."""


@dataclass(frozen=True)
class Stage:
    """What runs: the S3 server's endpoint, MLflow's URL, and the servers."""

    endpoint: str
    mlflow: str
    servers: tuple[onnxd.Server, ...]


def run(
    source: str,
    work: Path | None,
    errors: Console,
    *,
    trigger: str = "skill",
    at_end: Callable[[Stage, Settings], None] = lambda *_: None,
) -> int:
    """Runs the story. Returns 0 if the new model is served by every server, else 1.

    Args:
        source: Of at least 11 days.
        work: Folder for all files; a temporary one if None.
        errors: For the progress.
        trigger: What begins the retraining: `skill`, or `drift`.
        at_end: Called when the story is over and everything still runs.

    Raises:
        PipelineError: A part is missing or does not start.
    """
    story = Story(errors)
    with tempfile.TemporaryDirectory(prefix="onnxd-") as temporary, ExitStack() as stack:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stage = stack.enter_context(_stage(folder, story))
        old, new, coming = days_of(source)
        counted = f"{old.rows:,} rows before, {new.rows:,} rows since, {coming.rows:,} rows coming"
        story.tell(f"{source.partition(':')[0]} fleet: {counted}")
        trained = first_champion(folder / "first", old, "s3://models")
        story.tell(f"champion: version 1, trained until {trained}")
        servers = tuple(stack.enter_context(serve(folder / f"server-{i}", "s3://models")) for i in range(2))
        stage = replace(stage, servers=servers)
        story.tell(f"two servers: http://{servers[0].http} and http://{servers[1].http}, version 1")
        _collect([old, new], story)
        end = new.span[1] + 1
        with environment(_settings(stage, end)):
            reason = "the champion's forecast is no better than no forecast"
            if trigger == "drift":
                reason = _drift(stage, new, story)
            outcome = _execute(stage, coming, {"kind": trigger, "reason": reason, "at": now()}, story)
            passed = _result(stage, outcome, errors)
            at_end(stage, Settings.read())
    return 0 if passed else 1


def ask(stage: Stage, errors: Console) -> None:
    """Waits for a line on standard input, so that a person can look around."""
    errors.print(f"\nMLflow: {stage.mlflow}   consoles: {', '.join(f'http://{s.ops}' for s in stage.servers)}")
    errors.input("Everything runs until Enter is pressed. ")


@contextmanager
def cloud(pipeline: Handler, release: Handler, timeouts: Mapping[str, float] | None = None) -> Iterator[str]:
    """S3 with its buckets, and Step Functions, which calls the two functions. Yields the endpoint.

    While the block runs, the environment of this process names it to AWS's tools.

    Args:
        pipeline: The function that learns.
        release: The function that writes the model repository.
        timeouts: Seconds that they may run, by their ARN.
    """
    credentials = {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    with ExitStack() as stack:
        stack.enter_context(environment(credentials))
        functions = {PIPELINE: pipeline, RELEASE: release}
        endpoint = stack.enter_context(interpreter.serve(functions, timeouts=timeouts))
        stack.enter_context(environment({"AWS_ENDPOINT_URL": endpoint}))
        s3 = boto3.client("s3", endpoint_url=endpoint)
        for bucket in BUCKETS:
            s3.create_bucket(Bucket=bucket)
        yield endpoint


@contextmanager
def _stage(folder: Path, story: Story) -> Iterator[Stage]:
    """PostgreSQL, S3 with Step Functions, and MLflow."""
    with ExitStack() as stack:
        functions = (_telling(handler, story) for handler in (steps.pipeline_handler, steps.release_handler))
        endpoint = stack.enter_context(cloud(*functions))
        story.tell(f"S3 and Step Functions: {endpoint}")
        database = stack.enter_context(services.postgres(folder / "postgres"))
        story.tell(f"PostgreSQL: {database}")
        url = stack.enter_context(services.mlflow(database, "s3://mlflow-artifacts", folder))
        story.tell(f"MLflow: {url}")
        yield Stage(endpoint, url, ())


def _telling(handler: Handler, story: Story) -> Handler:
    """A Lambda function that tells what each step found; what it found before is not told again."""
    last: dict[str, str] = {}

    def told(event: Any, context: Any) -> dict[str, Any]:  # noqa: ANN401 - as Lambda calls it
        found = handler(event, context)
        line = _line(event["step"], found)
        if last.get(event["step"]) != line:
            story.tell(line)
            last[event["step"]] = line
        return found

    return told


def _line(step: str, found: dict[str, Any]) -> str:
    interesting = ("reason", "recipe", "version", "passed", "verdict", "promoted", "end", "train_rows", "test_rows")
    words = [f"{name} {found[name]}" for name in interesting if found.get(name) not in {None, ""}]
    return f"{step}: {', '.join(words)}"[:400]


def days_of(source: str) -> tuple[Day, Day, Day]:
    """The champion's days, those that the retraining reads, and those that are replayed.

    Raises:
        PipelineError: The source holds too few days.
    """
    config = Config()
    (whole,) = open_source(source).read(config)
    begin = whole.span[0]
    cuts = [begin, begin + OLD_DAYS * DAY, begin + (OLD_DAYS + NEW_DAYS) * DAY, whole.span[1] + 1]
    if cuts[-1] - cuts[-2] < DAY:
        msg = f"{source} holds {(cuts[-1] - begin) / DAY:.0f} days: give {OLD_DAYS + NEW_DAYS + 3} or more"
        raise PipelineError(msg)
    names = ("before", "since", "coming")
    days = [part(whole, a, b, n, config, context=WINDOW) for n, a, b in zip(names, cuts, cuts[1:])]
    return days[0], days[1], days[2]


def first_champion(place: Path, old: Day, where: str) -> str:
    """Trains a champion on the days before the change and pushes it: version 1. Returns until when it learned.

    Args:
        place: New folder for its files.
        old: The days.
        where: The model repository.
    """
    config = Config()
    learned = table(old, config)
    made = candidate.make("monotone-logistic", learned, config)
    document = candidate.document(made, [old], learned, metrics={}, config=config, at=now())
    words = ["push", onnxd.place(place, made.onnx, to_bytes(document)), "--model", MODEL, "--repository", where]
    onnxd.call([*words, "--by", "local", "--reason", "trained on the first days"])
    return iso(old.span[1])


@contextmanager
def serve(folder: Path, where: str) -> Iterator[onnxd.Server]:
    """A server of a repository in S3, for times as the rows say them; its state and its log are in a new folder."""
    folder.mkdir()
    flags = [
        "--event-time",
        "--poll-interval",
        "1s",
        "--verdict-interval",
        "1s",
        "--state",
        str(folder / "state"),
        "--cache",
        str(folder / "cache"),
    ]
    with onnxd.serve(where, flags, log=folder / "log") as server:
        yield server


def _collect(days: list[Day], story: Story) -> None:
    """Writes the rows as the collector does."""
    files = [file for day in days for file in rows.write("s3://metrics", day, Config())]
    story.tell(f"metrics bucket: {len(files)} Parquet files of feature rows")


def _settings(stage: Stage, end: int) -> dict[str, str]:
    """The environment of the functions."""
    return {
        "TRAINING_SOURCE": f"rows:s3://metrics?days={NEW_DAYS}&end={iso(end)}",
        "TRAINING_WORK": "s3://work",
        "ONNXD_REPOSITORY": "s3://models",
        "ONNXD_MODEL": MODEL,
        "MLFLOW_TRACKING_URI": stage.mlflow,
        "ONNXD_PEERS": ",".join(server.ops for server in stage.servers),
    }


def _drift(stage: Stage, day: Day, story: Story) -> str:
    """Sends the last of the days since the change to the servers. Returns in words what they say within a minute.

    Raises:
        PipelineError: Nothing drifts.
    """
    end = day.span[1] + 1
    last = part(day, end - DAY, end, "last", Config(), context=WINDOW)
    sender = Traffic(last, Config(), [server.http for server in stage.servers], MODEL)
    sender.send()
    story.tell(f"traffic: {sender.sent:,} rows of the last day")
    deadline = time.monotonic() + 60
    while not (features := drifted(Settings.read())):
        if time.monotonic() > deadline:
            msg = "the servers see no drift: give a source whose features change on day 4"
            raise PipelineError(msg)
        time.sleep(0.2)
    reason = f"inputs are not as in training: {', '.join(features)}"
    story.tell(f"servers: {reason}")
    return reason


def _execute(stage: Stage, coming: Day, trigger: dict[str, str], story: Story) -> interpreter.Outcome:
    """Runs the state machine, with the coming days' traffic as soon as the challenger is in the shadow."""
    stop, failures = threading.Event(), []

    def traffic() -> None:
        try:
            while not all(compares(server) for server in stage.servers):
                if stop.wait(0.2):
                    return
            sender = Traffic(coming, Config(), [server.http for server in stage.servers], MODEL)
            story.tell(f"traffic: {sender.rows:,} rows of {(coming.span[1] - coming.span[0]) / DAY:.0f} days begin")
            sender.send(stop=stop)
            story.tell(f"traffic: {sender.sent:,} rows answered, {sender.labels:,} labels")
        except PipelineError as error:
            failures.append(error)

    sender = threading.Thread(target=traffic)
    sender.start()
    try:
        client = boto3.client("stepfunctions", endpoint_url=stage.endpoint)
        given = {"trigger": trigger, "settings": SETTINGS}
        outcome = interpreter.run(client, definition(), given, f"local-{time.time_ns()}", LIMIT)
    finally:
        stop.set()
        sender.join()
    if failures:
        raise failures[0]
    return outcome


def definition() -> str:
    """The state machine with the two functions of `cloud`."""
    text = interpreter.MACHINE.read_text(encoding="utf-8")
    return interpreter.render(text, pipeline_function_arn=PIPELINE, release_function_arn=RELEASE)


def compares(server: onnxd.Server) -> bool:
    """Whether a server scores a challenger."""
    answer = requests.get(f"http://{server.ops}/models/{MODEL}/verdict", timeout=10)
    return answer.ok and bool(answer.json()["verdicts"])


def _result(stage: Stage, outcome: interpreter.Outcome, errors: Console) -> bool:
    """Prints what came of it. Returns whether every server serves the new version, and MLflow says the same."""
    settings = Settings.read()
    aliases = repository.aliases(settings) or {}
    new = aliases["champion"]
    served = [_version(server) for server in stage.servers]
    known = tracking_of(settings).aliases()
    shown = Shown("", "", title=f"The state machine: {outcome.status}")
    shown.add_row("states", " ".join(outcome.states))
    if outcome.error:
        shown.add_row("error", f"{outcome.error}: {outcome.cause}")
    shown.add_row("aliases.json", json.dumps({k: aliases[k] for k in ("champion", "challengers", "previous", "epoch")}))
    shown.add_row("MLflow", json.dumps(known))
    shown.add_row("served", ", ".join(f"http://{s.http}: version {v}" for s, v in zip(stage.servers, served)))
    shown.add_row("why", str(aliases.get("reason")))
    errors.print(shown)
    return (
        outcome.status == "SUCCEEDED"
        and new != "1"
        and set(served) == {new}
        and known.get("champion") == new
        and "challenger" not in known
    )


def _version(server: onnxd.Server) -> str:
    """The version that a server answers with, within its poll interval."""
    wanted = repository.aliases(Settings.read())["champion"]
    version = ""
    for _ in range(100):
        row = {"cpu_zscore": 2.1, "memory_zscore": 1.5}
        version = requests.post(f"http://{server.http}/predict", json=row, timeout=10).headers["x-model-version"]
        if version == wanted:
            break
        time.sleep(0.1)
    return version
