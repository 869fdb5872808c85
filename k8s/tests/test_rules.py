"""Rules and alerts: promtool's own tests, and that none is without a test, a runbook and metrics that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import monitoring

RUNBOOK = monitoring.ROOT / "docs" / "operations.md"
ALWAYS = {"Watchdog"}
"""Alerts that never resolve."""


@pytest.fixture(scope="module")
def tests() -> list[dict[str, Any]]:
    """Every test of promtool."""
    files = sorted((monitoring.MONITORING / "tests").glob("*.yaml"))
    return [test for file in files for test in yaml.safe_load(file.read_text())["tests"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rules and tests side by side, as promtool reads them."""
    folder = tmp_path_factory.mktemp("promtool")
    monitoring.write_rules(folder / "rules")
    (folder / "tests").symlink_to(monitoring.MONITORING / "tests")
    return folder


def test_promtool_finds_nothing_wrong(folder: Path) -> None:
    done = monitoring.run("promtool", "check", "rules", "--lint-fatal", *sorted(folder.glob("rules/*.yaml")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [file.name for file in sorted((monitoring.MONITORING / "tests").glob("*.yaml"))])
def test_rules_do_what_their_tests_say(folder: Path, name: str) -> None:
    done = monitoring.run("promtool", "test", "rules", f"tests/{name}", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_before_while_and_after(tests: list[dict[str, Any]]) -> None:
    """One evaluation before it fires, when it fires, and when it is over."""
    complete = set()
    for test in tests:
        for name in {case["alertname"] for case in test.get("alert_rule_test", [])}:
            fires = [bool(c.get("exp_alerts")) for c in test["alert_rule_test"] if c["alertname"] == name]
            if fires == [False, True, False] or name in ALWAYS:
                complete.add(name)
    assert {alert["alert"] for alert in monitoring.alerts()} - complete == set()


def test_every_recording_rule_is_tested_with_numbers(tests: list[dict[str, Any]]) -> None:
    cases = [case for test in tests for case in test.get("promql_expr_test", []) if case.get("exp_samples")]
    tested = {name for case in cases for name in monitoring.metrics_in(case["expr"])}
    assert {rule["record"] for rule in monitoring.recordings()} - tested == set()


@pytest.mark.parametrize("alert", monitoring.alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    """A severity that a route knows, a message, and a heading of the runbook that is there."""
    assert alert["labels"]["severity"] in {"critical", "warning", "info", "none"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    anchor = alert["alert"].lower()
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{anchor}"
    headings = [heading.lower() for heading in re.findall(r"^#+ (\w+)$", RUNBOOK.read_text(), re.MULTILINE)]
    assert anchor in headings, f"docs/operations.md has no heading {alert['alert']}"


def test_the_runbook_tells_of_no_alert_that_is_not_there() -> None:
    told = re.findall(r"^### (\w+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert set(told) == {alert["alert"] for alert in monitoring.alerts()}
    assert len(told) == len(set(told))


@pytest.mark.parametrize(
    "rule", [*monitoring.alerts(), *monitoring.recordings()], ids=lambda rule: rule.get("alert") or rule["record"]
)
def test_rules_name_metrics_that_exist(rule: dict[str, Any]) -> None:
    assert monitoring.metrics_in(rule["expr"]) - monitoring.known_metrics() == set()


def test_the_metrics_of_an_expression_are_found() -> None:
    """The tests above rest on it."""
    text = 'sum by (a) (rate(x_total{b="c{d"}[5m] offset 1h)) / on (job) group_left () y:z > 0.5 or -vector(1) unless on (i) w'  # noqa: E501 - one line
    assert monitoring.metrics_in(text) == {"x_total", "y:z", "w"}


def test_the_programs_give_the_metrics_that_are_listed_here() -> None:
    """Names in the sources of collector and operator are those that rules and panels may name."""
    for crate, listed in (("collector", monitoring.COLLECTOR), ("operator", monitoring.OPERATOR)):
        source = monitoring.ROOT / "k8s" / crate / "src" / "metrics.rs"
        if not source.exists():
            pytest.skip(f"{source} is not there yet")
        found = set(re.findall(r'"((?:anomaly|collector|remediation)_\w+)"', source.read_text()))
        assert found == listed


def test_channels_are_asked_for_as_training_and_collector_ask() -> None:
    """Else models would be trained on other numbers than alerts and dashboards show."""
    recorded = {rule["record"]: " ".join(rule["expr"].split()) for rule in monitoring.recordings()}
    text = (monitoring.ROOT / "training" / "src" / "training" / "data" / "prometheus.py").read_text()
    names: dict[str, str] = {}
    for line in re.findall(r"^(?:BY|LIMITS|CPU|MEMORY|DISK_IO) = .*$", text, re.MULTILINE):
        exec(line, names)
    ours = {"cpu": "anomaly:cpu_percent", "memory": "anomaly:memory_percent", "disk_io": "anomaly:disk_io"}
    for channel, record in ours.items():
        assert recorded[record].startswith(f"{names[channel.upper()]} or ")
    sources = monitoring.ROOT / "k8s" / "collector" / "src" / "sources.toml"
    if sources.exists():
        for channel, record in ours.items():
            asked = re.findall(rf"^{channel} = '''(.*)'''$", sources.read_text(), re.MULTILINE)
            assert recorded[record].replace(", node!", ",node!") == " or ".join(asked)


@pytest.mark.skipif(
    not monitoring.SCHEMAS.exists(), reason="the schemas of the Prometheus Operator are not on this machine"
)
def test_what_kustomize_makes_is_what_the_operator_takes() -> None:
    done = monitoring.run("kubectl", "kustomize", monitoring.MONITORING)
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    schema = json.loads((monitoring.SCHEMAS / "prometheusrule-monitoring.coreos.com-v1.json").read_text())
    made = [document for document in documents if document["kind"] == "PrometheusRule"]
    assert len(made) == len(monitoring.rules())
    for document in made:
        assert not [error.message for error in Draft202012Validator(schema).iter_errors(document)]


@pytest.mark.skipif(
    not monitoring.SCHEMAS.exists(), reason="the schemas of the Prometheus Operator are not on this machine"
)
@pytest.mark.parametrize("kind", ["prometheus", "alertmanager"])
def test_the_values_of_the_stack_are_what_the_operator_takes(kind: str) -> None:
    """Its chart writes them into these resources, but for a few keys of its own."""
    values = yaml.safe_load((monitoring.ROOT / "k8s" / "prometheus" / "values.yaml").read_text())
    spec = values[kind][f"{kind}Spec"]
    schema = json.loads((monitoring.SCHEMAS / f"{kind}-monitoring.coreos.com-v1.json").read_text())
    own = {"useExistingSecret", "storageSpec", *(key for key in spec if key.endswith("NilUsesHelmValues"))}
    document = {"kind": kind.capitalize(), "spec": {key: value for key, value in spec.items() if key not in own}}
    assert not [error.message for error in Draft202012Validator(schema).iter_errors(document)]


def test_kustomize_writes_the_address_of_the_runbook() -> None:
    """The one place that names it is the kustomization."""
    done = monitoring.run("kubectl", "kustomize", monitoring.MONITORING)
    documents = list(yaml.safe_load_all(done.stdout))
    (runbook,) = [d["data"]["url"] for d in documents if d["kind"] == "ConfigMap"]
    assert runbook.startswith("https://")
    assert runbook.endswith("/docs/operations.md")
    groups = [group for d in documents if d["kind"] == "PrometheusRule" for group in d["spec"]["groups"]]
    links = {r["alert"]: r["annotations"]["runbook_url"] for g in groups for r in g["rules"] if "alert" in r}
    assert links == {alert["alert"]: f"{runbook}#{alert['alert'].lower()}" for alert in monitoring.alerts()}
