"""The first chapter of docs/training.md, run as it is written: real files, the real program, a real server."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pytest
import requests

from training import onnxd
from training.commands import STEPS
from training.pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "training" / "examples"
CHAPTER = "Your model in ten minutes"
FOLDER = "/tmp/mine"  # noqa: S108 - what the document says, replaced by a folder of the test
NEEDS = {"XGBoost": ("xgboost", "onnxmltools"), "PyTorch": ("torch", "onnxscript")}
"""By section: what is not in the lock file."""
SECTIONS = (
    "scikit-learn",
    "A table with words",
    "LightGBM",
    "XGBoost",
    "PyTorch",
    "Features that may be missing",
    "What goes wrong most often",
)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
TIME = re.compile(r"\d+(?:\.\d+)? us\b")
TOLERANCE = 1e-3
"""Of a printed number, beside its size: another CPU may add up in another order."""

PATIENCE = 60
"""Seconds until a model that was pushed is served."""


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says, its text, and the heading above it."""

    info: list[str]
    text: str
    section: str


def blocks(chapter: str) -> list[Block]:
    """The blocks of a chapter, in order."""
    text = (ROOT / "docs" / "training.md").read_text()
    begin = text.index(f"\n## {chapter}\n")
    found, section, opened = [], "", None
    for line in text[begin + 1 :].splitlines():
        if opened is not None and line == "```":
            found.append(Block(opened[0], "".join(opened[1]), section))
            opened = None
        elif opened is not None:
            opened[1].append(f"{line}\n")
        elif line.startswith("```"):
            opened = (line[3:].split(), [])
        elif line.startswith("### "):
            section = line[4:]
        elif line.startswith("## ") and line != f"## {chapter}":
            break
    return found


BLOCKS = blocks(CHAPTER)


