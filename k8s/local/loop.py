"""The runbook's loop on one machine: from a replayed CPU fault until its alert clears. All is real but the kubelet.

An API server with the pods of a shop; what they use is replayed from recorded days to Prometheus; the collector asks
onnxd; the alert goes to Slack, PagerDuty and the operator, which evicts the pod; its replacement is well; the alert
clears. A recorded minute lasts two seconds, and so does every minute in rules, routes and the policy.
"""

import json
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from local.cluster import ROOT, Cluster, Kubelet, Pod, cluster, process
from local.fleet import Fleet
from local.monitoring import Monitoring, Receivers, monitoring
from training import onnxd
from training.config import Config
from training.data.days import Day, Fault, Series
from training.data.source import open_source
from training.errors import PipelineError
from training.processes import answers, environment
from training.services import free_port
from training.told import Story

Found = TypeVar("Found")

MINUTE = 2
"""Seconds that a minute lasts here."""
FASTER = 60 / MINUTE
NAMESPACE = "shop"
WORKLOADS = {"cart": 3, "pay": 2}
VICTIM = "cart"
POLICY: dict[str, Any] = {
    "apiVersion": "onnxd.dev/v1alpha1",
    "kind": "RemediationPolicy",
    "metadata": {"name": "shop", "namespace": NAMESPACE},
    "spec": {
        "selector": {"matchLabels": {"shop": "true"}},
        "conditions": {"anomalous": {"for": f"{2 * MINUTE}s"}},
        "budget": {"actions": 2, "per": "1h"},
        "coolDown": {"first": f"{10 * MINUTE}s"},
    },
}
LEAST = 180
"""Fewest minutes of a recording without a fault."""
WAIT = 180
"""Seconds that any one thing may take."""
LOOK = 0.25


def built(name: str) -> Path:
    """A program of this workspace: on the PATH, or the one that was built last.

    Raises:
        PipelineError: It was not built.
    """
    found = [ROOT / "target" / profile / name for profile in ("release", "debug")]
    if on_path := shutil.which(name):
        return Path(on_path)
    for path in sorted((p for p in found if p.is_file()), key=lambda p: -p.stat().st_mtime):
        return path
    msg = f"no {name}: cargo build --workspace makes it"
    raise PipelineError(msg)


class Waiting(Story):
    """A story that waits for what it tells."""

    @staticmethod
    def rest(seconds: float) -> None:
        """Lets time pass in which things go on."""
        time.sleep(seconds)

    def until(self, what: str, look: Callable[[], Found]) -> Found:
        """Waits until `look` finds something, and returns it.

        Raises:
            PipelineError: It did not within three minutes.
        """
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            if found := look():
                return found
            time.sleep(LOOK)
        msg = f"{what}: not within {WAIT} s"
        raise PipelineError(msg)


@dataclass(frozen=True)
class Stage:
    """Everything that runs, and the files of it."""

    cluster: Cluster
    fleet: Fleet
    monitoring: Monitoring
    receivers: Receivers
    server: onnxd.Server
    folder: Path


@dataclass
class Outcome:
    """What was seen: seconds after the fault began, by what happened, and the pods.

    Attributes:
        times: By what happened.
        victim: The pod that was struck.
        replacement: The one in its place.
        untouched: Whether all other pods are those of the beginning.
        actions: What the policy's status says was done.
    """

    victim: str = ""
    replacement: str = ""
    untouched: bool = False
    times: dict[str, float] = field(default_factory=dict)
    actions: list[dict[str, Any]] = field(default_factory=list)


def run(
    source: str, work: Path | None, console: Console, *, at_end: Callable[[Stage], None] = lambda _: None
) -> Outcome:
    """Runs the story.

    Args:
        source: Days with CPU faults, such as `nezha:../shared/data`.
        work: New folder for all files; a temporary one if None.
        console: For the progress.
        at_end: Called when the story is over and everything still runs.

    Raises:
        PipelineError: A part is missing or does not start, or something did not come to pass in three minutes.
    """
    story = Waiting(console)
    with tempfile.TemporaryDirectory(prefix="onnxd-") as temporary, ExitStack() as stack:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        calm, fault = recordings(source)
        story.tell(f"{source}: {len(calm)} calm recordings, a fault of {len(fault)} minutes")
        stage = stack.enter_context(_stage(folder, calm, story))
        outcome = _tell(stage, fault, story)
        at_end(stage)
    return outcome


