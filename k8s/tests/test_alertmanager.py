"""Alertmanager: its file, and what really arrives at Slack, PagerDuty and the operator.

The receivers here take what theirs do: an incoming webhook of Slack, PagerDuty's Events API v2, the operator's webhook.
Rules and routes are the real ones; only time is compressed: what should last a minute lasts a second.
"""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

import monitoring

FILE = monitoring.MONITORING / "alertmanager" / "alertmanager.yml"
FASTER = 60
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RECEIVERS = "/etc/alertmanager/secrets/alertmanager-receivers"
TEMPLATES = "/etc/alertmanager/config/*.tmpl"
OPERATOR = "http://remediation-operator.ml.svc:8084/alerts"


def seconds(duration: str) -> int:
    """`5m` as seconds."""
    return int(duration[:-1]) * UNITS[duration[-1]]


def shortened(duration: str) -> str:
    """A part of a duration, a second at least."""
    return f"{max(1, seconds(duration) // FASTER)}s"


def expected_receivers(alert: dict[str, Any]) -> set[str]:
    """To whom docs/operations.md says that an alert goes."""
    severity = alert["labels"]["severity"]
    if alert["alert"] == "Watchdog":
        return {"nobody"}
    found = {"slack"}
    if severity == "critical":
        found |= {"pagerduty"}
    if alert["alert"] == "AnomalyDetected":
        found |= {"pagerduty", "remediation-operator"}
    return found


def test_amtool_takes_the_file() -> None:
    done = monitoring.run("amtool", "check-config", FILE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", monitoring.alerts(), ids=lambda alert: alert["alert"])
def test_routes(alert: dict[str, Any]) -> None:
    labels = {"alertname": alert["alert"], **alert["labels"]}
    words = [f"{name}={value}" for name, value in labels.items()]
    done = monitoring.run("amtool", "config", "routes", "test", "--config.file", FILE, *words)
    assert set(done.stdout.strip().split(",")) == expected_receivers(alert), done.stderr


def test_inhibitions_name_alerts_that_exist() -> None:
    """A name that was changed in the rules only would inhibit nothing, silently."""
    ours = {alert["alert"] for alert in monitoring.alerts()}
    for rule in yaml.safe_load(FILE.read_text())["inhibit_rules"]:
        for matcher in [*rule["source_matchers"], *rule["target_matchers"]]:
            if matcher.startswith("alertname"):
                names = matcher.split("~")[-1].split("=")[-1].strip(' "').split("|")
                for name in names:
                    prefix = name.removesuffix(".*")
                    assert name == "InfoInhibitor" or any(
                        a == name or (a.startswith(prefix) and prefix != name) for a in ours
                    ), name


def test_the_operator_is_told_again_within_its_memory() -> None:
    """It forgets what it was not told for 15 minutes."""
    routes = yaml.safe_load(FILE.read_text())["route"]["routes"]
    (route,) = [route for route in routes if route["receiver"] == "remediation-operator"]
    assert seconds(route["repeat_interval"]) + seconds(route["group_interval"]) < 15 * 60 / 2


def test_no_secret_stands_in_the_file() -> None:
    text = FILE.read_text()
    for key in ("api_url:", "routing_key:", "service_key:", "credentials:", "password:", "bearer_token:"):
        assert key not in text


def test_what_kustomize_makes_is_the_same_file() -> None:
    """The Secret that the stack's values name holds this file and the templates, by the right names."""
    done = monitoring.run("kubectl", "kustomize", monitoring.MONITORING)
    (secret,) = [d for d in yaml.safe_load_all(done.stdout) if d["kind"] == "Secret"]
    values = yaml.safe_load((monitoring.ROOT / "k8s" / "prometheus" / "values.yaml").read_text())
    spec = values["alertmanager"]["alertmanagerSpec"]
    assert spec["configSecret"] == secret["metadata"]["name"]
    assert spec["useExistingSecret"] is True
    assert set(secret["data"]) == {"alertmanager.yaml", "onnxd.tmpl"}
    assert spec["secrets"] == [Path(RECEIVERS).name]


@dataclass
class Receivers:
    """What came to each of the three, in order: headers and JSON."""

    messages: dict[str, list[tuple[dict[str, str], dict[str, Any]]]] = field(
        default_factory=lambda: {"slack": [], "pagerduty": [], "operator": []}
    )
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str]:
        """Takes a message as its receiver does."""
        kind = request.path.strip("/").split("/")[0]
        with self.lock:
            self.messages[kind].append(({k.lower(): v for k, v in request.headers.items()}, json.loads(body)))
        return {
            "slack": (200, "ok"),
            "pagerduty": (202, '{"status":"success","dedup_key":"x"}'),
            "operator": (202, ""),
        }[kind]

    def bodies(self, kind: str) -> list[dict[str, Any]]:
        """What came to one of them."""
        with self.lock:
            return [body for _, body in self.messages[kind]]

    def slack(self, *words: str) -> list[dict[str, Any]]:
        """Attachments in which all the words stand."""
        found = [body["attachments"][0] for body in self.bodies("slack")]
        return [one for one in found if all(word in one["title"] + one["text"] for word in words)]

    def pages(self, action: str, *words: str) -> list[dict[str, Any]]:
        """Events of PagerDuty of an action in whose summary all the words stand."""
        found = [body for body in self.bodies("pagerduty") if body["event_action"] == action]
        return [body for body in found if all(word in body["payload"]["summary"] for word in words)]

    def told(self, status: str, series: str) -> list[dict[str, Any]]:
        """Alerts that the operator was told, of a series, with a status."""
        found = [alert for body in self.bodies("operator") for alert in body["alerts"]]
        return [a for a in found if a["status"] == status and a["labels"].get("series") == series]


