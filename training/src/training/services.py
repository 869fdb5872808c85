"""The services of the pipeline as processes of this machine, each on a free port, each stopped at the end."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from training.errors import PipelineError
from training.processes import answers, stop, wait

POSTGRES = "postgres"
"""The database refuses to run as root: then it runs as this user, which Debian's package makes."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with a database `mlflow`, its files in `folder`. Yields its URI for SQLAlchemy.

    Raises:
        PipelineError: PostgreSQL is not installed, or does not start.
    """
    programs = postgres_programs()
    folder.mkdir(parents=True)
    port = free_port()
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam(POSTGRES)
        except KeyError as error:
            msg = f"PostgreSQL refuses to run as root, and there is no user {POSTGRES}: run this as another user"
            raise PipelineError(msg) from error
        shutil.chown(folder, POSTGRES)
        for parent in folder.parents:
            # Temporary folders are their maker's alone.
            if parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    data, log = folder / "data", folder / "log"

    def run(*words: str) -> None:
        done = subprocess.run(words, **as_user, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            msg = f"{Path(words[0]).name}: {(done.stderr or done.stdout).strip()[-500:]}"
            raise PipelineError(msg)

    run(str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "mlflow", "--no-sync")
    settings = ("listen_addresses=127.0.0.1", f"unix_socket_directories={folder}", "fsync=off")
    words = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    words += [word for setting in settings for word in ("-c", setting)]
    with log.open("wb") as out:
        process = subprocess.Popen(words, **as_user, cwd=folder, stdout=out, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        wait("PostgreSQL", lambda: _accepts(port), lambda: process.poll() is None, log)
        with closing(psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres")) as database:
            database.autocommit = True
            database.cursor().execute("create database mlflow")
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        # SIGINT is its "fast" shutdown: clients are told to go.
        stop(process, signal.SIGINT)


def postgres_programs() -> Path:
    """The folder of PostgreSQL's programs: Debian keeps them out of the PATH.

    Raises:
        PipelineError: PostgreSQL is not installed.
    """
    found = [p.parent for p in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)]
    if initdb := shutil.which("initdb"):
        found.append(Path(initdb).parent)
    if not found:
        msg = "PostgreSQL is not installed: on Debian, apt-get install postgresql"
        raise PipelineError(msg)
    return found[0]


def _accepts(port: int) -> bool:
    """Whether the database takes connections: while it starts up, it refuses them."""
    try:
        psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres", connect_timeout=5).close()
    except psycopg2.OperationalError:
        return False
    return True


@contextmanager
def mlflow(database: str, artifacts: str, folder: Path) -> Iterator[str]:
    """An MLflow server. Yields its URL.

    Args:
        database: URI of its database.
        artifacts: Where files go, such as `s3://bucket`; it hands them through, so that clients need no rights there.
        folder: For its log.

    Raises:
        PipelineError: It does not start.
    """
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", database, "--artifacts-destination", artifacts]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "mlflow.log"
    with log.open("wb") as out:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            words, env={**os.environ, **settings}, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait("MLflow", lambda: answers(f"{url}/health"), lambda: process.poll() is None, log)
        yield url
    finally:
        stop(process, signal.SIGTERM, group=True)
