"""What pods use, replayed from recorded days, as the kubelet and kube-state-metrics tell it to Prometheus.

Every pod of the API server's namespace gets a recorded series of its own, also one that takes another's place. CPU and
disk are counters, as theirs are, so that `rate` has to work for them.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from local.listener import Listener, Quiet

LIMIT_CORES = 1.0
LIMIT_BYTES = 512 * 2**20

Floats = NDArray[np.float64]


@dataclass
class _Pod:
    """One pod: its recorded minutes float64 [T, 3], those of its fault, and its counters."""

    minutes: Floats
    fault: Floats | None = None
    fault_began: float = 0.0
    began: float = 0.0
    counted: float = 0.0
    cores: float = 0.0
    operations: float = 0.0
    labels: str = ""


class Fleet(Listener):
    """The pods' metrics, on a port of 127.0.0.1.

    A recorded minute lasts `minute` seconds. A pod's fault is the recording of one: its minutes take the place of the
    pod's own until they are over, and then its last one stays: the fault ends with its pod.
    """

    def __init__(self, recordings: list[Floats], minute: float, pods: Callable[[], list[str]], namespace: str) -> None:
        """Begins with the pods that are there.

        Args:
            recordings: Of each series, float64 [T, 3]: CPU and memory, percent of the limit; disk operations a second.
            minute: Seconds that a recorded minute lasts.
            pods: Asked at each scrape for the names of the pods that run.
            namespace: Of the pods.
        """
        self._recordings, self._minute, self._names, self._namespace = recordings, minute, pods, namespace
        self._pods: dict[str, _Pod] = {}
        self._given = 0
        self._lock = threading.Lock()
        fleet = self

        class Handler(Quiet):
            def do_GET(self) -> None:  # noqa: N802 - as the library names it
                self.answer(200, fleet.text().encode(), "text/plain; version=0.0.4")

        super().__init__(Handler)

    def strike(self, pod: str, fault: Floats) -> None:
        """Begins a fault.

        Args:
            pod: Its name; it must run.
            fault: Its recorded minutes, float64 [T, 3]. Only the CPU is taken: the rest stays the pod's own.
        """
        with self._lock:
            self._pods[pod].fault, self._pods[pod].fault_began = fault, time.monotonic()

    def text(self) -> str:
        """The metrics in Prometheus' text format."""
        names = self._names()
        with self._lock:
            now = time.monotonic()
            for name in names:
                if name not in self._pods:
                    recording = self._recordings[self._given % len(self._recordings)]
                    self._pods[name] = _Pod(recording, began=now, counted=now, labels=self._labels(name))
                    self._given += 1
            self._pods = {name: pod for name, pod in self._pods.items() if name in names}
            used = [(pod, self._count(pod, now)) for pod in self._pods.values()]
        families = (
            ("container_cpu_usage_seconds_total", "counter", [pod.cores for pod, _ in used]),
            ("container_memory_working_set_bytes", "gauge", [at[1] / 100 * LIMIT_BYTES for _, at in used]),
            ("container_fs_reads_total", "counter", [pod.operations / 2 for pod, _ in used]),
            ("container_fs_writes_total", "counter", [pod.operations / 2 for pod, _ in used]),
        )
        lines = []
        for family, kind, values in families:
            lines.append(f"# TYPE {family} {kind}")
            lines += [f"{family}{{{pod.labels}}} {value:.6f}" for (pod, _), value in zip(used, values)]
        lines.append("# TYPE kube_pod_container_resource_limits gauge")
        for resource, limit in (("cpu", LIMIT_CORES), ("memory", LIMIT_BYTES)):
            lines += [
                f'kube_pod_container_resource_limits{{{pod.labels},resource="{resource}"}} {limit}' for pod, _ in used
            ]
        return "\n".join(lines) + "\n"

    def _labels(self, name: str) -> str:
        return f'namespace="{self._namespace}",pod="{name}",container="main"'

    def _count(self, pod: _Pod, now: float) -> Floats:
        """Adds to a pod's counters what it used since they were last read. Returns what it uses now, float64 [3]."""
        used = self._at(pod, now)
        seconds = now - pod.counted
        pod.cores += used[0] / 100 * LIMIT_CORES * seconds
        pod.operations += used[2] * seconds
        pod.counted = now
        return used

    def _at(self, pod: _Pod, now: float) -> Floats:
        minute = int((now - pod.began) / self._minute) % len(pod.minutes)
        used = np.nan_to_num(pod.minutes[minute])
        if pod.fault is not None:
            into = min(int((now - pod.fault_began) / self._minute), len(pod.fault) - 1)
            used = np.array([pod.fault[into, 0], used[1], used[2]])
        return used
