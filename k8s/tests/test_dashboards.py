"""Dashboards: each query of each panel, against a real Prometheus that scrapes a real onnxd under real load.

`fleet.Fleet` stands in for collector and operator. DASHBOARD_PICTURES=docs/dashboards writes the pictures there.
"""

import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

import fleet
import monitoring
import pictures

BINARY = Path(os.environ.get("ONNXD_BINARY", monitoring.ROOT / "target" / "debug" / "onnxd"))
GRAFANA = monitoring.ROOT / "k8s" / "grafana"
EMPTY = {("server", "Queue", "B"): "no request was refused"}
"""Queries that rightly give nothing: dashboard, panel, query, and why."""
QUERIES = [
    (name, panel, target)
    for name, dashboard in monitoring.dashboards().items()
    for panel in dashboard["panels"]
    for target in panel.get("targets", [])
]
LOAD = 14
"""Scrapes of Locust, one a second, until there is enough to see."""
TICKS_ASIDE = 60
"""Minutes of the fleet that are sent beside Locust's load, so that they show."""


def identity(query: tuple[str, dict[str, Any], dict[str, Any]]) -> str:
    """A query's name in the tests' output."""
    name, panel, target = query
    return f"{name}-{panel['title']}-{target['refId']}"


@dataclass
class Stage:
    """Where to ask, and for what time: the whole of the load, and the end of it."""

    url: str
    began: float
    ended: float
    instance: str

    def ask(self, dashboard: str, panel: dict[str, Any], target: dict[str, Any]) -> list[pictures.Line]:
        """What a panel's query gives, with Grafana's variables in their place."""
        long = dashboard == "anomaly-detection"
        expression = target["expr"]
        values = {"$__rate_interval": "5m" if long else "10s", "$__range": "1h", "$model": "anomaly"}
        values |= {"$series": ".+", "$instance": re.escape(self.instance).replace("\\", "\\\\")}
        for name, value in values.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, expression
        now = panel["type"] in {"stat", "table"}
        begin = self.ended - 60 * fleet.SHOWN if long else self.began
        form = (
            {"query": expression, "time": self.ended}
            if now
            else {"query": expression, "start": begin, "end": self.ended, "step": 60 if long else 1}
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


def legend(target: dict[str, Any], labels: dict[str, str]) -> str:
    """A series' name, as Grafana makes it of `legendFormat`."""
    if not (form := target.get("legendFormat")):
        return ", ".join(f"{name} {value}" for name, value in labels.items())
    for name in re.findall(r"\{\{(\w+)\}\}", form):
        assert name in labels, f"{form}: no label {name} in {labels}"
        form = form.replace("{{" + name + "}}", labels[name])
    return form


def load(http: str, rest: Iterator[list[dict[str, Any]]], done: Any) -> None:
    """Single rows, batches, wrong rows and labels, beside Locust, until `done`."""
    session, chance = requests.Session(), random.Random(7)

    def post(path: str, body: object, status: int = 200) -> None:
        answer = session.post(f"{http}{path}", json=body, timeout=10)
        assert answer.status_code == status, answer.text

    tensor = {"name": "features", "shape": [1, 5], "datatype": "FP32", "data": [1, 1, 1, 20, 5]}
    while not done():
        row = {f"{channel}_zscore": chance.uniform(-2, 12) for channel in fleet.CHANNELS}
        post("/predict", row)
        post("/predict", [{**row, "cpu_zscore": chance.uniform(-2, 14)} for _ in range(chance.randint(2, 64))])
        post("/v2/models/anomaly/infer", {"inputs": [tensor]})
        post("/predict", {"cpu_zscore": "high"}, 422)
        if rows := next(rest, None):
            post("/predict", rows)
            of = [{"series": one["series"], "ts": one["ts"], "anomaly": one["cpu_zscore"] > 10} for one in rows]
            post("/feedback", [{**one, "source": "human"} for one in (*of, {**of[0], "series": "nobody/knows"})], 202)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server with a day of evidence and half a minute of load, and Prometheus with all of it."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is missing: cargo build --package onnxd, or name one with ONNXD_BINARY")
    folder = tmp_path_factory.mktemp("dashboards")
    shutil.copytree(monitoring.ROOT / "models", folder / "models")
    people = fleet.Fleet()
    ports = folder / "ports.json"
    words = [
        BINARY,
        "serve",
        folder / "models",
        "--http",
        "127.0.0.1:0",
        "--ops",
        "127.0.0.1:0",
        "--grpc",
        "off",
        "--ports-file",
        ports,
    ]
    words += ["--state", "off", "--event-time", "--verdict-interval", "1s", "--shadow-cpu", "1"]
    exporter = monitoring.serving(lambda *_: (200, people.page()))
    with monitoring.process(*words, log=folder / "onnxd.log"):
        addresses = monitoring.wait_for("onnxd's ports", lambda: ports.exists() and yaml.safe_load(ports.read_text()))
        http, ops = f"http://{addresses['http']}", addresses["ops"]
        monitoring.wait_for("onnxd is ready", lambda: requests.get(f"http://{ops}/readyz", timeout=5).ok)
        session = requests.Session()
        rows = list(people.ticks())
        people.answers = [session.post(f"{http}/predict", json=tick, timeout=10).json() for tick in rows]
        with exporter as told:
            target = told.removeprefix("http://")
            (folder / "history.txt").write_text(people.history(f'job="fleet",instance="{target}"'))
            done = monitoring.run(
                "promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "history.txt", folder / "data"
            )
            assert done.returncode == 0, done.stdout + done.stderr
            monitoring.write_rules(folder / "rules")
            port = monitoring.free_port()
            jobs = {"anomaly-api": ops, "fleet": target, "locust": f"127.0.0.1:{port}"}
            scrapes = [
                {"job_name": job, "honor_labels": True, "static_configs": [{"targets": [address]}]}
                for job, address in jobs.items()
            ]
            settings = {
                "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(folder / "rules" / "*.yaml")],
                "scrape_configs": scrapes,
            }
            locust = [
                sys.executable,
                "-m",
                "locust",
                "--locustfile",
                monitoring.ROOT / "benches" / "locust" / "locustfile.py",
            ]
            locust += ["--host", http, "--metrics-port", port, "--headless", "--users", 20, "--spawn-rate", 20]
            locust += ["--burst-after", 5, "--burst-seconds", 6, "--run-time", "60s"]
            with monitoring.prometheus(folder, settings) as url, monitoring.process(*locust, log=folder / "locust.log"):

                def scrapes_of(series: str) -> float:
                    query = {"query": f"sum(count_over_time({series}[1m]))"}
                    found = requests.get(f"{url}/api/v1/query", params=query, timeout=5).json()["data"]["result"]
                    return float(found[0]["value"][1]) if found else 0

                monitoring.wait_for("Prometheus has the server", lambda: scrapes_of("onnxd_ready"))
                began, users = time.time(), 'locust_users{kind="OrdinaryPod"}'
                end = began + monitoring.PATIENCE
                more = iter(
                    [[{**row, "ts": row["ts"] + 60 * len(rows)} for row in tick] for tick in rows[:TICKS_ASIDE]]
                )
                load(http, more, lambda: time.time() > end or scrapes_of(users) > LOAD)
                assert scrapes_of(users) > LOAD, (folder / "locust.log").read_text()
                yield Stage(url, began, time.time(), ops)


