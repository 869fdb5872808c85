"""The faults of `k8s/chaos*` against real processes: a replica is killed, the network is slow, S3 is gone.

Two replicas of onnxd serve from S3 behind what a Service does; clients ask without a pause. Checked are: no request is
lost but those that were on the killed process, and those are answered when asked again; the alert of each fault fires
and clears.
"""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import numpy as np
import requests
from rich.console import Console
from rich.table import Table

from local.loop import FASTER, Waiting
from local.monitoring import Monitoring, Receivers, monitoring
from local.service import Service
from training import onnxd
from training.errors import PipelineError
from training.processes import STOP, answers, environment, stop, wait
from training.services import free_port

BUCKET = "models"
REPLICAS = 2
CLIENTS = 4
TRIES = 2
PACE = 0.01
"""Seconds between two requests of a client."""
ROW = {"cpu_zscore": 2.1, "memory_zscore": 1.5}
DOWN = 4.0
"""Seconds that a killed replica stays away: two minutes of the rules' time."""
SLOW = 0.05
"""Seconds that bytes are held up, each way."""
CALM = 3.0
S3_SERVER = onnxd.ROOT / "server" / "tests" / "s3_server.py"


@dataclass(frozen=True)
class Asked:
    """One request: when it began and ended, seconds of the monotonic clock; how it went, and after how many tries."""

    began: float
    ended: float
    answered: bool
    tries: int
    fault: str = ""


class Clients:
    """Ask without a pause, over kept connections, and ask once again where a connection broke."""

    def __init__(self, url: str) -> None:
        """Begins."""
        self._url = url
        self._asked: list[Asked] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends when all answers are there."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def between(self, begin: float, end: float) -> list[Asked]:
        """Requests that were underway in a span of the monotonic clock."""
        with self._lock:
            return [one for one in self._asked if one.ended >= begin and one.began <= end]

    def _run(self) -> None:
        with requests.Session() as session:
            while not self._over.wait(PACE):
                began = time.monotonic()
                fault, tries = "", 0
                while tries < TRIES:
                    tries += 1
                    try:
                        answer = session.post(f"{self._url}/predict", json=ROW, timeout=10)
                        fault = "" if answer.ok else f"{answer.status_code}: {answer.text[:200]}"
                    except requests.RequestException as error:
                        fault = f"{type(error).__name__}: {error}"
                    if not fault:
                        break
                with self._lock:
                    self._asked.append(Asked(began, time.monotonic(), not fault, tries, fault))


