"""One server for all tests of the clients, with every export in its repository."""

import os
from collections.abc import Iterator
from pathlib import Path

# Before any of the clients is imported: none of them is to call home.
os.environ.update({"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true", "NO_PROXY": "127.0.0.1"})

import pytest

import repository
from places import binary
from repository import Export
from running import Server, running
from triton import GrpcClient, HttpClient

TOKEN = "a-token-of-the-tests"  # noqa: S105


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-nodes", action="store_true", help="every model of the onnx package, not each eighth")
    parser.addoption("--write-report", metavar="FILE", help="writes what became of the onnx package's models")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "export" in metafunc.fixturenames:
        made = repository.all_exports()
        metafunc.parametrize("export", made, ids=[export.name for export in made])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What the servers logged goes with a failure."""
    report = yield
    if report.failed and not item.config.option.collectonly:
        for server in list(running):
            lines = [line for line in server.log().splitlines() if '"level":"INFO"' not in line]
            report.sections.append((f"log of the server: {server.log_path}", "\n".join(lines[-12:])))
    return report


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Export]:
    """Every model by name, written to one repository."""
    return repository.write(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="session")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture(scope="session")
def server(
    models: dict[str, Export],
    token_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """The server that all tests share, ready."""
    assert binary().is_file(), f"{binary()} is missing: cargo build --package onnxd, or name one in ONNXD"
    root = models["anomaly"].path.parents[2]
    folder = tmp_path_factory.mktemp("server")
    arguments = ["--admin-token-file", str(token_file), "--default-model", "anomaly", "--request-timeout", "5s"]
    with Server(folder, root, *arguments) as started:
        yield started.ready()


@pytest.fixture
def admin() -> dict[str, str]:
    """The header that lets a client load and unload models."""
    return {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def http(server: Server) -> Iterator[HttpClient]:
    with HttpClient(server.http, concurrency=4) as client:
        yield client


@pytest.fixture
def grpc(server: Server) -> Iterator[GrpcClient]:
    with GrpcClient(server.grpc) as client:
        yield client
