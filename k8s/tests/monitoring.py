"""What the tests of rules, Alertmanager and dashboards share: the files, the metrics that exist, and real processes."""

import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests
import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "k8s" / "monitoring"
SCHEMAS = ROOT.parent / "shared" / "data" / "k8s-schemas"
"""JSON Schemas of other projects' resource definitions. They are not part of this repository."""
PATIENCE = 60.0

COLLECTOR = {
    "anomaly_zscore",
    "anomaly_score",
    "anomaly_detected",
    "anomaly_forecast_percent",
    "anomaly_value",
    "collector_ticks_total",
    "collector_tick_duration_seconds",
    "collector_last_tick_timestamp_seconds",
    "collector_series",
    "collector_series_refused_total",
    "collector_queries_total",
    "collector_predictions_total",
    "collector_feedback_total",
    "collector_rows_total",
    "collector_build_info",
}
OPERATOR = {
    "remediation_actions_total",
    "remediation_candidates",
    "remediation_budget_left",
    "remediation_alerts_total",
    "remediation_anomalies",
    "remediation_leader",
    "remediation_reconciles_total",
    "remediation_build_info",
}
OTHERS = {
    # cAdvisor, kube-state-metrics, node-exporter
    "container_cpu_usage_seconds_total",
    "container_memory_working_set_bytes",
    "container_fs_reads_total",
    "container_fs_writes_total",
    "kube_pod_container_resource_limits",
    "node_cpu_seconds_total",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
    "node_disk_reads_completed_total",
    "node_disk_writes_completed_total",
    # Prometheus itself
    "up",
    "ALERTS",
    # benches/locust/locustfile.py
    "locust_requests_total",
    "locust_request_duration_seconds",
    "locust_users",
}
WORDS = {"and", "or", "unless", "by", "on", "ignoring", "without", "group_left", "group_right", "offset", "bool"}
WORDS |= {"sum", "max", "min", "avg", "count", "topk"}
"""What PromQL itself names, where no bracket follows."""


def rules() -> dict[str, list[dict[str, Any]]]:
    """The groups of each file of rules, by the file's name."""
    files = sorted((MONITORING / "rules").glob("*.yaml"))
    return {file.name: yaml.safe_load(file.read_text())["spec"]["groups"] for file in files}


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for groups in rules().values() for group in groups for rule in group["rules"] if "alert" in rule]


def recordings() -> list[dict[str, Any]]:
    """Every recording rule."""
    return [rule for groups in rules().values() for group in groups for rule in group["rules"] if "record" in rule]


def write_rules(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Writes what is under `spec` of each file of rules, as Prometheus and promtool read it.

    Args:
        folder: Where to.
        change: May change a group.
    """
    folder.mkdir()
    for name, groups in rules().items():
        for group in groups:
            change(group)
        (folder / name).write_text(yaml.safe_dump({"groups": groups}, width=10_000))


def metrics_of_onnxd() -> set[str]:
    """Names of all series that onnxd gives, by its document."""
    listed = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE)
    names = {name for name, kind in listed if kind in {"counter", "gauge"}}
    return names | {
        f"{name}_{part}" for name, kind in listed if kind == "histogram" for part in ("bucket", "sum", "count")
    }


def known_metrics() -> set[str]:
    """Names of all series that a rule or a panel may name."""
    found = metrics_of_onnxd() | COLLECTOR | OPERATOR | OTHERS | {rule["record"] for rule in recordings()}
    histograms = [name for name in found if name.endswith("_duration_seconds")]
    return found | {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}


def metrics_in(expression: str) -> set[str]:
    """Names of series in a PromQL expression: what is no function, no label, no keyword."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\{[^}]*\}", "", text)
    text = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", r"\1 ", text)
    text = re.sub(r"\[[^\]]*\]", "", text)
    names = re.findall(r"(?<![\w:.])[A-Za-z_:][\w:]*(?!\s*\(|[\w:])", text)
    return {name for name in names if name not in WORDS}


def tool(name: str) -> str:
    """Path of a program.

    Raises:
        AssertionError: It is not installed: says how to.
    """
    path = shutil.which(name)
    assert path, (
        f"{name} is missing: apt-get install prometheus prometheus-alertmanager (RUNLEVEL=1 keeps them stopped)"
    )
    return path


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end, within a minute."""
    words = tuple(map(str, words))
    return subprocess.run(
        [tool(words[0]), *words[1:]], capture_output=True, text=True, cwd=cwd, timeout=PATIENCE, check=False
    )


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: str, found: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Asks until there is something, and returns it.

    Raises:
        AssertionError: There is nothing after `patience` seconds.
    """
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            if value := found():
                return value
        except requests.ConnectionError:
            pass
        time.sleep(0.1)
    msg = f"{what}: not within {patience:.0f} s"
    raise AssertionError(msg)


@contextmanager
def process(*words: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is stopped at the end; `log` gets what it writes."""
    with log.open("wb") as out:
        child = subprocess.Popen([str(word) for word in words], stdout=out, stderr=out)
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@contextmanager
def prometheus(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    """A Prometheus with that configuration, its data in `folder`/data; gives its URL."""
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    words += [f"--web.listen-address={url.removeprefix('http://')}", "--storage.tsdb.retention.time=30d"]
    with process(tool("prometheus"), *words, log=folder / "prometheus.log"):
        wait_for("Prometheus is ready", lambda: requests.get(f"{url}/-/ready", timeout=5).ok)
        yield url


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler, bytes], tuple[int, str]]) -> Iterator[str]:
    """A server on a free port; `answer` gets the request and its body, and gives status and text. Gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, text = answer(self, body)
            self.send_response(status)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            """Nothing: pytest shows what failed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