@dataclass(frozen=True)
class Place:
    """Where the document's commands run: a folder, and the server of its repository."""

    folder: Path
    server: onnxd.Server

    def run(self, command: str) -> str:
        """What a block prints."""
        text = command.replace(FOLDER, str(self.folder)).replace("localhost:8080", self.server.http)
        found = [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = {
            **onnxd.environment(),
            "PATH": os.pathsep.join(found),
            "PYTHONPATH": str(ROOT / "training" / "src"),
        }
        words = ["bash", "-eu", "-c", text]
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - the document's own words
        assert done.returncode == 0, f"{command}{done.stdout}{done.stderr}"
        if "onnxd push" in command:
            self.wait()
        return done.stdout.replace(str(self.folder), FOLDER)

    def wait(self) -> None:
        """Until the server serves what the repository says, as a person would who takes a second to type."""
        pointers = (self.folder / "repository").glob("*/aliases.json")
        wanted = {path.parent.name: json.loads(path.read_text())["champion"] for path in pointers}
        deadline = time.monotonic() + PATIENCE
        while (served := self._served()) != wanted:
            assert time.monotonic() < deadline, f"served: {served}, to be served: {wanted}"
            time.sleep(0.05)

    def _served(self) -> dict[str, str]:
        found = requests.get(f"http://{self.server.ops}/status", timeout=10).json()["models"]
        return {model["name"]: (model["champion"] or {}).get("version") for model in found}


@pytest.fixture(scope="module")
def place(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A repository that holds a model already, and its server."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "bin").mkdir()
    (folder / "bin" / "onnxd").symlink_to(program.absolute())
    repository = folder / "repository"
    repository.mkdir()
    onnxd.call(
        ["push", ROOT / "models" / "anomaly" / "1" / "model.onnx", "--model", "anomaly", "--repository", repository]
    )
    with onnxd.serve(repository) as server:
        yield Place(folder, server)


def same(got: str, written: str) -> bool:
    """Whether a line is as the document says: numbers within the tolerance, no times, `..` for the rest."""
    got, written = TIME.sub("us", got), TIME.sub("us", written)
    if written.endswith(".."):
        written = written.removesuffix("..")
        got = got[: len(written)]
    ours, theirs = NUMBER.findall(got), NUMBER.findall(written)
    if NUMBER.sub("#", got) != NUMBER.sub("#", written) or len(ours) != len(theirs):
        return False
    return bool(np.allclose(np.float64(ours), np.float64(theirs), rtol=TOLERANCE, atol=1e-5))


def agrees(got: str, written: str) -> bool:
    """Whether an output is as the document says: a line `..` stands for any lines."""
    lines, rest = got.rstrip().splitlines(), written.rstrip().splitlines()
    skipping = False
    for line in lines:
        if rest and rest[0] == "..":
            rest, skipping = rest[1:], True
        if rest and same(line, rest[0]):
            rest, skipping = rest[1:], False
        elif not skipping:
            return False
    return not rest


@pytest.mark.parametrize("section", SECTIONS)
def test_what_the_document_says_is_what_happens(place: Place, section: str) -> None:
    for package in NEEDS.get(section, ()):
        pytest.importorskip(package)
    own = [block for block in BLOCKS if block.section == section]
    ran = 0
    for block, after in zip(own, [*own[1:], None]):
        if block.info == ["sh"]:
            got = place.run(block.text)
            ran += 1
            if after is not None and after.info in (["text"], ["json"]):
                assert agrees(got, after.text), f"{block.text}\ngave\n{got}\nand not\n{after.text}"
    assert ran


def test_every_section_is_known() -> None:
    assert list(dict.fromkeys(block.section for block in BLOCKS)) == list(SECTIONS)


def test_code_that_is_shown_is_code_of_the_files() -> None:
    shown = [block for block in BLOCKS if block.info[:1] == ["python"]]
    assert {block.info[1] for block in shown} == {path.name for path in EXAMPLES.glob("*_*.py")}
    for block in shown:
        assert block.text in (EXAMPLES / block.info[1]).read_text(), block.info[1]


def test_code_of_mlflow_is_code_of_its_file() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    begin = text.index("   ```python\n") + len("   ```python\n")
    shown = [line.removeprefix("   ") for line in text[begin : text.index("   ```\n", begin)].splitlines()]
    lines = [line.removeprefix("    ") for line in (EXAMPLES / "register.py").read_text().splitlines()]
    at = lines.index(shown[0])
    assert lines[at : at + len(shown)] == shown


def test_every_setting_and_step_is_in_the_document() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    for one in fields(Settings):
        row = f"| `--{one.name.replace('_', '-')}` | `{one.metadata['environment']}` |"
        assert row in text, row
        default = ",".join(map(str, one.default)) if isinstance(one.default, tuple) else str(one.default)
        assert default in text.split(row)[1].splitlines()[0], one.name
    for step in STEPS:
        assert f"| `{step}` |" in text, step


@pytest.mark.parametrize(
    ("got", "written"),
    [
        ("a 2.0", "a 2.1"),
        ("a 2.0", "b 2.0"),
        ("a\nb", "a"),
        ("a", "a\nb"),
        ("a\nb\nc", "a\n..\nd"),
        ("features: a, c", "features: a, b, .."),
    ],
)
def test_outputs_that_differ_are_told_apart(got: str, written: str) -> None:
    assert not agrees(got, written)


def test_outputs_that_are_alike_agree() -> None:
    assert agrees("a 2.00001\nb\nc\nrun 5.1 us, more", "a 2.0\n..\nc\nrun 7 us, m..")


def test_a_served_answer_that_is_not_the_librarys_is_found(place: Place, tmp_path: Path) -> None:
    asked = '[{"cpu_zscore": 2.1, "memory_zscore": 1.5}]'
    (tmp_path / "asked.json").write_text(asked)
    (tmp_path / "expected.json").write_text('[{"anomaly": false, "score": 0.9, "forecast": 6.7014923}]')
    url = f"http://{place.server.http}/models/anomaly/predict"
    words = [sys.executable, str(EXAMPLES / "compare.py"), str(tmp_path), url]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own script
    assert done.returncode == 1
    assert "they differ, by up to" in done.stderr