class Replica:
    """One server that can be killed and started again at the same addresses, as a pod's name stays with its Service."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        """Starts it and waits until it is ready."""
        self.folder, self._endpoint = folder, endpoint
        folder.mkdir()
        self.http, self.ops = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.start()

    def start(self) -> None:
        """Starts the process."""
        words = [str(onnxd.find()), "serve", f"s3://{BUCKET}", "--http", self.http, "--grpc", "off", "--ops", self.ops]
        words += ["--s3-endpoint", self._endpoint, "--cache", str(self.folder / "cache"), "--poll-interval", "1s"]
        words += ["--state", str(self.folder / "state"), "--drain-delay", "1s"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                words, env=onnxd.environment(), stdout=log, stderr=subprocess.STDOUT
            )
        wait("onnxd serve", self.ready, lambda: self.process.poll() is None, self.folder / "log")

    def ready(self) -> bool:
        """Whether it says that it can answer."""
        return answers(f"http://{self.ops}/readyz")

    def kill(self, how: signal.Signals) -> int:
        """Ends the process and waits for its end. Returns its exit code."""
        self.process.send_signal(how)
        return self.process.wait(STOP)


@dataclass(frozen=True)
class Stage:
    """Everything that runs."""

    replicas: list[Replica]
    service: Service
    clients: Clients
    monitoring: Monitoring
    receivers: Receivers
    s3: subprocess.Popen[str]


@dataclass(frozen=True)
class Fault:
    """An experiment: its name, which alert it must set off (none: empty), and how it begins and ends."""

    name: str
    alert: str
    begin: Callable[[], None]
    end: Callable[[], None]


@dataclass
class Outcome:
    """What an experiment showed.

    Attributes:
        name: Which one.
        requests: That were underway in it.
        broken: Of them, those whose connection broke and that were answered when asked again.
        lost: Of them, those that were not answered.
        p50: Median milliseconds of an answer in it, and before it.
        p50_before: The same in the calm before.
        alert: Which alert fired and cleared; empty if none has to.
        fired: Seconds from the fault to the alert.
        cleared: Seconds from the fault's end to the alert's.
        faults: What clients were told, each kind once.
    """

    name: str
    requests: int = 0
    broken: int = 0
    lost: int = 0
    p50: float = 0.0
    p50_before: float = 0.0
    alert: str = ""
    fired: float = 0.0
    cleared: float = 0.0
    faults: list[str] = field(default_factory=list)


def run(work: Path | None, console: Console, *, at_end: Callable[[Stage], None] = lambda _: None) -> list[Outcome]:
    """Runs all experiments, one after the other.

    Args:
        work: New folder for all files; a temporary one if None.
        console: For the progress and the result.
        at_end: Called when it is over and everything still runs.

    Raises:
        PipelineError: A part is missing or does not start, or an alert did not come or go.
    """
    story = Waiting(console)
    with tempfile.TemporaryDirectory(prefix="onnxd-") as temporary, ExitStack() as stack:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        stage = stack.enter_context(_stage(folder, story))
        first = stage.replicas[0]
        faults = [
            Fault("pod is deleted (SIGTERM)", "ServerDown", lambda: _gone(first, signal.SIGTERM), first.start),
            Fault("pod is killed (SIGKILL)", "ServerDown", lambda: _gone(first, signal.SIGKILL), first.start),
            Fault("network is slow", "", lambda: _delay(stage, SLOW), lambda: _delay(stage, 0)),
            Fault(
                "S3 is gone",
                "RepositoryStale",
                lambda: stage.s3.send_signal(signal.SIGSTOP),
                lambda: stage.s3.send_signal(signal.SIGCONT),
            ),
        ]
        outcomes = [_experiment(stage, story, fault) for fault in faults]
        stage.clients.stop()
        at_end(stage)
    console.print(_shown(outcomes))
    return outcomes


def _gone(replica: Replica, how: signal.Signals) -> None:
    code = replica.kill(how)
    if how == signal.SIGTERM and code:
        msg = f"a server that was asked to end did so with {code}: look at {replica.folder / 'log'}"
        raise PipelineError(msg)


def _delay(stage: Stage, seconds: float) -> None:
    stage.service.delay = seconds


def _experiment(stage: Stage, story: Waiting, fault: Fault) -> Outcome:
    """Calm, the fault until its alert fires or for a while, and calm again until the alert has cleared."""
    calm = time.monotonic()
    story.rest(CALM)
    name, alert = fault.name, fault.alert
    outcome, began = Outcome(name, alert=alert), time.monotonic()
    story.tell(f"{name}: begins")
    fault.begin()
    if alert:
        story.until(f"{alert} fires", lambda: stage.monitoring.firing(alert))
        story.until(f"Slack hears of {alert}", lambda: stage.receivers.slack(alert))
        outcome.fired = time.monotonic() - began
    else:
        story.rest(DOWN)
    fault.end()
    over = time.monotonic()
    if alert:
        story.until(f"{alert} clears", lambda: not stage.monitoring.firing(alert))
        outcome.cleared = time.monotonic() - over
    story.rest(1)
    during, before = stage.clients.between(began, over), stage.clients.between(calm, began)
    outcome.requests, outcome.lost = len(during), sum(not one.answered for one in during)
    outcome.broken = sum(one.answered and one.tries > 1 for one in during)
    outcome.p50, outcome.p50_before = (_median(asked) for asked in (during, before))
    outcome.faults = sorted({one.fault for one in during if one.fault})
    story.tell(f"{name}: {outcome.requests} requests, {outcome.broken} asked again, {outcome.lost} lost")
    return outcome


def _median(asked: list[Asked]) -> float:
    """Milliseconds."""
    return float(np.median([1000 * (one.ended - one.began) for one in asked])) if asked else float("nan")


@contextmanager
def _stage(folder: Path, story: Waiting) -> Iterator[Stage]:
    with ExitStack() as stack:
        credentials = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": "us-east-1"}
        stack.enter_context(environment(credentials))
        s3, endpoint = stack.enter_context(_s3(folder))
        story.tell(f"S3: {endpoint}")
        replicas = [Replica(folder / f"replica-{i}", endpoint) for i in range(REPLICAS)]
        stack.callback(lambda: [stop(replica.process, signal.SIGTERM) for replica in replicas])
        story.tell(f"onnxd: {', '.join(f'http://{replica.http}' for replica in replicas)}")
        service = stack.enter_context(Service(lambda: [r.http for r in replicas if r.ready()]))
        receivers = stack.enter_context(Receivers())
        targets = {"anomaly-api": [replica.ops for replica in replicas]}
        # There is no operator here: nothing is anomalous.
        watched = monitoring(folder / "monitoring", targets, receivers, receivers.url, "none", by=FASTER)
        watched = stack.enter_context(watched)
        story.until("Prometheus has seen all replicas", lambda: len(watched.query("onnxd_ready == 1")) == REPLICAS)
        yield Stage(replicas, service, Clients(service.url), watched, receivers, s3)


@contextmanager
def _s3(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """An S3 server with the models in it."""
    words = [sys.executable, str(S3_SERVER)]
    with (folder / "s3.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        endpoint = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        models = onnxd.ROOT / "models"
        for path in sorted(models.glob("*/**/*")):
            if path.is_file():
                client.upload_file(str(path), BUCKET, path.relative_to(models).as_posix())
        yield process, endpoint
    finally:
        process.send_signal(signal.SIGCONT)
        stop(process, signal.SIGTERM)


def _shown(outcomes: list[Outcome]) -> Table:
    table = Table("fault", "requests", "asked again", "lost", "p50 ms", "p50 ms before", "alert", "fires", "clears")
    for one in outcomes:
        times = (f"{one.fired:.1f} s", f"{one.cleared:.1f} s") if one.alert else ("", "")
        numbers = (f"{one.requests:,}", f"{one.broken}", f"{one.lost}", f"{one.p50:.1f}", f"{one.p50_before:.1f}")
        table.add_row(one.name, *numbers, one.alert or "none: answers come", *times)
    return table
