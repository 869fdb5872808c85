"""Prometheus and Alertmanager on this machine, with the rules and routes of `k8s/monitoring`, and who is told.

Time runs faster: every duration in rules and routes is divided by the same number, and nothing else is changed.
"""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from local.cluster import ROOT, process
from local.listener import Listener, Quiet
from training.errors import PipelineError
from training.processes import answers
from training.services import free_port

MONITORING = ROOT / "k8s" / "monitoring"
RULES = MONITORING / "rules"
ALERTMANAGER = MONITORING / "alertmanager"
SECRETS = "/etc/alertmanager/secrets/alertmanager-receivers"
TEMPLATES = "/etc/alertmanager/config"
OPERATOR = "http://remediation-operator.ml.svc:8084"
ALERTMANAGERS = ("prometheus-alertmanager", "alertmanager")
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
DURATION = re.compile(r"(\d+)(ms|[smhdw])")
IN_QUERY = re.compile(r"(?<=\[)\d+[smhdw](?=[\]:])|(?<=offset )\d+[smhdw]")
TIMES = {"for", "interval", "keep_firing_for", "group_wait", "group_interval", "repeat_interval"}


def seconds(duration: str) -> float:
    """Seconds of a duration as Prometheus writes it, such as `1h30m`."""
    return sum(int(number) * UNITS[unit] for number, unit in DURATION.findall(duration))


def faster(document: Any, by: float) -> Any:  # noqa: ANN401 - YAML
    """A document of rules or routes with all durations divided, those in its queries too."""

    def short(text: str) -> str:
        return f"{max(1, round(seconds(text) / by * 1000))}ms"

    if isinstance(document, list):
        return [faster(item, by) for item in document]
    if not isinstance(document, dict):
        return document
    made = {}
    for key, value in document.items():
        if key in TIMES and isinstance(value, str):
            made[key] = short(value)
        elif key == "expr":
            made[key] = IN_QUERY.sub(lambda found: short(found.group()), _younger(str(value), by))
        else:
            made[key] = faster(value, by)
    return made


def _younger(query: str, by: float) -> str:
    """A query in which ages, `time() - x > 300`, are divided too."""
    return re.sub(r"(time\(\) - [^>]*> )(\d+)", lambda found: f"{found[1]}{int(found[2]) / by:g}", query)


@dataclass(frozen=True)
class Message:
    """What a receiver got: when (seconds of the monotonic clock), at which path, and its JSON."""

    at: float
    path: str
    body: Any = field(repr=False)


class Receivers(Listener):
    """Slack's and PagerDuty's ends, on one port: they take everything and remember it."""

    def __init__(self) -> None:
        """Begins to listen."""
        self._messages: list[Message] = []
        self._lock = threading.Lock()
        receivers = self

        class Handler(Quiet):
            def do_POST(self) -> None:  # noqa: N802 - as the library names it
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with receivers._lock:
                    receivers._messages.append(Message(time.monotonic(), self.path, body))
                # Slack says 200, PagerDuty 202.
                self.answer(202 if "enqueue" in self.path else 200)

        super().__init__(Handler)

    @property
    def url(self) -> str:
        """Where they listen."""
        return f"http://{self.address}"

    def slack(self, alert: str, *, resolved: bool = False) -> list[Message]:
        """Messages to the channel that name an alert."""
        return [m for m in self._got("/slack") if alert in json.dumps(m.body) and resolved == _is_good(m.body)]

    def pagerduty(self, alert: str, *, resolved: bool = False) -> list[Message]:
        """Events that name an alert."""
        action = "resolve" if resolved else "trigger"
        found = [m for m in self._got("/v2/enqueue") if m.body["event_action"] == action]
        return [m for m in found if alert in json.dumps(m.body)]

    def _got(self, path: str) -> list[Message]:
        with self._lock:
            return [m for m in self._messages if m.path == path]


def _is_good(body: dict[str, Any]) -> bool:
    """Whether a message to Slack says that all is well again: by its colour."""
    return any(attachment.get("color") == "good" for attachment in body.get("attachments", []))


