"""A real Kubernetes API server with its controllers on this machine, and a stand-in for the kubelet.

etcd, kube-apiserver and kube-controller-manager are the real programs (`make kubernetes` builds them), so that watches,
evictions, PodDisruptionBudgets, rights and replacements are real. No containers run: `Kubelet` puts pods on a node and
calls them ready, and lets go of those that were deleted, as a kubelet does.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import requests

from training.errors import PipelineError
from training.processes import answers, stop, wait
from training.services import free_port

ROOT = Path(__file__).resolve().parents[2]
ASSETS = "KUBE_ASSETS"
PROGRAMS = ("kube-apiserver", "kube-controller-manager")
CONTROLLERS = "deployment,replicaset,disruption,garbagecollector,namespace"
TIMEOUT = 20
"""Seconds for an answer of the API server."""
LOOK = 0.3
"""Seconds between two looks of the kubelet's stand-in."""

Pod = dict[str, Any]


def assets() -> Path | None:
    """The folder of the API server: of `KUBE_ASSETS`, or as `make kubernetes` builds it. None: neither, or no etcd."""
    folder = Path(os.environ.get(ASSETS) or ROOT / "target" / "kubernetes" / "bin")
    return folder if all((folder / name).is_file() for name in PROGRAMS) and shutil.which("etcd") else None


@contextmanager
def process(name: str, words: list[str], folder: Path, ready: Callable[[], bool]) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program until the block ends; its log is `<name>.log` in the folder.

    Raises:
        PipelineError: It ends before it is ready, or is not ready in time: with the end of its log.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        running = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT)  # noqa: S603 - our own words
    try:
        wait(name, ready, lambda: running.poll() is None, log)
        yield running
    finally:
        stop(running, signal.SIGTERM)


@dataclass(frozen=True)
class Cluster:
    """A running API server.

    Attributes:
        url: Its address.
        token: Of a user who may do everything.
        kubeconfig: File by which kubectl and the operator reach it as that user.
    """

    url: str
    kubeconfig: Path
    token: str = field(repr=False)

    @property
    def authority(self) -> Path:
        """The certificate that it made for itself at its start."""
        return self.kubeconfig.parent / "certificates" / "apiserver.crt"

    def call(self, method: str, path: str, body: object = None, *, kind: str = "application/json") -> Any:  # noqa: ANN401 - JSON
        """One request to the API. Returns the answer's JSON.

        Raises:
            PipelineError: The server refused it: with what it said.
        """
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        data = None if body is None else json.dumps(body)
        url, authority = f"{self.url}{path}", str(self.authority)
        answer = requests.request(method, url, data=data, headers=headers, timeout=TIMEOUT, verify=authority)
        if not answer.ok:
            msg = f"{method} {path}: {answer.status_code}: {answer.text[:500]}"
            raise PipelineError(msg)
        return answer.json()

    def kubectl(self, *words: str | Path, stdin: str = "") -> str:
        """Runs kubectl; returns what it wrote.

        Raises:
            PipelineError: It failed: with its complaint.
        """
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *map(str, words)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        if done.returncode:
            msg = f"kubectl {words[0]}: {done.stderr.strip()[-500:]}"
            raise PipelineError(msg)
        return done.stdout

    def pods(self, namespace: str) -> list[Pod]:
        """The pods of a namespace, those on their way out among them."""
        return self.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """etcd, the API server and its controllers, with their files in `folder`, until the block ends.

    Raises:
        PipelineError: Their programs are not there, or one does not start.
    """
    programs = assets()
    if programs is None:
        msg = f"no API server: make kubernetes builds it ({ASSETS} names another folder); apt-get install etcd-server"
        raise PipelineError(msg)
    folder.mkdir(parents=True)
    token, port = secrets.token_hex(16), free_port()
    made = Cluster(f"https://127.0.0.1:{port}", folder / "kubeconfig", token)
    _write_kubeconfig(made)
    tokens = folder / "tokens"
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    tokens.chmod(0o600)
    key = folder / "service-accounts.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], capture_output=True, check=True)  # noqa: S603, S607
    certificates = ["--bind-address", "127.0.0.1", "--cert-dir", str(folder / "certificates")]
    with ExitStack() as stack:
        etcd = stack.enter_context(_etcd(folder))
        words = [str(programs / "kube-apiserver"), *certificates, "--secure-port", str(port), "--etcd-servers", etcd]
        words += ["--authorization-mode", "RBAC", "--token-auth-file", str(tokens)]
        words += [
            "--service-account-issuer",
            "https://kubernetes.default.svc",
            "--service-cluster-ip-range",
            "10.0.0.0/24",
        ]
        words += ["--service-account-key-file", str(key), "--service-account-signing-key-file", str(key)]
        # Pods need no account where no container runs.
        words += ["--disable-admission-plugins", "ServiceAccount"]
        stack.enter_context(process("kube-apiserver", words, folder, lambda: _has_namespace(made)))
        words = [
            str(programs / "kube-controller-manager"),
            *certificates,
            "--secure-port",
            str(free_port()),
            "--port",
            "0",
        ]
        words += ["--kubeconfig", str(made.kubeconfig), "--controllers", CONTROLLERS, "--leader-elect=false"]
        stack.enter_context(process("kube-controller-manager", words, folder, lambda: True))
        yield made