def recordings(source: str) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """What is replayed: float64 [T, 3] of series while nothing was wrong, and the minutes of a CPU fault.

    Raises:
        PipelineError: The source has none.
    """
    config = Config()
    calm: list[NDArray[np.float64]] = []
    faults: list[NDArray[np.float64]] = []
    for day in open_source(source).read(config):
        for series in day.series:
            calm += _calm(day, series, config)
        faults += [_minutes(day, fault, config) for fault in day.faults if fault.is_cpu and fault.shows_in_cpu]
    if not calm or not faults:
        msg = f"{source} has no series of {LEAST} calm minutes, or no CPU fault: name another source"
        raise PipelineError(msg)
    return calm, max(faults, key=lambda values: float(np.max(values[:, 0])))


def _calm(day: Day, series: Series, config: Config) -> list[NDArray[np.float64]]:
    """The longest stretch of a series without a fault of its own, if it is long enough."""
    ill = np.zeros(len(series.time), dtype=bool)
    for fault in day.faults:
        if fault.pod == series.name:
            begin, end = fault.window(config.labels)
            ill |= (series.time >= begin) & (series.time <= end)
    edges = np.flatnonzero(np.diff(np.concatenate([[True], ill, [True]]).astype(int)))
    begin, end = max(zip(edges[::2], edges[1::2]), key=lambda span: span[1] - span[0], default=(0, 0))
    return [series.values[begin:end]] if end - begin >= LEAST else []


def _minutes(day: Day, fault: Fault, config: Config) -> NDArray[np.float64]:
    """The minutes of a fault in which CPU is nearer to its peak than to what it was before, float64 [T, 3]."""
    series = next(s for s in day.series if s.name == fault.pod)
    begin, end = fault.window(config.labels)
    inside = series.values[(series.time >= begin) & (series.time <= end)]
    return inside[inside[:, 0] >= (fault.baseline + fault.peak) / 2]


@contextmanager
def _stage(folder: Path, calm: list[NDArray[np.float64]], story: Waiting) -> Iterator[Stage]:
    """All parts, started one after the other."""
    with ExitStack() as stack:
        made = stack.enter_context(cluster(folder / "cluster"))
        story.tell(f"Kubernetes: {made.url}")
        made.kubectl("create", "namespace", NAMESPACE)
        made.kubectl("create", "namespace", "ml")
        made.kubectl("apply", "-f", ROOT / "k8s" / "operator" / "crd.yaml")
        stack.enter_context(Kubelet(made, "node-1", NAMESPACE))
        for name, replicas in WORKLOADS.items():
            made.kubectl("apply", "-f", "-", stdin=json.dumps(_deployment(name, replicas)))
        wanted = sum(WORKLOADS.values())
        story.until("the shop's pods run", lambda: len(running(made)) == wanted)
        story.tell(f"the shop: {', '.join(sorted(running(made)))}")
        server = stack.enter_context(onnxd.serve(ROOT / "models", log=folder / "onnxd.log"))
        story.tell(f"onnxd: http://{server.http}")
        fleet = stack.enter_context(Fleet(calm, MINUTE, lambda: list(running(made)), NAMESPACE))
        receivers = stack.enter_context(Receivers())
        token = secrets.token_hex(16)
        operator = stack.enter_context(_operator(folder, made, token))
        story.tell(f"operator: http://{operator}")
        collector = f"127.0.0.1:{free_port()}"
        targets = {"fleet": [fleet.address], "collector": [collector], "remediation-operator": [operator]}
        targets["anomaly-api"] = [server.ops]
        watched = stack.enter_context(
            monitoring(folder / "monitoring", targets, receivers, f"http://{operator}", token, by=FASTER)
        )
        story.tell(f"Prometheus: {watched.prometheus}, Alertmanager: {watched.alertmanager}")
        stack.enter_context(_collector(folder, watched.prometheus, server.http, collector))
        story.tell(f"collector: http://{collector}")
        yield Stage(made, fleet, watched, receivers, server, folder)


def _deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name, "shop": "true"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "main", "image": name}]},
            },
        },
    }


def running(made: Cluster) -> dict[str, Pod]:
    """The shop's pods that run and are not on their way out, by name."""
    found = [pod for pod in made.pods(NAMESPACE) if pod["status"].get("phase") == "Running"]
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


@contextmanager
def _operator(folder: Path, made: Cluster, token: str) -> Iterator[str]:
    """The remediation operator. Yields its address."""
    address, secret = f"127.0.0.1:{free_port()}", folder / "operator-token"
    secret.write_text(token)
    secret.chmod(0o600)
    words = [str(built("remediation-operator")), "run", "--ops", address, "--token-file", str(secret)]
    words += ["--alert-ttl", f"{15 * MINUTE}s"]
    reached = environment({"KUBECONFIG": str(made.kubeconfig)})
    with reached, process("operator", words, folder, lambda: answers(f"http://{address}/readyz")):
        yield address


