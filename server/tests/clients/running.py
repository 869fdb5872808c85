"""A real `onnxd serve` on free ports, and a plain HTTP client to talk to it."""

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar
from weakref import WeakSet

from places import binary, library

PATIENCE = 60.0

T = TypeVar("T")

running: "WeakSet[Server]" = WeakSet()


def until(what: str, condition: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """Polls a condition until it gives something that is true."""
    deadline = time.monotonic() + patience
    pause = 0.005
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {patience} s for {what}"
        time.sleep(pause)
        pause = min(pause * 2, 0.25)
    return value


@dataclass
class Reply:
    """An answer over HTTP; names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


def request(
    address: str,
    method: str,
    path: str,
    body: bytes | str | dict | list | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:
    """One request over a connection of its own. A dictionary or list is sent as JSON."""
    sent = dict(headers or {})
    if isinstance(body, dict | list):
        body = json.dumps(body)
        sent.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Server:
    """A process of `onnxd serve`; a context that ends it."""

    def __init__(
        self,
        folder: Path,
        repository: Path,
        *args: str,
        environment: dict[str, str] | None = None,
        listen: bool = True,
    ) -> None:
        """Starts it; its log and its ports file go to `folder`. Without `listen`, `environment` says on which port."""
        self.log_path = folder / "onnxd.log"
        self.ports_path = folder / "ports.json"
        variables = {k: v for k, v in os.environ.items() if not k.startswith(("AIP_", "AWS_", "ONNXD_", "SAGEMAKER_"))}
        variables |= {
            "ONNXD_GRPC": "127.0.0.1:0",
            "ONNXD_OPS": "127.0.0.1:0",
            "ONNXD_PORTS_FILE": str(self.ports_path),
            "ONNXD_LOG_FORMAT": "json",
            "ONNXD_DRAIN_DELAY": "0s",
            "ONNXD_ONNXRUNTIME": str(library()),
        }
        if listen:
            variables["ONNXD_HTTP"] = "127.0.0.1:0"
        command = [str(binary()), "serve", str(repository), *args]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603
                command,
                env=variables | (environment or {}),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        running.add(self)
        self.ports: dict[str, str] = {}

    def ready(self, patience: float = PATIENCE) -> Self:
        """Waits until every model of the repository was tried and the server says that it serves."""
        self.ports = until("the ports file", self._read_ports, patience)
        until("readiness", lambda: self._alive() and self.ops("GET", "/readyz").status == 200, patience)
        until("the challengers", lambda: not any(model["trying"] for model in self._models()))
        return self

    def _models(self) -> list[dict]:
        return self.ops("GET", "/status").json["models"]

    def _alive(self) -> bool:
        code = self.process.poll()
        assert code is None, f"the server ended with {code}:\n{self.log()}"
        return True

    def _read_ports(self) -> dict[str, str] | None:
        self._alive()
        try:
            return json.loads(self.ports_path.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    @property
    def http(self) -> str:
        return self.ports["http"]

    @property
    def grpc(self) -> str:
        return self.ports["grpc"]

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | dict | list | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request on the data port."""
        return request(self.http, method, path, body, headers)

    def ops(self, method: str, path: str) -> Reply:
        """One request on the operations port."""
        return request(self.ports["ops"], method, path)

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self) -> int:
        """Ends it in good order."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
