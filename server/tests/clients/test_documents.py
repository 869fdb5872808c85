"""The examples of the documents: each is run as it is written, and gives what is written below it."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from places import ROOT, binary
from running import PATIENCE, Server

LANGUAGES = {"sh", "python"}
NOT_RUN = "not-run"
# Those that need a container.
KNOWN_NOT_RUN = {"SageMaker", "Vertex AI"}
SECTIONS = {
    "Named JSON",
    "Open Inference Protocol: REST",
    "Open Inference Protocol: gRPC",
    "KServe v1 and TensorFlow Serving",
    "MLflow",
    "SageMaker",
    "Vertex AI",
    "Feedback",
    "What all doors share",
}
FENCE = re.compile(r"^```([^`]*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says, its text, its first and last line, and the heading above it."""

    info: tuple[str, ...]
    text: str
    begin: int
    end: int
    section: str

    @property
    def language(self) -> str:
        return self.info[0] if self.info else ""


@dataclass(frozen=True)
class Example:
    """What is run, and what it prints."""

    document: str
    block: Block
    output: Block | None

    def __str__(self) -> str:
        return f"{Path(self.document).name}:{self.block.begin}"


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found: list[Block] = []
    section = ""
    opened: tuple[int, tuple[str, ...]] | None = None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if opened and line == "```":
            begin, info = opened
            inside = "".join(f"{inner}\n" for inner in lines[begin : number - 1])
            found.append(Block(info, inside, begin, number, section))
            opened = None
        elif not opened and fence:
            opened = (number, tuple(fence[1].split()))
        elif not opened and line.startswith("## "):
            section = line.removeprefix("## ").strip()
    assert opened is None, f"the block that begins at line {opened and opened[0]} has no end"
    return found


def examples(document: str) -> list[Example]:
    """The blocks of a document in languages that are run, each with the block right behind it."""
    found = blocks((ROOT / document).read_text())
    after = {block.begin: block for block in found}
    pairs = [Example(document, block, after.get(block.end + 1)) for block in found]
    return [pair for pair in pairs if pair.block.language in LANGUAGES]


def readme() -> Example:
    """The first thing that the README asks a server."""
    found = blocks((ROOT / "README.md").read_text())
    at = next(i for i, block in enumerate(found) if block.text.startswith("curl "))
    return Example("README.md", found[at], found[at + 1])