@dataclass(frozen=True)
class Monitoring:
    """Running: Prometheus' and Alertmanager's addresses."""

    prometheus: str
    alertmanager: str

    def query(self, text: str) -> list[dict[str, Any]]:
        """The vector that a query gives now.

        Raises:
            PipelineError: Prometheus refuses it.
        """
        answer = requests.post(f"{self.prometheus}/api/v1/query", data={"query": text}, timeout=20).json()
        if answer["status"] != "success":
            msg = f"{text}: {answer['error']}"
            raise PipelineError(msg)
        return answer["data"]["result"]

    def firing(self, alert: str) -> list[dict[str, str]]:
        """The labels of an alert's instances that fire."""
        return [found["metric"] for found in self.query(f'ALERTS{{alertname="{alert}",alertstate="firing"}}')]


@contextmanager
def monitoring(  # noqa: PLR0913 - what is scraped, who is told, and how fast
    folder: Path, targets: Mapping[str, Sequence[str]], receivers: Receivers, operator: str, token: str, *, by: float
) -> Iterator[Monitoring]:
    """Prometheus and Alertmanager until the block ends.

    Args:
        folder: New, for their files.
        targets: By job, what is scraped every second: each a `host:port`.
        receivers: Who gets Slack's and PagerDuty's messages.
        operator: `http://host:port` of the remediation operator.
        token: The operator's bearer token.
        by: How much faster time runs.

    Raises:
        PipelineError: One is not installed or does not start.
    """
    prometheus, alertmanager = shutil.which("prometheus"), next(filter(None, map(shutil.which, ALERTMANAGERS)), None)
    if prometheus is None or alertmanager is None:
        msg = "Prometheus or Alertmanager is not installed: apt-get install prometheus prometheus-alertmanager"
        raise PipelineError(msg)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        port = free_port()
        urls = Monitoring(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{port}")
        words = [alertmanager, "--config.file", str(_routes(folder, receivers.url, operator, token, by))]
        words += ["--web.listen-address", f"127.0.0.1:{port}", "--cluster.listen-address=", "--log.level=debug"]
        words += ["--storage.path", str(folder / "alertmanager")]
        stack.enter_context(process("alertmanager", words, folder, lambda: answers(f"{urls.alertmanager}/-/ready")))
        words = [prometheus, "--config.file", str(_scrapes(folder, targets, f"127.0.0.1:{port}", by))]
        words += ["--web.listen-address", urls.prometheus.removeprefix("http://")]
        words += ["--storage.tsdb.path", str(folder / "prometheus"), "--query.lookback-delta=10s"]
        words += ["--rules.alert.resend-delay=1s"]
        stack.enter_context(process("prometheus", words, folder, lambda: answers(f"{urls.prometheus}/-/ready")))
        yield urls


def _routes(folder: Path, receivers: str, operator: str, token: str, by: float) -> Path:
    """Alertmanager's configuration with this machine's addresses and secrets."""
    secrets = folder / "secrets"
    secrets.mkdir()
    for name, text in (("slack-url", f"{receivers}/slack"), ("pagerduty-key", "0" * 32), ("operator-token", token)):
        (secrets / name).write_text(text)
        (secrets / name).chmod(0o600)
    text = (ALERTMANAGER / "alertmanager.yml").read_text(encoding="utf-8")
    for cluster, here in ((SECRETS, str(secrets)), (TEMPLATES, str(ALERTMANAGER)), (OPERATOR, operator)):
        text = text.replace(cluster, here)
    document = faster(yaml.safe_load(text), by)
    document.setdefault("global", {})["pagerduty_url"] = f"{receivers}/v2/enqueue"
    path = folder / "alertmanager.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def _scrapes(folder: Path, targets: Mapping[str, Sequence[str]], alertmanager: str, by: float) -> Path:
    """Prometheus' configuration, beside its rules."""
    rules = folder / "rules"
    rules.mkdir()
    for path in sorted(RULES.glob("*.yaml")):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        (rules / path.name).write_text(yaml.safe_dump(faster(document["spec"], by)))
    jobs = [
        {"job_name": job, "honor_labels": True, "static_configs": [{"targets": list(named)}]}
        for job, named in targets.items()
    ]
    document = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": f"{round(30_000 / by)}ms"},
        "rule_files": [f"{rules}/*.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": jobs,
    }
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(document))
    return path
