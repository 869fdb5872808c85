"""The server's program, by its commands: what it checks, writes and decides is not done again here."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import PipelineError
from training.processes import answers, stop, wait
from training.storage import s3_endpoint

ROOT = Path(__file__).resolve().parents[3]
BINARY = "ONNXD_BINARY"
LOST, HOLD, REJECT = 3, 10, 11
"""Exit codes: someone else was first; `verdict` says hold, or reject."""
NOWHERE = "127.0.0.1:0"
"""Nothing can listen there."""
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


def call(arguments: Sequence[str | Path], *, codes: Sequence[int] = (0,)) -> Said:
    """Runs a command.

    Args:
        arguments: The command and its flags.
        codes: Exit codes that are answers.

    Raises:
        PipelineError: It ended with another code, or took longer than a quarter of an hour: with its complaint.
    """
    words = [str(find()), *map(str, arguments), "--json"]
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
    answer = json.loads(done.stdout) if done.stdout.strip() else None
    return Said(done.returncode, answer, done.stderr.strip())


@dataclass(frozen=True)
class Server:
    """A running server: its listeners' addresses, `host:port`, and its process."""

    http: str
    ops: str
    process: subprocess.Popen[bytes]

    def ready(self) -> bool:
        """Whether it says that it can answer."""
        return answers(f"http://{self.ops}/readyz")


@contextmanager
def serve(repository: str | Path, flags: Sequence[str] = (), *, log: Path | None = None) -> Iterator[Server]:
    """A server on free ports, stopped at the end as Kubernetes does it.

    Args:
        repository: What it serves.
        flags: Further flags.
        log: Where its log goes.

    Raises:
        PipelineError: It is not ready after three minutes, or ends before.
    """
    with tempfile.TemporaryDirectory() as folder:
        ports = Path(folder) / "ports.json"
        listeners = ["--http", "127.0.0.1:0", "--grpc", "off", "--ops", "127.0.0.1:0"]
        words = [str(find()), "serve", str(repository), *listeners]
        # No load balancer has to notice its end: without this it would take requests for 5 s more.
        words += ["--drain-delay", "0s", "--ports-file", str(ports), *flags]
        written = log or Path(folder) / "log"
        with written.open("wb") as out:
            process = subprocess.Popen(words, env=environment(), stdout=out, stderr=subprocess.STDOUT)  # noqa: S603 - our own program
        try:
            wait("onnxd serve", lambda: _bound(ports, process).ready(), lambda: process.poll() is None, written)
            yield _bound(ports, process)
        finally:
            stop(process, signal.SIGTERM)


def _bound(ports: Path, process: subprocess.Popen[bytes]) -> Server:
    """A server by the file that names its listeners; before that is there, one that is nowhere."""
    bound = json.loads(ports.read_text()) if ports.is_file() else {"http": NOWHERE, "ops": NOWHERE}
    return Server(bound["http"], bound["ops"], process)


def place(folder: Path, onnx: bytes, manifest: bytes | None) -> Path:
    """Writes a model with its manifest beside it, if it has one, into a new folder. Returns the ONNX file."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(onnx)
    if manifest is not None:
        (folder / "manifest.json").write_bytes(manifest)
    return folder / "model.onnx"
