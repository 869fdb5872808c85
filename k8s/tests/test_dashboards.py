"""Dashboards: each query of each panel, against a real Prometheus that scrapes a real onnxd under real load.

DASHBOARD_PICTURES=docs/dashboards writes the pictures there.
"""

import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

import monitoring
import panels
import pictures
import rows

BINARY = Path(os.environ.get("ONNXD_BINARY", monitoring.ROOT / "target" / "debug" / "onnxd"))
GRAFANA = monitoring.ROOT / "k8s" / "grafana"
EMPTY = {("server", "Queue", "B"): "no request was refused"}
"""Queries that rightly give nothing: dashboard, panel, query, and why."""
ELSEWHERE = "anomaly-detection"
"""Shows what collector and operator tell: `k8s/local` runs them, and asks its queries."""
QUERIES = panels.queries()
HERE = [query for query in QUERIES if query[0] != ELSEWHERE]
LOAD = 14
"""Scrapes of Locust, one a second, until there is enough to see."""
TICKS_ASIDE = 60
"""Minutes of rows that are sent beside Locust's load, so that they show."""


def load(http: str, rest: Iterator[list[dict[str, Any]]], done: Any) -> None:
    """Single rows, batches, wrong rows and labels, beside Locust, until `done`."""
    session, chance = requests.Session(), random.Random(7)

    def post(path: str, body: object, status: int = 200) -> None:
        answer = session.post(f"{http}{path}", json=body, timeout=10)
        assert answer.status_code == status, answer.text

    tensor = {"name": "features", "shape": [1, 5], "datatype": "FP32", "data": [1, 1, 1, 20, 5]}
    while not done():
        row = {f"{channel}_zscore": chance.uniform(-2, 12) for channel in rows.CHANNELS}
        post("/predict", row)
        post("/predict", [{**row, "cpu_zscore": chance.uniform(-2, 14)} for _ in range(chance.randint(2, 64))])
        post("/v2/models/anomaly/infer", {"inputs": [tensor]})
        post("/predict", {"cpu_zscore": "high"}, 422)
        if tick := next(rest, None):
            post("/predict", tick)
            of = [{"series": one["series"], "ts": one["ts"], "anomaly": one["cpu_zscore"] > 10} for one in tick]
            post("/feedback", [{**one, "source": "human"} for one in (*of, {**of[0], "series": "nobody/knows"})], 202)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[panels.View]:
    """A server with a day of evidence and half a minute of load, and Prometheus with all of it."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is missing: cargo build --package onnxd, or name one with ONNXD_BINARY")
    folder = tmp_path_factory.mktemp("dashboards")
    shutil.copytree(monitoring.ROOT / "models", folder / "models")
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
    with monitoring.process(*words, log=folder / "onnxd.log"):
        addresses = monitoring.wait_for("onnxd's ports", lambda: ports.exists() and yaml.safe_load(ports.read_text()))
        http, ops = f"http://{addresses['http']}", addresses["ops"]
        monitoring.wait_for("onnxd is ready", lambda: requests.get(f"http://{ops}/readyz", timeout=5).ok)
        models = lambda: requests.get(f"http://{ops}/status", timeout=5).json()["models"]  # noqa: E731
        monitoring.wait_for("the challenger", lambda: not any(model["trying"] for model in models()))
        session = requests.Session()
        day = list(rows.Day().ticks())
        for tick in day:
            session.post(f"{http}/predict", json=tick, timeout=10).raise_for_status()
        monitoring.write_rules(folder / "rules")
        port = monitoring.free_port()
        jobs = {"anomaly-api": ops, "locust": f"127.0.0.1:{port}"}
        settings = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules" / "*.yaml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in jobs.items()
            ],
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
            more = iter([[{**row, "ts": row["ts"] + 60 * len(day)} for row in tick] for tick in day[:TICKS_ASIDE]])
            load(http, more, lambda: time.time() > end or scrapes_of(users) > LOAD)
            assert scrapes_of(users) > LOAD, (folder / "locust.log").read_text()
            values = {"$__rate_interval": "10s", "$__range": "1h", "$model": "anomaly"}
            values["$instance"] = re.escape(ops).replace("\\", "\\\\")
            yield panels.View(url, began, time.time(), values)


@pytest.mark.parametrize("query", HERE, ids=panels.identity)
def test_every_query_gives_something(stage: panels.View, query: panels.Query) -> None:
    name, panel, target = query
    lines = stage.ask(panel, target)
    if reason := EMPTY.get((name, panel["title"], target["refId"])):
        assert not lines, f"it is said to be empty because {reason}"
    else:
        assert lines


@pytest.mark.parametrize("name", sorted(panels.dashboards().keys() - {ELSEWHERE}))
def test_every_dashboard_can_be_drawn(stage: panels.View, name: str, tmp_path: Path) -> None:
    dashboard = panels.dashboards()[name]
    found = {p["id"]: [line for t in p.get("targets", []) for line in stage.ask(p, t)] for p in dashboard["panels"]}
    file = Path(os.environ.get("DASHBOARD_PICTURES", tmp_path)) / f"{name}.png"
    pictures.draw(dashboard, found, file)
    assert file.stat().st_size > 50_000


@pytest.mark.parametrize("query", QUERIES, ids=panels.identity)
def test_queries_name_metrics_that_exist(query: panels.Query) -> None:
    expression = query[2]["expr"].replace("$__rate_interval", "1m").replace("$__range", "1m")
    assert monitoring.metrics_in(expression) - monitoring.known_metrics() == set()


@pytest.mark.parametrize("name", panels.dashboards())
def test_dashboards_are_as_grafana_wants_them(name: str) -> None:
    """Ids are unique, panels do not lie over each other, all have a unit and a description, variables are there."""
    dashboard = panels.dashboards()[name]
    assert dashboard["uid"] == f"onnxd-{name}"
    shown = dashboard["panels"]
    assert len({panel["id"] for panel in shown}) == len(shown)
    taken: set[tuple[int, int]] = set()
    for panel in shown:
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
    used = {name for panel in shown for t in panel.get("targets", []) for name in re.findall(r"\$(\w+)", t["expr"])}
    assert used <= variables
    assert variables - {"datasource", "__rate_interval", "__range"} <= used


def test_kustomize_gives_what_the_sidecar_looks_for() -> None:
    done = monitoring.run("kubectl", "kustomize", GRAFANA)
    made = {d["metadata"]["name"]: d for d in yaml.safe_load_all(done.stdout)}
    sidecar = yaml.safe_load((GRAFANA / "values.yaml").read_text())["sidecar"]
    for kind, name in (("dashboards", "onnxd-dashboards"), ("datasources", "prometheus-datasource")):
        assert made[name]["metadata"]["labels"] == {sidecar[kind]["label"]: sidecar[kind]["labelValue"]}
    assert set(made["onnxd-dashboards"]["data"]) == {f"{name}.json" for name in panels.dashboards()}
    (source,) = yaml.safe_load((GRAFANA / "datasource.yaml").read_text())["datasources"]
    values = yaml.safe_load((monitoring.ROOT / "k8s" / "prometheus" / "values.yaml").read_text())
    assert source["url"] == "http://prometheus-kube-prometheus-prometheus.monitoring.svc:9090"
    assert source["jsonData"]["timeInterval"] == values["prometheus"]["prometheusSpec"]["scrapeInterval"]


def test_dashboards_link_to_the_runbook_that_alerts_link_to() -> None:
    made = yaml.safe_load((monitoring.MONITORING / "kustomization.yaml").read_text())
    (literal,) = made["configMapGenerator"][0]["literals"]
    for dashboard in panels.dashboards().values():
        assert dashboard["links"][0]["url"] == literal.removeprefix("url=")
