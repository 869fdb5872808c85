"""A Prometheus server on a free port of this machine, with a history that is written into it before it starts."""

import shutil
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from training.data.days import Day
from training.processes import answers, stop, wait
from training.services import free_port

MINUTE = 60
LIMIT_CORES, LIMIT_BYTES = 0.5, 1e8
"""Of every container."""
FAULTS = "chaos_window"
"""The gauge that is 1 while a pod is faulty."""


@contextmanager
def prometheus(folder: Path, history: str, flags: Sequence[str] = (), *, config: str = "") -> Iterator[str]:
    """A server. Yields its URL; the test is skipped where there is no Prometheus.

    Args:
        folder: For its files; it must be new.
        history: In the OpenMetrics format.
        flags: Further flags.
        config: Further lines of its configuration.
    """
    programs = [shutil.which(name) for name in ("prometheus", "promtool")]
    if not all(programs):
        pytest.skip("no prometheus and promtool in PATH (Debian: apt-get install prometheus)")
    server, tool = programs
    folder.mkdir()
    (folder / "history").write_text(history)
    blocks = ("tsdb", "create-blocks-from", "openmetrics", folder / "history", folder / "data")
    subprocess.run([tool, *blocks], check=True, capture_output=True)  # noqa: S603 - its own arguments
    (folder / "config.yml").write_text(f"global: {{scrape_interval: 1h}}\n{config}")
    port, log = free_port(), folder / "log"
    words = [server, f"--config.file={folder}/config.yml", f"--storage.tsdb.path={folder}/data"]
    words += ["--storage.tsdb.retention.time=100y", f"--web.listen-address=127.0.0.1:{port}", *flags]
    with log.open("wb") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out)  # noqa: S603 - as above
    url = f"http://127.0.0.1:{port}"
    try:
        wait("Prometheus", lambda: answers(f"{url}/-/ready"), lambda: process.poll() is None, log)
        yield url
    finally:
        stop(process, signal.SIGTERM)


def kubelet(day: Day) -> str:
    """A day's pods as the kubelet and kube-state-metrics would have told of them, a scrape a minute, in OpenMetrics.

    A pod without its namespace in the series' name is of the namespace `shop`. A sample is what happened since the one
    before, so that the counters rise to it.
    """
    lines: dict[str, list[str]] = defaultdict(list)
    for one in day.series:
        namespace, _, pod = one.name.rpartition("/")
        who = f'namespace="{namespace or "shop"}",pod="{pod}"'
        cpu, memory, disk = one.values.T
        channels = {
            "container_cpu_usage_seconds_total": np.cumsum(cpu / 100 * LIMIT_CORES * MINUTE),
            "container_fs_reads_total": np.cumsum(disk / 2 * MINUTE),
            "container_fs_writes_total": np.cumsum(disk / 2 * MINUTE),
            "container_memory_working_set_bytes": memory / 100 * LIMIT_BYTES,
        }
        for name, values in channels.items():
            told = zip(values.tolist(), one.time.tolist())
            lines[name] += [f'{{{who},container="app"}} {value:.10g} {at}' for value, at in told]
        # A gauge is taken for five minutes: it need not be told each minute.
        for resource, limit in (("cpu", LIMIT_CORES), ("memory", LIMIT_BYTES)):
            labels = f'{{{who},container="app",resource="{resource}"}} {limit}'
            lines["kube_pod_container_resource_limits"] += [f"{labels} {at}" for at in one.time[::4].tolist()]
        for fault in (f for f in day.faults if f.pod == one.name):
            labels, until = f'{{{who},kind="{fault.kind}"}}', fault.until or fault.time
            lines[FAULTS] += [f"{labels} 1 {at}" for at in range(fault.time, until + 1, MINUTE)]
            lines[FAULTS].append(f"{labels} 0 {until + MINUTE}")
    return openmetrics(lines)


def openmetrics(lines: dict[str, list[str]]) -> str:
    """Metrics by their names, each sample as its labels, its value and its time."""
    text = []
    for name, rows in lines.items():
        text.append(f"# TYPE {name.removesuffix('_total')} {'counter' if name.endswith('_total') else 'gauge'}")
        text += [name + row for row in rows]
    return "\n".join([*text, "# EOF", ""])
