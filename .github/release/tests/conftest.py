"""What is released: what lies in the folder of --released, or archives of the programs that the tests built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAMS = ("onnxd", "collector", "remediation-operator")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--released", type=Path, help="a folder that `make dist` filled")


def package(out: Path, *programs: str) -> None:
    """Makes archives of programs as they are built for tests."""
    script = ROOT / ".github/release/package.py"
    words = [sys.executable, script, "--built", ROOT / "target/debug", "--out", out, *programs]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "k8s/images")}
    subprocess.run(words, env=env, capture_output=True, text=True, check=True)


def need(*programs: str) -> None:
    if missing := [name for name in programs if not (ROOT / "target/debug" / name).is_file()]:
        pytest.skip(f"{', '.join(missing)} not built: cargo test --workspace does")


@pytest.fixture(scope="session")
def dist(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what is released."""
    if (given := request.config.getoption("--released")) is not None:
        return given.resolve()
    need(*PROGRAMS)
    out = tmp_path_factory.mktemp("dist")
    package(out)
    return out


@pytest.fixture(scope="session", params=PROGRAMS)
def unpacked(request: pytest.FixtureRequest, dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that an archive holds."""
    [archive] = dist.glob(f"{request.param}-*-linux.tar.gz")
    folder = tmp_path_factory.mktemp(request.param)
    subprocess.run(["tar", "--extract", "--gzip", "--file", archive, "--directory", folder], check=True)
    [only] = folder.iterdir()
    return only