@contextmanager
def _collector(folder: Path, prometheus: str, server: str, address: str) -> Iterator[None]:
    """The collector, with its own queries at a minute's length here."""
    shown = subprocess.run(  # noqa: S603 - our own program
        [str(built("collector")), "run", "--print-config"], capture_output=True, text=True, check=True
    )
    sources = folder / "sources.toml"
    sources.write_text(shown.stdout.replace("[2m]", f"[{2 * MINUTE}s]"))
    words = [str(built("collector")), "run", "--prometheus", prometheus, "--server", f"http://{server}"]
    words += ["--sources", str(sources), "--step", f"{MINUTE}s", "--timeout", f"{MINUTE / 2}s", "--delay", "1s"]
    words += ["--ops", address, "--rows", str(folder / "rows")]
    with process("collector", words, folder, lambda: answers(f"http://{address}/livez")):
        yield


def _tell(stage: Stage, fault: NDArray[np.float64], story: Waiting) -> Outcome:
    """From calm to calm."""
    made, watched, receivers = stage.cluster, stage.monitoring, stage.receivers
    before = running(made)
    names = {f"{NAMESPACE}/{name}" for name in before}
    calm = story.until("all pods have a score", lambda: _scores(watched).keys() >= names and _scores(watched))
    story.tell(f"all {len(names)} pods are scored: {max(calm.values()):.3f} at most")
    made.kubectl("apply", "-f", "-", stdin=json.dumps(POLICY))
    outcome = Outcome(victim=min(name for name in before if name.startswith(VICTIM)))
    series = f"{NAMESPACE}/{outcome.victim}"

    stage.fleet.strike(outcome.victim, fault)
    began = story.now()
    story.tell(f"fault: {outcome.victim} uses {fault[:, 0].max():.0f} % of its CPU limit from now on")

    def seen(what: str, text: str) -> None:
        outcome.times[what] = story.now() - began
        story.tell(f"{text}  (+{outcome.times[what]:.1f} s)")

    query = f'anomaly_zscore{{series="{series}",channel="cpu"}} > 3'
    (z,) = story.until("the z-score rises", lambda: watched.query(query))
    seen("z-score", f"z-score {float(z['value'][1]):.1f}")
    (score,) = story.until("onnxd says anomaly", lambda: watched.query(f'anomaly_score{{series="{series}"}} >= 0.5'))
    seen("anomaly", f"onnxd: anomaly, score {float(score['value'][1]):.3f}")
    story.until("the alert fires", lambda: any(a.get("series") == series for a in watched.firing("AnomalyDetected")))
    seen("alert", "alert AnomalyDetected fires")
    story.until("Slack hears of it", lambda: receivers.slack(outcome.victim))
    seen("slack", "Slack has it")
    story.until("PagerDuty hears of it", lambda: receivers.pagerduty(outcome.victim))
    seen("pagerduty", "PagerDuty has it")
    story.until("the operator evicts the pod", lambda: outcome.victim not in running(made))
    seen("evicted", f"the operator has evicted {outcome.victim}")
    after = story.until("its replacement runs", lambda: len(running(made)) == len(before) and running(made))
    (outcome.replacement,) = after.keys() - before.keys()
    outcome.untouched = before.keys() - after.keys() == {outcome.victim}
    seen("replaced", f"{outcome.replacement} runs in its place")
    story.until("the alert clears", lambda: not watched.firing("AnomalyDetected"))
    seen("cleared", "the alert has cleared")
    story.until("Slack hears the end", lambda: receivers.slack(outcome.victim, resolved=True))
    story.until("PagerDuty hears the end", lambda: receivers.pagerduty(outcome.victim, resolved=True))
    seen("resolved", "Slack and PagerDuty know")
    policy = made.call("GET", f"/apis/onnxd.dev/v1alpha1/namespaces/{NAMESPACE}/remediationpolicies/shop")
    outcome.actions = policy["status"]["actions"]
    for action in outcome.actions:
        story.tell(f"policy: {action['action']} {action['target']}: {action['outcome']}: {action['reason']}")
    return outcome


def _scores(watched: Monitoring) -> dict[str, float]:
    """Scores by series."""
    return {found["metric"]["series"]: float(found["value"][1]) for found in watched.query("anomaly_score")}