PROTOCOLS = examples("docs/protocols.md")
RUN = [readme(), *(example for example in PROTOCOLS if NOT_RUN not in example.block.info)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The models of `make serve`, and the path that the example of Vertex AI needs."""
    assert binary().is_file(), f"{binary()} is missing: cargo build --package onnxd, or name one in ONNXD"
    folder = tmp_path_factory.mktemp("served")
    with Server(folder, ROOT / "models", "--predict-route", "/vertex") as started:
        yield started.ready()


def placed(text: str, server: Server) -> str:
    """The example with the addresses of this server in the place of those that `make serve` has."""
    ports = {"0": server.ports["http"], "1": server.ports["grpc"], "2": server.ports["ops"]}
    text = re.sub(r"\blocalhost:808([012])\b", lambda found: ports[found[1]], text)
    # Clients that take host and port apart.
    return re.sub(r'"localhost", 808([012])\b', lambda found: '"{}", {}'.format(*ports[found[1]].split(":")), text)


def run(example: Example, server: Server, folder: Path) -> str:
    """What the example prints."""
    text = placed(example.block.text, server)
    if example.block.language == "python":
        command = [sys.executable, "-c", text]
    else:
        assert shutil.which("curl"), "curl is missing, which the examples of the documents use: install it"
        command = ["/bin/sh", "-e", "-c", text]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "HOME": str(folder), "no_proxy": "127.0.0.1"}
    done = subprocess.run(  # noqa: S603
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, f"{example} ended with {done.returncode}:\n{done.stderr}{done.stdout}"
    return done.stdout


def documents(text: str) -> list[object]:
    """The JSON documents of a text, one behind the other."""
    decoder = json.JSONDecoder()
    found = []
    rest = text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        found.append(value)
        rest = rest[end:].lstrip()
    return found


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def difference(got: object, written: object, at: str = "") -> str | None:
    """Where two values of JSON differ first. Numbers may by 1e-5 of their size; keys come in any order."""
    inside: list[tuple[object, object, str]] = []
    if is_number(got) and is_number(written):
        same = math.isclose(got, written, rel_tol=1e-5)
    elif type(got) is not type(written):
        same = False
    elif isinstance(got, dict):
        same = set(got) == set(written)
        inside = [(got[key], written[key], f"{at}.{key}") for key in written if same]
    elif isinstance(got, list):
        same = len(got) == len(written)
        inside = [(a, b, f"{at}[{i}]") for i, (a, b) in enumerate(zip(got, written))]
    else:
        same = got == written
    if not same:
        return f"{at or 'the value'} is {got!r}, written is {written!r}"
    return next(filter(None, (difference(*each) for each in inside)), None)


def wrong(output: Block, printed: str) -> str | None:
    """What is different in what was printed; `None` when it is as written."""
    if output.language == "json":
        try:
            return difference(documents(printed), documents(output.text))
        except json.JSONDecodeError as e:
            return f"not JSON: {e}"
    assert output.language == "text", f"line {output.begin}: an output is json or text, not {output.language!r}"
    return None if printed == output.text else "the text is another one"


@pytest.mark.parametrize("example", RUN, ids=str)
def test_example(example: Example, served: Server, tmp_path: Path) -> None:
    assert example.output, f"{example}: nothing stands behind it that says what it prints"
    printed = run(example, served, tmp_path)
    found = wrong(example.output, printed)
    assert found is None, f"{example}: {found}\nprinted:\n{printed}\nwritten:\n{example.output.text}"


def test_every_dialect_has_examples() -> None:
    assert {example.block.section for example in RUN if example in PROTOCOLS} == SECTIONS


def test_what_is_not_run() -> None:
    """Only what needs a container, and nothing stands below it as its output."""
    skipped = [example for example in PROTOCOLS if NOT_RUN in example.block.info]
    assert [example.block.section for example in skipped] == sorted(KNOWN_NOT_RUN)
    for example in skipped:
        assert "docker run" in example.block.text, str(example)
        assert example.output is None, str(example)
    infos = {info for example in PROTOCOLS for info in example.block.info[1:]}
    assert infos == {NOT_RUN}


def test_every_output_belongs_to_an_example() -> None:
    """No output is written that nothing is compared with."""
    outputs = {example.output for example in PROTOCOLS}
    rest = [block for block in blocks((ROOT / "docs/protocols.md").read_text()) if block not in outputs]
    assert {block.language for block in rest} == LANGUAGES


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_links() -> None:
    """Every link in the page leads to something."""
    text = (ROOT / "docs/protocols.md").read_text()
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        elif not link.startswith("https://"):
            assert (ROOT / "docs" / link).is_file(), link


SPOILED = {"true": "false", "false": "true"}


@pytest.mark.parametrize("example", RUN, ids=str)
def test_a_wrong_output_is_found(example: Example) -> None:
    """Whatever word or number of an output is changed, the comparison tells."""
    output = example.output
    assert output is not None
    assert wrong(output, output.text) is None
    assert wrong(output, "") is not None
    words = list(re.finditer(r"true|false|null|\d+\.?\d*|\w+", output.text))
    assert words
    for word in words:
        number = word[0].replace(".", "").isdigit()
        other = SPOILED.get(word[0]) or (f"7{word[0]}" if number else f"{word[0]}x")
        spoiled = output.text[: word.start()] + other + output.text[word.end() :]
        assert wrong(output, spoiled) is not None, f"{word[0]} -> {other}"


@pytest.mark.parametrize(
    ("got", "written"),
    [
        ("1", "2"),
        ("1", "1.001"),
        ("1", "true"),
        ("0", "null"),
        ('"1"', "1"),
        ("[1]", "[1, 2]"),
        ("[[1, 2]]", "[[2, 1]]"),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 1, "b": 2}', '{"a": 1}'),
        ("1 2", "1"),
        ("", "1"),
        ("{", "{}"),
    ],
)
def test_differences(got: str, written: str) -> None:
    assert wrong(Block(("json",), written, 1, 3, ""), got) is not None


@pytest.mark.parametrize(
    ("got", "written"),
    [("1.000001", "1"), ('{"a": 1, "b": [null]}', '{"b":[null],"a":1.0}'), ('{"a": 1}\n{}', '{"a":1} {}')],
)
def test_no_differences(got: str, written: str) -> None:
    assert wrong(Block(("json",), written, 1, 3, ""), got) is None
