"""Runs the load test for some seconds against a real onnxd and reads its metrics: fails unless all is as meant.

Started with the environment of requirements.lock: `make locust`.
"""

import argparse
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 60.0
USERS = 20
SECONDS = 8
OPTIONS = ["--headless", "--users", str(USERS), "--spawn-rate", "20", "--run-time", f"{SECONDS}s"]
BURST = ["--burst-after", "2", "--burst-seconds", "3"]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def get(url: str) -> str:
    """The text at a URL; empty while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - http to this machine
            return response.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


def value(metrics: str, sample: str) -> float:
    """The value of one sample, named with all its labels; zero when it is not there."""
    found = re.search(rf"^{re.escape(sample)} (\S+)$", metrics, re.MULTILINE)
    return float(found[1]) if found else 0.0


def users(metrics: str) -> float:
    """How many users run."""
    return sum(value(metrics, f'locust_users{{kind="{kind}"}}') for kind in ("OrdinaryPod", "AnomalousPod"))


def load_test(url: str) -> tuple[int, str, float]:
    """Runs Locust to its end: its exit status, the last metrics that could be read of it, the most users at a time."""
    port = free_port()
    last, most = "", 0.0
    arguments = ["--locustfile", str(HERE / "locustfile.py"), "--host", url, "--metrics-port", str(port)]
    locust = subprocess.Popen([sys.executable, "-m", "locust", *arguments, *OPTIONS, *BURST])  # noqa: S603
    try:
        while locust.poll() is None:
            last = get(f"http://127.0.0.1:{port}/metrics") or last
            most = max(most, users(last))
            time.sleep(0.1)
    finally:
        locust.kill()
    return locust.wait(), last, most


def problems(status: int, metrics: str, most: float) -> list[str]:
    """What is not as meant."""
    found = [] if status == 0 else [f"locust ended with status {status}"]
    for name in ("ordinary", "anomalous"):
        labels = f'method="POST",name="{name}"'
        good = value(metrics, f'locust_requests_total{{{labels},outcome="success"}}')
        bad = value(metrics, f'locust_requests_total{{{labels},outcome="failure"}}')
        timed = value(metrics, f"locust_request_duration_seconds_count{{{labels}}}")
        print(f"{name}: {good:.0f} right, {bad:.0f} wrong, {timed:.0f} timed")  # noqa: T201 - a command
        if not good or bad or timed != good:
            found.append(f"{name}: {good} right, {bad} wrong, {timed} timed")
    if most != USERS:
        found.append(f"{most} users at most, not {USERS}")
    return found


def main() -> None:
    """Starts the server, runs the test, and says what was wrong."""
    arguments = argparse.ArgumentParser(description="Checks the load test against a real server.")
    arguments.add_argument("--onnxd", type=Path, required=True, help="the binary")
    arguments.add_argument("--repository", type=Path, required=True, help="the repository with the anomaly model")
    options = arguments.parse_args()
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as folder:
        listeners = ["--http", address, "--grpc", "off", "--ops", "off"]
        serve = [options.onnxd.resolve(), "serve", options.repository.resolve(), *listeners]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(serve, cwd=folder, stdout=log, stderr=log)  # noqa: S603
        try:
            until = time.monotonic() + PATIENCE
            while not get(f"http://{address}/readyz"):
                if server.poll() is not None or time.monotonic() > until:
                    sys.exit(f"onnxd is not ready:\n{(Path(folder) / 'log').read_text()}")
                time.sleep(0.05)
            found = problems(*load_test(f"http://{address}"))
        finally:
            server.kill()
            server.wait()
    if found:
        sys.exit("; ".join(found))


if __name__ == "__main__":
    main()
