"""The onnx package's models through the server: whatever ONNX Runtime runs alone, to the same bits."""

import datetime as dt
import os
import platform
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import nodes
import oip
import oracle
from nodes import Case
from running import Server

EACH = 8
# Of what ONNX Runtime runs alone, whether a protocol can carry it or not.
LEAST = 0.95
SAME = "same bits"
BINARY_ONLY = {"FP16", "BF16"}


@dataclass
class Findings:
    """What became of every case."""

    tried: int = 0
    # Outside of the server: why ONNX Runtime alone does not give what is expected.
    alone: dict[str, str] = field(default_factory=dict)
    # Inside: `SAME`, or what happened.
    binary: dict[str, str] = field(default_factory=dict)
    json: dict[str, str] = field(default_factory=dict)
    # What the protocol has no way to say.
    not_carried: dict[str, str] = field(default_factory=dict)

    def runs(self) -> int:
        """How many of them ONNX Runtime alone runs."""
        return self.tried - len(self.alone)

    def same(self) -> int:
        return sum(outcome == SAME for outcome in self.binary.values())

    def share(self) -> float:
        return self.same() / max(self.runs(), 1)


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[int]:
    """Numbers of the cases: each eighth, or all with --all-nodes."""
    return list(range(0, len(nodes.cases()), 1 if request.config.option.all_nodes else EACH))


@pytest.fixture(scope="module")
def alone(chosen: list[int]) -> dict[str, str]:
    return {nodes.cases()[number].name: reason for number, reason in nodes.runtime_alone(chosen).items()}


@pytest.fixture(scope="module")
def runnable(chosen: list[int], alone: dict[str, str]) -> list[Case]:
    return [case for number in chosen if not alone[(case := nodes.cases()[number]).name]]


