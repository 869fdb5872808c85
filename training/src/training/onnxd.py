"""The server's program, by its commands: what it checks, writes and decides is not done again here."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from training.errors import PipelineError
from training.storage import s3_endpoint

ROOT = Path(__file__).resolve().parents[3]
BINARY = "ONNXD_BINARY"
LOST, HOLD, REJECT = 3, 10, 11
"""Exit codes: someone else was first; `verdict` says hold, or reject."""
START = 60
"""Seconds that a server may take until it is ready."""
LIMIT = 900
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Said:
    """What a command ended with: its exit code, its JSON, and its complaint."""

    code: int
    answer: Any
    complaint: str


def find() -> Path:
    """The program: of `ONNXD_BINARY`, on the PATH, or built in this checkout.

    Raises:
        PipelineError: There is none.
    """
    built = [ROOT / "target" / profile / "onnxd" for profile in ("release", "debug")]
    named = [Path(os.environ[BINARY])] if os.environ.get(BINARY) else []
    on_path = [Path(found)] if (found := shutil.which("onnxd")) else []
    for path in named or [*on_path, *sorted((p for p in built if p.is_file()), key=lambda p: -p.stat().st_mtime)]:
        if path.is_file():
            return path
    msg = f"no onnxd program: build it with cargo build --release, put it on the PATH, or name it in {BINARY}"
    raise PipelineError(msg)


def library() -> str:
    """The ONNX Runtime library of this environment's wheel."""
    import onnxruntime  # noqa: PLC0415 - half a second

    found = sorted((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.*"))
    return os.environ.get("ORT_DYLIB_PATH") or str(found[0])


def environment() -> dict[str, str]:
    """The environment of the program: the caller's, this wheel's library, the S3 server that AWS's tools would take."""
    found = {**os.environ, "ORT_DYLIB_PATH": library()}
    if endpoint := s3_endpoint():
        found.setdefault("ONNXD_S3_ENDPOINT", endpoint)
    return found


def call(arguments: Sequence[str | Path], *, codes: Sequence[int] = (0,), as_json: bool = True) -> Said:
    """Runs a command.

    Args:
        arguments: The command and its flags.
        codes: Exit codes that are answers.
        as_json: Whether to ask for JSON.

    Raises:
        PipelineError: It ended with another code, or took longer than a quarter of an hour: with its complaint.
    """
    words = [str(find()), *map(str, arguments), *(["--json"] if as_json else [])]
    try:
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=LIMIT, check=False)  # noqa: S603 - our own program
    except subprocess.TimeoutExpired as error:
        msg = f"onnxd {arguments[0]} takes longer than {LIMIT} s: look at its limits"
        raise PipelineError(msg) from error
    if done.returncode not in codes:
        msg = (
            f"onnxd {arguments[0]}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}"
        )
        raise PipelineError(msg)
    answer = json.loads(done.stdout) if as_json and done.stdout.strip() else None
    return Said(done.returncode, answer, done.stderr.strip())


@dataclass(frozen=True)
class Server:
    """A running server: its listeners' addresses, `host:port`, and its process."""

    http: str
    ops: str
    process: subprocess.Popen[bytes]

    def ready(self) -> bool:
        """Whether it says that it can answer."""
        try:
            return requests.get(f"http://{self.ops}/readyz", timeout=5).ok
        except requests.RequestException:
            return False


@contextmanager
def serve(repository: str | Path, flags: Sequence[str] = (), *, log: Path | None = None) -> Iterator[Server]:
    """A server on free ports, stopped at the end as Kubernetes does it.

    Args:
        repository: What it serves.
        flags: Further flags.
        log: Where its log goes.

    Raises:
        PipelineError: It is not ready after a minute, or ends before.
    """
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder) / "ports.json"
        words = [
            str(find()),
            "serve",
            str(repository),
            "--http",
            "127.0.0.1:0",
            "--grpc",
            "off",
            "--ops",
            "127.0.0.1:0",
        ]
        # No load balancer has to notice its end: without this it would take requests for 5 s more.
        words += ["--drain-delay", "0s", "--ports-file", str(ports), *flags]
        out = (log or Path(folder) / "log").open("wb")
        process = subprocess.Popen(words, env=environment(), stdout=out, stderr=subprocess.STDOUT)  # noqa: S603 - our own program
        try:
            yield _wait(process, ports, Path(out.name))
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(START)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            out.close()


def _wait(process: subprocess.Popen[bytes], ports: Path, log: Path) -> Server:
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if ports.is_file():
            bound: Mapping[str, str] = json.loads(ports.read_text())
            server = Server(bound["http"], bound["ops"], process)
            if server.ready():
                return server
        time.sleep(0.05)
    msg = f"onnxd serve is not ready: {log.read_text(errors='replace').strip()[-500:]}"
    raise PipelineError(msg)