def _write_kubeconfig(made: Cluster) -> None:
    """JSON is YAML."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "local", "cluster": {"server": made.url, "certificate-authority": str(made.authority)}}],
        "users": [{"name": "admin", "user": {"token": made.token}}],
        "contexts": [{"name": "local", "context": {"cluster": "local", "user": "admin"}}],
        "current-context": "local",
    }
    made.kubeconfig.write_text(json.dumps(document))
    made.kubeconfig.chmod(0o600)


@contextmanager
def _etcd(folder: Path) -> Iterator[str]:
    client, peer = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    words = [
        "etcd",
        "--data-dir",
        str(folder / "etcd"),
        "--listen-client-urls",
        client,
        "--advertise-client-urls",
        client,
    ]
    words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"]
    with process("etcd", words, folder, lambda: answers(f"{client}/health")):
        yield client


def _has_namespace(made: Cluster) -> bool:
    try:
        made.call("GET", "/api/v1/namespaces/default")
    except (OSError, PipelineError):
        return False
    return True


class Kubelet:
    """Stands in for kubelet and scheduler of one node: binds pods, calls them ready, lets go of deleted ones."""

    def __init__(self, made: Cluster, node: str, namespace: str) -> None:
        """Registers the node and begins with the pods of a namespace."""
        self._cluster, self._node, self._namespace = made, node, namespace
        made.call("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "stand-in"}]
        self._patch(f"/api/v1/nodes/{node}/status", {"status": {"conditions": ready}})
        self._over = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stops; raises what went wrong meanwhile."""
        self._over.set()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        try:
            while not self._over.wait(LOOK):
                for pod in self._cluster.pods(self._namespace):
                    self._look_at(pod)
        except Exception as failure:  # noqa: BLE001 - told at the end, by another thread
            self._failure = failure

    def _look_at(self, pod: Pod) -> None:
        name = pod["metadata"]["name"]
        path = f"/api/v1/namespaces/{self._namespace}/pods/{name}"
        if "deletionTimestamp" in pod["metadata"]:
            self._cluster.call("DELETE", path, {"gracePeriodSeconds": 0})
        elif "nodeName" not in pod["spec"]:
            target = {"apiVersion": "v1", "kind": "Node", "name": self._node}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            self._cluster.call("POST", f"{path}/binding", binding)
        elif pod["status"].get("phase") == "Pending":
            self._patch(f"{path}/status", {"status": _running(pod)})

    def _patch(self, path: str, body: object) -> None:
        self._cluster.call("PATCH", path, body, kind="application/merge-patch+json")


def _running(pod: Pod) -> dict[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    types = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    return {
        "phase": "Running",
        "startTime": now,
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in types],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": now}},
            }
            for container in pod["spec"]["containers"]
        ],
    }