@pytest.fixture(scope="module")
def paths(runnable: list[Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return nodes.write_tree(tmp_path_factory.mktemp("nodes"), runnable)


@pytest.fixture(scope="module")
def nodes_server(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with all of them; those that it refuses are in its status."""
    root = next(iter(paths.values())).parents[2]
    options = ["--workers", "1", "--poll-interval", "1h", "--log", "warn"]
    with Server(tmp_path_factory.mktemp("nodes-server"), root, *options) as started:
        yield started.ready(patience=900)


@pytest.fixture(scope="module")
def findings(
    nodes_server: Server,
    runnable: list[Case],
    alone: dict[str, str],
    paths: dict[str, Path],
) -> Findings:
    found = Findings(len(alone), {name: reason for name, reason in alone.items() if reason})
    refused = rejections(nodes_server)
    for i, case in enumerate(runnable):
        if reason := case.carried():
            found.not_carried[case.name] = reason
            continue
        expected = nodes.as_carried(oracle.run(paths[case.name], case.named()))
        given = nodes.as_carried(case.named())
        found.binary[case.name] = refused.get(case.name) or ask(nodes_server, case.name, given, expected, binary=True)
        kinds = {oip.datatype(array) for array in [*given.values(), *expected.values()]}
        if i % 4 == 0 and not kinds & BINARY_ONLY and case.name not in refused and finite(given):
            found.json[case.name] = ask(nodes_server, case.name, given, expected, binary=False)
    return found


def finite(tensors: oip.Tensors) -> bool:
    """Whether JSON has a way to say all of them."""
    return all(np.isfinite(array).all() for array in tensors.values() if array.dtype.kind == "f")


def rejections(server: Server) -> dict[str, str]:
    """Why a model does not serve, by its name."""
    reasons = {}
    for model in server.ops("GET", "/status").json["models"]:
        for rejected in model.get("rejected") or []:
            reasons[model["name"]] = f"refused at {rejected['stage']}: {rejected['reason']}"
    return reasons


def ask(server: Server, name: str, given: oip.Tensors, expected: oip.Tensors, *, binary: bool) -> str:
    """Asks for all outputs and says what came."""
    if binary:
        body, headers = oip.encode_binary(given)
    else:
        body, headers = oip.encode_json(given), {"content-type": "application/json"}
    reply = server.call("POST", f"/v2/models/{name}/infer", body, headers)
    if reply.status != 200:
        return f"status {reply.status}: {reply.text[:200]}"
    try:
        _, got = oip.decode(reply.body, reply.headers)
        for output, array in expected.items():
            assert output in got, f"no output {output}"
            array = oip.as_object(array)  # noqa: PLW2901
            if binary:
                oracle.same_bits(got[output], array, output)
            else:
                same_number(got[output], array, output)
    except (AssertionError, ValueError, KeyError, TypeError) as error:
        return f"other answer: {nodes.first_line(error)}"
    return SAME


def same_number(got: np.ndarray, expected: np.ndarray, name: str) -> None:
    """JSON has one null for every number that is not finite."""
    if expected.dtype.kind == "f":
        finite = np.isfinite(expected)
        assert (np.isfinite(got) == finite).all(), f"{name}: not finite in other places"
        got, expected = np.where(finite, got, 0), np.where(finite, expected, 0)
    oracle.same_bits(got.astype(expected.dtype), expected, name)


def test_binary(findings: Findings, request: pytest.FixtureRequest) -> None:
    text = report(findings)
    print(text)  # noqa: T201  shown with a failure, or with -s
    if path := request.config.option.write_report:
        Path(path).write_text(text)
    assert findings.binary
    assert findings.share() >= LEAST, text


def test_json(findings: Findings) -> None:
    wrong = {name: outcome for name, outcome in findings.json.items() if outcome != SAME}
    assert findings.json
    assert len(wrong) <= (1 - LEAST) * len(findings.json), wrong


def test_nothing_differs(findings: Findings) -> None:
    """A model may be refused; one that serves must not give another answer than the runtime."""
    differ = {name: outcome for name, outcome in findings.binary.items() if outcome.startswith("other answer")}
    assert not differ


def test_the_server_says_why_it_refuses(findings: Findings, nodes_server: Server) -> None:
    reasons = rejections(nodes_server)
    for name in findings.not_carried:
        assert name in reasons, f"{name} has inputs or outputs that no protocol carries"


def grouped(outcomes: dict[str, str]) -> list[tuple[str, int, str]]:
    """Reasons with their counts and one example, the most frequent first; numbers and names are left out."""

    def kind(reason: str) -> str:
        reason = re.sub(r'"[^"]*"|\'[^\']*\'', "..", reason)
        return re.sub(r"\b[a-zA-Z]*\d[\w.]*", "..", reason)[:110].replace("|", "/")

    by_name = sorted(outcomes.items())
    counts = Counter(kind(reason) for _, reason in by_name)
    first = {kind(reason): name for name, reason in reversed(by_name)}
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def table(title: str, outcomes: dict[str, str]) -> str:
    rows = "".join(f"| {count} | {reason} | `{name}` |\n" for reason, count, name in grouped(outcomes))
    return f"\n## {title}\n\n| models | reason | for example |\n|---|---|---|\n{rows}" if rows else ""


def report(findings: Findings) -> str:
    """What became of all cases, as a page."""
    as_json = sum(outcome == SAME for outcome in findings.json.values())
    today = dt.datetime.now(dt.UTC).date()
    system = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    head = f"""# The onnx package's node tests

Made by `pytest server/tests/clients/test_nodes.py --all-nodes --write-report FILE` with onnx {onnx.__version__} and \
onnxruntime {onnxruntime.__version__} on {today} ({system}).

| models | |
|---|---|
| {findings.tried} | were tried |
| {findings.runs()} | ONNX Runtime alone runs with the expected answer |
| {len(findings.binary)} | of these have inputs and outputs that the protocol can carry, float8 as float16 |
| {findings.same()} | answer through the server with the same bits ({findings.share():.1%} of all that it runs) |
| {as_json} of {len(findings.json)} | of a sample of these answer in JSON with the same numbers |
"""
    rest = {name: outcome for name, outcome in findings.binary.items() if outcome != SAME}
    text = {name: outcome for name, outcome in findings.json.items() if outcome != SAME}
    head += table("Not the same through the server", rest)
    head += table("Not the same in JSON", text)
    head += table("Not carried by the protocol", findings.not_carried)
    return head + table("Not run by ONNX Runtime alone", findings.alone)