@dataclass
class World:
    """What a tiny exporter tells of servers and pods, and what came of it."""

    receivers: Receivers
    prometheus: str = ""
    values: dict[str, float] = field(default_factory=dict)

    def page(self, *_: object) -> tuple[int, str]:
        """The exporter's page: `NOW` stands for the time."""
        return 200, "".join(
            f"{series} {time.time() if value < 0 else value}\n" for series, value in self.values.items()
        )

    def has(self, query: str) -> bool:
        """Whether a query gives something now."""
        answer = requests.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=5)
        return bool(answer.json()["data"]["result"])

    def firing(self) -> set[str]:
        """Alerts that Prometheus says fire."""
        found = requests.get(f"{self.prometheus}/api/v1/alerts", timeout=5).json()["data"]["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}


NOW = -1.0
HEALTHY = {
    "onnxd_ready": 1,
    "onnxd_source_read_timestamp_seconds": NOW,
    'onnxd_http_requests_total{route="/predict",method="POST",code="200"}': 1e6,
    'onnxd_http_requests_total{route="/predict",method="POST",code="500"}': 0,
    'onnxd_verdict{model="anomaly",role="challenger",state="reject"}': 0,
    'anomaly_detected{series="shop/cart-1"}': 0,
    'anomaly_detected{series="node-1"}': 0,
    'anomaly_score{series="shop/cart-1"}': 0.97,
    'anomaly_zscore{series="shop/cart-1",channel="cpu"}': 17.3,
    "collector_build_info": 1,
    "collector_last_tick_timestamp_seconds": NOW,
    "remediation_build_info": 1,
    "remediation_leader": 1,
}
GOOD = 'onnxd_http_requests_total{route="/predict",method="POST",code="200"}'
BAD = 'onnxd_http_requests_total{route="/predict",method="POST",code="500"}'


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Prometheus, Alertmanager, an exporter and three receivers."""
    folder = tmp_path_factory.mktemp("alerts")
    secrets = folder / "secrets"
    secrets.mkdir()

    def faster(group: dict[str, Any]) -> None:
        group.pop("interval", None)
        for rule in group["rules"]:
            # Burn rates and HighErrorRate, which keeps them back, would race here; really, minutes lie between them.
            if "for" in rule and "BudgetBurns" not in rule.get("alert", ""):
                rule["for"] = shortened(rule["for"])

    monitoring.write_rules(folder / "rules", faster)
    receivers = Receivers()
    world = World(receivers, values=dict(HEALTHY))
    with monitoring.serving(receivers.answer) as sink, monitoring.serving(world.page) as exporter:
        (secrets / "slack-url").write_text(f"{sink}/slack/T0/B0")
        (secrets / "pagerduty-key").write_text("0123456789abcdef0123456789abcdef")
        (secrets / "operator-token").write_text("operators-token")
        text = FILE.read_text().replace(RECEIVERS, str(secrets)).replace(OPERATOR, f"{sink}/operator/alerts")
        config = yaml.safe_load(text.replace(TEMPLATES, str(FILE.parent / "*.tmpl")))
        config["global"] = {"pagerduty_url": f"{sink}/pagerduty"}
        for route in [config["route"], *config["route"]["routes"]]:
            for key in {"group_wait", "group_interval", "repeat_interval"} & set(route):
                route[key] = shortened(route[key])
        (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
        address = f"127.0.0.1:{monitoring.free_port()}"
        words = [f"--config.file={folder / 'alertmanager.yml'}", f"--web.listen-address={address}"]
        words += ["--cluster.listen-address=", f"--storage.path={folder / 'alertmanager'}"]
        scrape = {
            "job_name": "anomaly-api",
            "static_configs": [{"targets": [exporter.removeprefix("http://")], "labels": {"namespace": "ml"}}],
        }
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(folder / "rules" / "*.yaml")],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]},
            "scrape_configs": [scrape],
        }
        alertmanager = monitoring.tool("prometheus-alertmanager")
        with (
            monitoring.process(alertmanager, *words, log=folder / "alertmanager.log"),
            monitoring.prometheus(folder, settings) as url,
        ):
            monitoring.wait_for(
                "Alertmanager is ready", lambda: requests.get(f"http://{address}/-/ready", timeout=5).ok
            )
            world.prometheus = url
            yield world


@pytest.fixture(scope="module")
def receivers(world: World) -> Receivers:
    """What came of a day in half a minute: quiet, an anomaly and errors, an outage, quiet again."""
    receivers = world.receivers
    monitoring.wait_for("rates", lambda: world.has("count_over_time(onnxd_ready[1m]) > 2"))
    monitoring.wait_for("quiet", lambda: world.firing() == {"Watchdog"})
    assert not any(receivers.messages.values())

    world.values['anomaly_detected{series="shop/cart-1"}'] = 1
    world.values['anomaly_detected{series="node-1"}'] = 1
    world.values['onnxd_verdict{model="anomaly",role="challenger",state="reject"}'] = 1
    world.values[GOOD] += 1000
    world.values[BAD] += 250
    monitoring.wait_for(
        "the operator knows both",
        lambda: receivers.told("firing", "shop/cart-1") and receivers.told("firing", "node-1"),
    )
    monitoring.wait_for("a page for the errors", lambda: receivers.pages("trigger", "HighErrorRate"))
    monitoring.wait_for("a page for the anomaly", lambda: receivers.pages("trigger", "shop/cart-1"))
    monitoring.wait_for("Slack has the anomaly", lambda: receivers.slack("shop/cart-1"))
    monitoring.wait_for("Slack has the errors", lambda: receivers.slack("HighErrorRate"))
    monitoring.wait_for("Slack has the verdict", lambda: receivers.slack("ChallengerRejected"))
    monitoring.wait_for("the operator is told again", lambda: len(receivers.told("firing", "shop/cart-1")) > 1)

    # What an outage hides: this one fires in Prometheus and is not sent.
    world.values["onnxd_ready"] = 0
    monitoring.wait_for("a page for the outage", lambda: receivers.pages("trigger", "NoServerReady"))
    monitoring.wait_for("it fires", lambda: "ServerNotReady" in world.firing())

    world.values |= {key: value for key, value in HEALTHY.items() if key not in (GOOD, BAD)}
    world.values[GOOD] += 1e6
    monitoring.wait_for(
        "the operator hears the end",
        lambda: receivers.told("resolved", "shop/cart-1") and receivers.told("resolved", "node-1"),
    )
    for words in ("HighErrorRate", "shop/cart-1", "NoServerReady"):
        monitoring.wait_for(
            f"PagerDuty hears the end of {words}", lambda words=words: receivers.pages("resolve", words)
        )
    for words in ("HighErrorRate", "AnomalyDetected", "NoServerReady", "ChallengerRejected"):
        monitoring.wait_for(f"Slack hears the end of {words}", lambda words=words: receivers.slack("[resolved]", words))
    monitoring.wait_for("quiet", lambda: world.firing() == {"Watchdog"})
    return receivers


def test_alerts_reach_whom_they_should_and_nobody_else(receivers: Receivers) -> None:
    slack = {one["title"].split("] ")[1].split(":")[0].split(" ")[0] for one in receivers.slack()}
    assert slack == {"AnomalyDetected", "HighErrorRate", "NoServerReady", "ChallengerRejected"}
    paged = {body["payload"]["class"] for body in receivers.bodies("pagerduty")}
    assert paged == {"AnomalyDetected", "HighErrorRate", "NoServerReady"}
    told = {alert["labels"]["alertname"] for body in receivers.bodies("operator") for alert in body["alerts"]}
    assert told == {"AnomalyDetected"}


def test_messages_to_slack_say_what_and_where_to_look(receivers: Receivers) -> None:
    one = receivers.slack("[1 firing] HighErrorRate")[0]
    assert one["color"] == "danger"
    assert "More than 5 % of the predictions of anomaly-api fail" in one["title"]
    assert "% of the predictions were answered with 5xx" in one["text"]
    assert "<docs/operations.md#higherrorrate|What to do>" in one["text"]
    assert "/graph?g0.expr=" in one["text"]
    assert "silences/new?filter=%7Balertname%3D%22HighErrorRate%22%7D|Silence" in one["text"]
    assert receivers.slack("AnomalyDetected", "score is 0.97", "z-score 17.3")[0]["color"] == "warning"
    over = receivers.slack("[resolved] HighErrorRate")[0]
    assert over["color"] == "good"
    assert "<no value>" not in json.dumps(receivers.bodies("slack"))


def test_pages_are_events_of_pagerduty(receivers: Receivers) -> None:
    """Fields as in the Events API v2."""
    for body in receivers.bodies("pagerduty"):
        assert body["routing_key"] == "0123456789abcdef0123456789abcdef"
        assert body["event_action"] in {"trigger", "resolve"}
        assert body["payload"]["severity"] in {"critical", "warning"}
        assert 0 < len(body["payload"]["summary"]) <= 1024
        assert body["links"][0]["href"].startswith("docs/operations.md#")
    (page,) = receivers.pages("trigger", "HighErrorRate")
    (end,) = receivers.pages("resolve", "HighErrorRate")
    assert page["dedup_key"] == end["dedup_key"]
    assert page["payload"]["severity"] == "critical"
    assert "were answered with 5xx" in page["payload"]["custom_details"]["firing"]
    assert receivers.pages("trigger", "AnomalyDetected")[0]["payload"]["severity"] == "warning"


def test_the_operator_gets_what_it_can_act_on(receivers: Receivers) -> None:
    """The form is Alertmanager's webhook, version 4."""
    for headers, body in receivers.messages["operator"]:
        assert headers["authorization"] == "Bearer operators-token"
        assert body["version"] == "4"
    pod = receivers.told("firing", "shop/cart-1")[0]
    labels = {
        "alertname": "AnomalyDetected",
        "namespace": "shop",
        "pod": "cart-1",
        "series": "shop/cart-1",
        "severity": "warning",
    }
    assert pod["labels"] == labels
    node = receivers.told("resolved", "node-1")[0]
    assert node["labels"] == {
        "alertname": "AnomalyDetected",
        "node": "node-1",
        "series": "node-1",
        "severity": "warning",
    }
    assert node["startsAt"] < node["endsAt"]
