"""The loop of the runbook and the chaos, with real processes, and what they rest on.

DASHBOARD_PICTURES=docs/dashboards writes there what the dashboard Anomaly Detection shows of the loop.
"""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from rich.console import Console

import panels
import pictures
from local import chaos, loop
from local.__main__ import SYNTHETIC
from local.cluster import ASSETS, assets
from local.fleet import Fleet
from local.monitoring import ALERTMANAGERS, faster, seconds

monitored = pytest.mark.skipif(
    not shutil.which("prometheus") or not any(map(shutil.which, ALERTMANAGERS)),
    reason="Prometheus or Alertmanager is not installed: apt-get install prometheus prometheus-alertmanager",
)
clustered = pytest.mark.skipif(
    assets() is None, reason=f"no API server: make kubernetes, or {ASSETS}; apt-get install etcd-server"
)


DASHBOARD = "anomaly-detection"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The loop: its outcome, its folder, and the lines that each query of the dashboard gave at its end."""
    folder = tmp_path_factory.mktemp("loop") / "work"
    began, lines = time.time(), {}

    def ask(stage):
        values = {"$__rate_interval": f"{5 * loop.MINUTE}s", "$series": ".+"}
        view = panels.View(stage.monitoring.prometheus, began, time.time(), values)
        for name, panel, target in panels.queries():
            if name == DASHBOARD:
                lines[panel["id"], target["refId"]] = view.ask(panel, faster(target, loop.FASTER))

    outcome = loop.run(SYNTHETIC, folder, Console(stderr=True), at_end=ask)
    return outcome, folder, lines


@monitored
@clustered
def test_a_fault_is_seen_told_mended_and_over(told):
    found, folder, _ = told
    steps = ("z-score", "anomaly", "alert", "slack", "pagerduty", "evicted", "replaced", "cleared", "resolved")
    assert tuple(found.times) == steps
    assert found.untouched, "a pod that was well was touched"
    assert found.replacement != found.victim
    assert [(a["action"], a["outcome"]) for a in found.actions] == [("Evict", "Done")]
    assert found.victim in found.actions[0]["target"]
    assert list((folder / "rows").rglob("*.parquet")), "the collector wrote no rows"


@monitored
@clustered
def test_the_dashboard_shows_all_of_it(told, tmp_path):
    found, _, lines = told
    dashboard = panels.dashboards()[DASHBOARD]
    shown = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            given = lines[panel["id"], target["refId"]]
            assert given, f"{panel['title']}, {target['refId']}: nothing"
            shown.setdefault(panel["title"], []).extend(given)
    (decisions,) = [line for line in shown["Decisions"] if found.victim in line.name]
    assert max(decisions.values) == 1
    assert any(line.name == "evict done" and max(line.values) > 0 for line in shown["Actions"]), shown["Actions"]
    file = Path(os.environ.get("DASHBOARD_PICTURES", tmp_path)) / f"{DASHBOARD}.png"
    pictures.draw(dashboard, {p["id"]: shown.get(p["title"], []) for p in dashboard["panels"]}, file)
    assert file.stat().st_size > 50_000


@monitored
def test_no_request_is_lost_to_chaos_and_alerts_come_and_go(tmp_path):
    deleted, killed, slow, without_s3 = chaos.run(tmp_path / "work", Console(stderr=True))
    assert [one.lost for one in (deleted, killed, slow, without_s3)] == [0, 0, 0, 0]
    assert deleted.broken == 0, deleted.faults
    # What was on the killed process breaks: one request of each client at most.
    assert killed.broken <= chaos.CLIENTS, killed.faults
    assert slow.broken == without_s3.broken == 0
    # Held up both ways, and answered for all that.
    assert slow.p50 >= 2 * 1000 * chaos.SLOW
    assert min(one.requests for one in (deleted, killed, slow, without_s3)) > chaos.CLIENTS
    assert all(one.fired > 0 for one in (deleted, killed, without_s3))


def test_the_recorded_faults_are_those_that_cpu_shows():
    calm, fault = loop.recordings(SYNTHETIC)
    assert all(len(one) >= loop.LEAST for one in calm)
    assert fault.shape[1] == 3
    assert fault[:, 0].min() > np.median([one[:, 0].mean() for one in calm])


def test_time_runs_faster_in_rules_and_routes_and_nowhere_else():
    rules = {
        "interval": "1m",
        "rules": [
            {
                "alert": "A",
                "expr": "rate(x[2m]) > 300 and x offset 1h > 1",
                "for": "1m",
                "annotations": {"x": "for 5m"},
            },
            {"alert": "B", "expr": "time() - x_seconds > 300"},
        ],
    }
    assert faster(rules, 30) == {
        "interval": "2000ms",
        "rules": [
            {
                "alert": "A",
                "expr": "rate(x[4000ms]) > 300 and x offset 120000ms > 1",
                "for": "2000ms",
                "annotations": {"x": "for 5m"},
            },
            {"alert": "B", "expr": "time() - x_seconds > 10"},
        ],
    }
    assert seconds("1h30m") == 5400


def test_a_fleet_counts_what_its_pods_use_and_forgets_pods_that_are_gone():
    calm = np.array([[50.0, 20.0, 4.0]])
    pods = ["a", "b"]
    with Fleet([calm], 1000.0, lambda: pods, "shop") as fleet:
        first = _read(fleet)
        second = _read(fleet)
        labels = 'namespace="shop",pod="a",container="main"'
        assert first[f'kube_pod_container_resource_limits{{{labels},resource="cpu"}}'] == 1
        assert first[f"container_memory_working_set_bytes{{{labels}}}"] == pytest.approx(0.2 * 512 * 2**20)
        cpu, reads = f"container_cpu_usage_seconds_total{{{labels}}}", f"container_fs_reads_total{{{labels}}}"
        used = second[cpu] - first[cpu]
        # Two operations a second are reads, half a core is used: whatever time has passed.
        assert second[reads] - first[reads] == pytest.approx(4 * used, abs=1e-5)
        pods.remove("a")
        assert not any('pod="a"' in name for name in _read(fleet))


def _read(fleet):
    text = requests.get(f"http://{fleet.address}/metrics", timeout=5).text
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}
