"""What is released, used as people do: unpacked, installed into an empty environment, without any variable."""

import hashlib
import http.client
import json
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email import message_from_bytes
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from conftest import ROOT, need, package

PATIENCE = 60


@contextmanager
def serving(program: Path, models: Path, folder: Path) -> Iterator[str]:
    """Runs the server with nothing in its environment; gives its address."""
    ports, log = folder / "ports.json", folder / "log"
    words = [program, "serve", models, "--http", "127.0.0.1:0", "--grpc", "off", "--ops", "off", "--ports-file", ports]
    with log.open("w") as errors:
        server = subprocess.Popen(words, env={}, cwd=folder, stderr=errors)
    try:
        end = time.monotonic() + PATIENCE
        while not ((address := bound(ports)) and ask(address, "GET", "/readyz")[0] == 200):
            assert time.monotonic() < end, log.read_text()
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the server ended with {server.wait(0.05)}: {log.read_text()}")
        yield address
    finally:
        server.terminate()
        server.wait(PATIENCE)


def bound(ports: Path) -> str | None:
    """Where the server listens, once it does."""
    with suppress(OSError, ValueError):
        return json.loads(ports.read_text())["http"]
    return None


def ask(address: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=PATIENCE)
    headers = {"content-type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    reply = connection.getresponse()
    return reply.status, reply.read()


def predicts(program: Path, folder: Path) -> None:
    """The README's request has the README's answer."""
    with serving(program, ROOT / "models", folder) as address:
        status, answer = ask(address, "POST", "/predict", {"cpu_zscore": 2.1, "memory_zscore": 1.5})
        assert status == 200
        assert re.search(rf"^{re.escape(answer.decode())}$", (ROOT / "README.md").read_text(), re.MULTILINE), answer


def wheel(dist: Path) -> Path:
    if not (found := list(dist.glob("onnxd-*.whl"))):
        pytest.skip("no wheel: `make dist test-dist` builds and tests one")
    return found[0]


def test_archive_has_the_program_and_its_licences(unpacked: Path) -> None:
    name = unpacked.name.rsplit("-", 3)[0]
    assert re.fullmatch(r"[a-z-]+-\d+\.\d+\.\d+-(x86_64|aarch64)-linux", unpacked.name)
    programs = {p.name for p in unpacked.iterdir() if p.is_file() and os.access(p, os.X_OK)}
    assert {p for p in programs if not p.startswith("libonnxruntime")} == {name}
    assert (unpacked / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert (unpacked / "licences.txt").read_text().count("\n==== ") > 50


def test_nothing_in_an_archive_lies_elsewhere_or_is_of_a_user(dist: Path) -> None:
    for archive in dist.glob("*.tar.gz"):
        with tarfile.open(archive) as tar:
            for file in tar:
                assert file.name.split("/")[0] == archive.name.removesuffix(".tar.gz")
                assert file.isdir() or file.isfile(), file.name
                assert (file.uid, file.gid, file.uname, file.gname) == (0, 0, "root", "root")
                assert file.mode in {0o644, 0o755}, file.name


def test_bill_of_materials_is_valid_and_of_this_program(unpacked: Path, dist: Path) -> None:
    name = unpacked.name.rsplit("-", 3)[0]
    content = (unpacked / f"{name}.cdx.json").read_text()
    assert (dist / f"{unpacked.name}.cdx.json").read_text() == content
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content) is None
    bill = json.loads(content)
    [own] = [c for c in bill["components"] if c["type"] == "application"]
    assert own["hashes"][0]["content"] == hashlib.sha256((unpacked / name).read_bytes()).hexdigest()
    assert ("onnxruntime" in {c["name"] for c in bill["components"]}) == (name == "onnxd")


def test_unpacked_program_runs(unpacked: Path, tmp_path: Path) -> None:
    name = unpacked.name.rsplit("-", 3)[0]
    said = subprocess.run([unpacked / name, "--help"], env={}, capture_output=True, text=True, check=True).stdout
    assert "Usage: " in said
    if name == "onnxd":
        predicts(unpacked / name, tmp_path)


def test_same_program_gives_same_archive(tmp_path: Path) -> None:
    need("collector")
    for turn in ("first", "second"):
        package(tmp_path / turn, "collector")
    [first], [second] = ((tmp_path / turn).glob("*.tar.gz") for turn in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_wheel_brings_the_program_and_its_library(dist: Path, tmp_path: Path) -> None:
    """As `pip install onnxd` does, of an index that has this wheel."""
    built, environment = wheel(dist), tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    words = ["install", "--quiet", "--disable-pip-version-check", "--find-links", built.parent, "onnxd"]
    subprocess.run([environment / "bin/python", "-m", "pip", *words], check=True)
    predicts(environment / "bin/onnxd", tmp_path)


def test_wheel_says_what_it_is(dist: Path) -> None:
    built = wheel(dist)
    assert re.fullmatch(r"onnxd-[\d.]+-py3-none-manylinux_2_28_(x86_64|aarch64)\.whl", built.name)
    with zipfile.ZipFile(built) as files:
        names = {n.split("/", 1)[1] for n in files.namelist() if ".dist-info/" in n}
        about = message_from_bytes(files.read(next(n for n in files.namelist() if n.endswith("/METADATA"))))
    assert {"licenses/LICENSE", "licenses/LICENSE-third-party.txt", "sboms/onnxd.cyclonedx.json"} <= names
    assert about.get_all("Requires-Dist") == ["onnxruntime>=1.31,<2"]
    assert about["License-Expression"] == "Apache-2.0"


def test_programs_run_on_old_systems(request: pytest.FixtureRequest, unpacked: Path) -> None:
    """Those that are released; those that tests build need what the machine has."""
    if request.config.getoption("--released") is None:
        pytest.skip("no release: `make dist test-dist` builds and tests one")
    program = unpacked / unpacked.name.rsplit("-", 3)[0]
    versions = {int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", program.read_bytes())}
    assert versions
    assert max(versions) <= 28
