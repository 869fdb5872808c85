"""Processes that others wait for, and the environment that they are started in."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from training.errors import PipelineError

START = 180
"""Seconds that a service may take: MLflow makes its tables at its first start."""
STOP = 60
POLL = 0.05
"""Seconds between two looks."""


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process's environment until the block ends."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait(what: str, ready: Callable[[], bool], alive: Callable[[], bool], log: Path) -> None:
    """Waits until a service is ready.

    Raises:
        PipelineError: It ended, or is not ready in time: with the end of its log.
    """
    deadline = time.monotonic() + START
    while time.monotonic() < deadline and alive():
        if ready():
            return
        time.sleep(POLL)
    told = log.read_text(errors="replace").strip()[-800:] if log.is_file() else "it wrote no log"
    msg = f"{what} did not start: {told}"
    raise PipelineError(msg)


def answers(url: str) -> bool:
    """Whether a URL answers with 2xx or 3xx."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def stop(process: subprocess.Popen[bytes], how: signal.Signals, *, group: bool = False) -> None:
    """Asks a process, and with `group` its children, to end, and ends it if it does not."""

    def send(what: signal.Signals) -> None:
        try:
            if group:
                os.killpg(process.pid, what)
            else:
                process.send_signal(what)
        except ProcessLookupError:
            pass

    send(how)
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        send(signal.SIGKILL)
        process.wait()