@pytest.mark.parametrize("query", QUERIES, ids=identity)
def test_every_query_gives_something(stage: Stage, query: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    name, panel, target = query
    lines = stage.ask(name, panel, target)
    if reason := EMPTY.get((name, panel["title"], target["refId"])):
        assert not lines, f"it is said to be empty because {reason}"
    else:
        assert lines


@pytest.mark.parametrize("name", monitoring.dashboards())
def test_every_dashboard_can_be_drawn(stage: Stage, name: str, tmp_path: Path) -> None:
    dashboard = monitoring.dashboards()[name]
    found = {
        p["id"]: [line for t in p.get("targets", []) for line in stage.ask(name, p, t)] for p in dashboard["panels"]
    }
    folder = Path(os.environ.get("DASHBOARD_PICTURES", tmp_path))
    pictures.draw(dashboard, found, folder / f"{name}.png")
    assert (folder / f"{name}.png").stat().st_size > 50_000


@pytest.mark.parametrize("query", QUERIES, ids=identity)
def test_queries_name_metrics_that_exist(query: tuple[str, dict[str, Any], dict[str, Any]]) -> None:
    expression = query[2]["expr"].replace("$__rate_interval", "1m").replace("$__range", "1m")
    assert monitoring.metrics_in(expression) - monitoring.known_metrics() == set()


@pytest.mark.parametrize("name", monitoring.dashboards())
def test_dashboards_are_as_grafana_wants_them(name: str) -> None:
    """Ids are unique, panels do not lie over each other, all have a unit and a description, variables are there."""
    dashboard = monitoring.dashboards()[name]
    assert dashboard["uid"] == f"onnxd-{name}"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["targets"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in dashboard["templating"]["list"]} | {"__rate_interval", "__range"}
    used = {name for panel in panels for t in panel.get("targets", []) for name in re.findall(r"\$(\w+)", t["expr"])}
    assert used <= variables
    assert variables - {"datasource", "__rate_interval", "__range"} <= used


def test_kustomize_gives_what_the_sidecar_looks_for() -> None:
    done = monitoring.run("kubectl", "kustomize", GRAFANA)
    made = {d["metadata"]["name"]: d for d in yaml.safe_load_all(done.stdout)}
    sidecar = yaml.safe_load((GRAFANA / "values.yaml").read_text())["sidecar"]
    for kind, name in (("dashboards", "onnxd-dashboards"), ("datasources", "prometheus-datasource")):
        assert made[name]["metadata"]["labels"] == {sidecar[kind]["label"]: sidecar[kind]["labelValue"]}
    assert set(made["onnxd-dashboards"]["data"]) == {f"{name}.json" for name in monitoring.dashboards()}
    (source,) = yaml.safe_load((GRAFANA / "datasource.yaml").read_text())["datasources"]
    values = yaml.safe_load((monitoring.ROOT / "k8s" / "prometheus" / "values.yaml").read_text())
    assert source["url"] == "http://prometheus-kube-prometheus-prometheus.monitoring.svc:9090"
    assert source["jsonData"]["timeInterval"] == values["prometheus"]["prometheusSpec"]["scrapeInterval"]


def test_dashboards_link_to_the_runbook_that_alerts_link_to() -> None:
    made = yaml.safe_load((monitoring.MONITORING / "kustomization.yaml").read_text())
    (literal,) = made["configMapGenerator"][0]["literals"]
    for dashboard in monitoring.dashboards().values():
        assert dashboard["links"][0]["url"] == literal.removeprefix("url=")
