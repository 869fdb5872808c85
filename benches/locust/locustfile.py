"""The runbook's load test against `/predict`: ordinary pods all the time, and a burst of anomalous ones in the middle.

An answer counts as failed unless it is the right one: no anomaly for an ordinary row, an anomaly for an anomalous one.
`--metrics-port` serves Locust's own figures for Prometheus at `/metrics`, with the web page and without it.
"""

import random
import time
from argparse import ArgumentParser
from typing import Any

from locust import FastHttpUser, between, events, task
from locust.env import Environment
from prometheus_client import REGISTRY, Counter, Gauge, Histogram, start_http_server

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS = Counter("locust_requests", "Requests that were answered or failed.", ["name", "method", "outcome"])
DURATION = Histogram(
    "locust_request_duration_seconds",
    "From sending a request to its answer.",
    ["name", "method"],
    buckets=BUCKETS,
)
USERS = Gauge("locust_users", "Users that run, by kind.", ["kind"])


class Burst:
    """When anomalous rows are sent, in seconds since the test began."""

    began = 0.0
    after = 0.0
    seconds = 0.0

    @classmethod
    def is_on(cls) -> bool:
        """Whether it is time."""
        return cls.after <= time.monotonic() - cls.began < cls.after + cls.seconds


@events.init_command_line_parser.add_listener
def add_arguments(parser: ArgumentParser) -> None:
    """The options of this test, beside Locust's own."""
    parser.add_argument("--burst-after", type=float, default=20.0, help="seconds until anomalous rows are sent")
    parser.add_argument("--burst-seconds", type=float, default=20.0, help="how long they are sent")
    parser.add_argument("--metrics-port", type=int, default=0, help="where /metrics is served; 0 is nowhere")


@events.init.add_listener
def serve_metrics(environment: Environment, **_more: object) -> None:
    """Serves the figures of this process; the number of users is asked for when they are read."""
    for kind in environment.user_classes:
        name = kind.__name__

        def count(name: str = name) -> float:
            return float(environment.runner.user_classes_count.get(name, 0)) if environment.runner else 0.0

        USERS.labels(name).set_function(count)
    if environment.parsed_options and environment.parsed_options.metrics_port:
        start_http_server(environment.parsed_options.metrics_port, "127.0.0.1", REGISTRY)


@events.test_start.add_listener
def begin(environment: Environment, **_more: object) -> None:
    """Counts the burst's time from here."""
    options = environment.parsed_options
    Burst.began, Burst.after, Burst.seconds = time.monotonic(), options.burst_after, options.burst_seconds


@events.request.add_listener
def record(
    request_type: str,
    name: str,
    response_time: float,
    exception: Exception | None,
    **_more: object,
) -> None:
    """Counts a request; Locust gives milliseconds."""
    REQUESTS.labels(name, request_type, "failure" if exception else "success").inc()
    DURATION.labels(name, request_type).observe(response_time / 1000)


class Pod(FastHttpUser):
    """Sends rows and looks at the answers."""

    abstract = True

    def send(self, name: str, row: dict[str, float], *, anomalous: bool) -> None:
        """One row; `name` is what it is counted under."""
        with self.client.post("/predict", json=row, name=name, catch_response=True) as response:
            answer: dict[str, Any] = {}
            if response.status_code == 200:  # noqa: PLR2004 - OK
                answer = response.json()
            if answer.get("anomaly") is not anomalous:
                response.failure(f"{row}: status {response.status_code}, {response.text}")


class OrdinaryPod(Pod):
    """What nearly every pod is: within a sigma of itself."""

    wait_time = between(0.02, 0.06)

    @task
    def ordinary(self) -> None:
        """One row of an ordinary pod."""
        row = {
            "cpu_zscore": round(random.uniform(-1, 1), 3),  # noqa: S311 - load, not secrets
            "memory_zscore": round(random.uniform(-1, 1), 3),  # noqa: S311
            "disk_io_zscore": round(random.uniform(-1, 1), 3),  # noqa: S311
        }
        self.send("ordinary", row, anomalous=False)


class AnomalousPod(Pod):
    """Silent until the burst, then far from its median and often."""

    wait_time = between(0.01, 0.03)
    fixed_count = 5

    @task
    def anomalous(self) -> None:
        """One row of a pod with its CPU far up."""
        if Burst.is_on():
            row = {
                "cpu_zscore": round(random.uniform(15, 40), 3),  # noqa: S311
                "memory_zscore": 1.0,
                "disk_io_zscore": 1.0,
                "cpu_baseline": 10.0,
                "cpu_scale": 5.0,
            }
            self.send("anomalous", row, anomalous=True)
