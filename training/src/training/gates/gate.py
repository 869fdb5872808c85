"""A gate's finding, and what all gates look at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.config import Config
from training.data.days import Day
from training.features import Table
from training.model import Outputs, Rows
from training.pipeline.compare import Compared
from training.pipeline.repository import Stored
from training.report import markdown


@dataclass(frozen=True)
class Finding:
    """What one gate found.

    Attributes:
        gate: `G1` to `G11`.
        name: What it is about.
        passed: Whether the candidate may go on.
        found: What was measured, with its limits, a sentence each; what failed first.
    """

    gate: str
    name: str
    passed: bool
    found: tuple[str, ...]


@dataclass(frozen=True)
class Check:
    """One condition of a gate: what was measured, and whether it is good enough."""

    holds: bool
    text: str


def finding(gate: str, name: str, checks: Sequence[Check]) -> Finding:
    """The finding of a gate: it passes when all its checks hold."""
    ordered = sorted(checks, key=lambda check: check.holds)
    told = tuple(check.text if check.holds else f"FAILED: {check.text}" for check in ordered)
    return Finding(gate, name, all(check.holds for check in checks), told)


@dataclass(frozen=True)
class Case:
    """A candidate at the gates.

    Attributes:
        recipe: Its name in `RECIPES`.
        onnx: The graph's file.
        manifest: Its manifest.
        rows: float32 [M, 5], rows that the graph must survive.
        expected: The training-side model's answers to them.
        train: Rows that it was trained on.
        days: The test days.
        tables: Their rows, by day.
        compared: Its answers to them.
        champion: The champion's files, and its answers to the test days; None where there is none.
        champion_compared: Its answers; None also where it takes other inputs.
        differences: Candidate less champion, by metric: point, low, high.
        provenance: What is known of where it comes from.
        config: All parameters.
    """

    recipe: str
    onnx: bytes
    manifest: Mapping[str, Any]
    rows: Rows
    expected: Outputs
    train: Table
    days: Sequence[Day]
    tables: Mapping[str, Table]
    compared: Compared
    champion: Stored | None
    champion_compared: Compared | None
    differences: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, Any]
    config: Config


def text(findings: Sequence[Finding]) -> str:
    """The findings for people, in markdown: a table, then what each gate measured."""
    body = [[f"{one.gate} {one.name}", "passed" if one.passed else "FAILED", one.found[0]] for one in findings]
    failed = [one.gate for one in findings if not one.passed]
    head = f"Stopped by {', '.join(failed)}." if failed else "Every gate is passed."
    lines = ["# Gates", "", head, "", markdown(["gate", "", "first of all"], body)]
    for one in findings:
        lines += ["", f"## {one.gate} {one.name}", *(f"- {found}" for found in one.found)]
    return "\n".join(lines) + "\n"
