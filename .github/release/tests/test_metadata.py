"""What the wheel says of itself is what the crate, the server and the lock file say."""

import re
import tomllib

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "server/pyproject.toml").read_text())
CRATE = tomllib.loads((ROOT / "server/Cargo.toml").read_text())["package"]
WORKSPACE = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]


def test_name_and_licence_are_the_crates() -> None:
    about = PROJECT["project"]
    assert (about["name"], about["license"]) == (CRATE["name"], WORKSPACE["license"])
    assert (ROOT / "server/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    # One place for the version: maturin takes the crate's.
    assert about["dynamic"] == ["version"]
    assert "version" not in about


def test_dependency_is_what_the_server_accepts() -> None:
    [dependency] = map(Requirement, PROJECT["project"]["dependencies"])
    assert dependency.name == "onnxruntime"
    least = re.search(r'LEAST_VERSION: &str = "(.*)"', (ROOT / "server/src/model/runtime.rs").read_text())[1]
    assert f">={least}" in str(dependency.specifier)
    locked = re.search(r"^onnxruntime==(\S+)", (ROOT / "server/onnxruntime.lock").read_text(), re.MULTILINE)[1]
    assert locked in dependency.specifier
    # The interface that the crate asks the library for.
    features = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["dependencies"]["ort"]["features"]
    assert f"api-{least.split('.')[1]}" in features


def test_pythons_are_those_of_the_project() -> None:
    training = tomllib.loads((ROOT / "training/pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(PROJECT["project"]["requires-python"]) == SpecifierSet(training)


def test_builder_is_the_locked_one() -> None:
    [builder] = map(Requirement, PROJECT["build-system"]["requires"])
    locked = re.search(r"^maturin==(\S+)", (ROOT / ".github/release/requirements.lock").read_text(), re.MULTILINE)[1]
    assert locked in builder.specifier
