"""What a dashboard's panels show: their queries, asked of a Prometheus as Grafana asks them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

import pictures

DASHBOARDS = Path(__file__).resolve().parents[1] / "grafana" / "dashboards"
Query = tuple[str, dict[str, Any], dict[str, Any]]
"""The dashboard's name, the panel, and the query in it."""


def dashboards() -> dict[str, dict[str, Any]]:
    """The dashboards by the name of their file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def queries() -> list[Query]:
    """Every query of every panel."""
    return [
        (name, panel, target)
        for name, dashboard in dashboards().items()
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    ]


def identity(query: Query) -> str:
    """A query's name in the tests' output."""
    name, panel, target = query
    return f"{name}-{panel['title']}-{target['refId']}"


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """A series' name, as Grafana makes it of `legendFormat`."""
    if not (form := target.get("legendFormat")):
        return ", ".join(f"{name} {value}" for name, value in labels.items())
    for name in re.findall(r"\{\{(\w+)\}\}", form):
        assert name in labels, f"{form}: no label {name} in {labels}"
        form = form.replace("{{" + name + "}}", labels[name])
    return form


@dataclass(frozen=True)
class View:
    """Where to ask, and for what time.

    Attributes:
        url: Prometheus' address.
        began: Unix seconds, as `ended`.
        values: What Grafana's variables stand for, by name.
    """

    url: str
    began: float
    ended: float
    values: dict[str, str]

    def ask(self, panel: dict[str, Any], target: dict[str, Any]) -> list[pictures.Line]:
        """What a panel's query gives: its last value for numbers and tables, else one a second."""
        expression = target["expr"]
        for name, value in self.values.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, expression
        now = panel["type"] in {"stat", "table"}
        form = (
            {"query": expression, "time": self.ended}
            if now
            else {"query": expression, "start": self.began, "end": self.ended, "step": 1}
        )
        answer = requests.post(f"{self.url}/api/v1/{'query' if now else 'query_range'}", data=form, timeout=30).json()
        assert answer["status"] == "success", (expression, answer)
        lines = []
        for result in answer["data"]["result"]:
            samples = [result["value"]] if now else result["values"]
            finite = [(float(at), float(value)) for at, value in samples if value not in ("NaN", "+Inf", "-Inf")]
            if finite:
                lines.append(pictures.Line(legend(target, result["metric"]), *map(list, zip(*finite, strict=True))))
        return lines
