"""The Prometheus source against a real Prometheus server with history, and against servers that fail."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from prometheus_server import FAULTS, openmetrics, prometheus
from training.config import Config
from training.data.days import DataError, Day, label
from training.data.prometheus import Queries, Server, read
from training.services import free_port

START = int(datetime(2026, 1, 5, tzinfo=UTC).timestamp())
MINUTES = 2 * 1440
FAULT = range(1500, 1505)
RESET, GAP = 300, range(700, 760)
MEMORY_LOST = range(900, 960)


def metrics() -> str:
    """Two days of kubelet metrics in OpenMetrics, a scrape a minute. Limits: half a core, 100 MB."""
    pods = {
        "shop/cart": range(MINUTES),
        "shop/pay": range(MINUTES),
        "shop/ship": [m for m in range(MINUTES) if m not in GAP],
        "ops/free": range(MINUTES),
        "ops/nodisk": range(MINUTES),
        "ops/batch": range(100, 110),
    }
    lines: dict[str, list[str]] = {
        name: []
        for name in (
            "container_cpu_usage_seconds_total",
            "container_fs_reads_total",
            "container_fs_writes_total",
            "container_memory_working_set_bytes",
            "kube_pod_container_resource_limits",
            FAULTS,
        )
    }
    for name, minutes in pods.items():
        namespace, pod = name.split("/")
        who = f'namespace="{namespace}",pod="{pod}"'
        seconds = 0.0
        for minute in minutes:
            at = START + 60 * minute
            loaded = name == "shop/cart" and minute in FAULT
            seconds = 0.0 if name == "shop/pay" and minute == RESET else seconds + 60 * 0.5 * (0.95 if loaded else 0.2)
            for container, value in (("app", seconds), ("", seconds), ("POD", 1e9)):
                lines["container_cpu_usage_seconds_total"].append(f'{{{who},container="{container}"}} {value} {at}')
            if not (name == "shop/pay" and minute in MEMORY_LOST):
                lines["container_memory_working_set_bytes"].append(f'{{{who},container="app"}} 4e7 {at}')
            if name != "ops/nodisk":
                lines["container_fs_reads_total"].append(f'{{{who},container="app",device="a"}} {minute * 600} {at}')
                lines["container_fs_writes_total"].append(f'{{{who},container="app",device="b"}} {minute * 1200} {at}')
            if name != "ops/free":
                for resource, limit in (("cpu", 0.5), ("memory", 1e8)):
                    lines["kube_pod_container_resource_limits"].append(
                        f'{{{who},container="app",resource="{resource}"}} {limit} {at}'
                    )
            if name == "shop/cart":
                lines[FAULTS].append(f'{{{who},kind="cpu_stress"}} {int(loaded)} {at}')
    for minute in range(10):
        lines[FAULTS].append(f'{{namespace="ops",pod="gone",kind="cpu_stress"}} 1 {START + 60 * minute}')
    return openmetrics(lines | experiment())


def experiment() -> dict[str, list[str]]:
    """The same fault as kube-state-metrics and Chaos Mesh tell of it; another pod's label outlived its experiment."""
    times = [START + 60 * minute for minute in (*FAULT, FAULT[-1] + 1)]
    pods = [
        f'{{namespace="shop",pod="{pod}",label_onnxd_dev_chaos="{kind}"}} 1 {at}'
        for pod, kind in (("cart", "StressChaos"), ("pay", "IOChaos"))
        for at in times
    ]
    runs = [f'{{namespace="shop",kind="StressChaos",phase="running"}} {int(at < times[-1])} {at}' for at in times]
    return {"kube_pod_labels": pods, "chaos_controller_manager_chaos_experiments": runs}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus server with the history above; one of its stores is away, and it answers few samples at once."""
    config = "remote_read: [{url: 'http://127.0.0.1:1/', read_recent: true}]\n"
    folder = tmp_path_factory.mktemp("prometheus") / "server"
    with prometheus(folder, metrics(), ["--query.max-samples=30000"], config=config) as url:
        yield url


def ask(url: str, *, step: int = 60, server: Server | None = None, **changed: str) -> Day:
    queries = replace(Queries(faults=FAULTS), **changed)
    end = START + 60 * (MINUTES - 1)
    one = server or Server(url, attempts=2, backoff=0.01)
    return read(one, queries, Config(), begin=START, end=end, step=step)


@pytest.fixture(scope="module")
def day(url: str) -> Day:
    return ask(url)


def test_kubelet_metrics_become_percent_percent_and_operations_a_second(day: Day) -> None:
    assert [s.name for s in day.series] == ["ops/nodisk", "shop/cart", "shop/pay", "shop/ship"]
    cart = day.series[1]
    assert (cart.time[0] - START, np.unique(np.diff(cart.time)).tolist()) == (60, [60])
    np.testing.assert_allclose(np.median(cart.values, axis=0), [20, 40, 30], rtol=1e-9)
    assert cart.values[:, 0].max() == pytest.approx(95)
    assert (day.rows, day.name) == (sum(len(s.time) for s in day.series), "2026-01-05_2026-01-06")
    assert day.uri.startswith("prometheus:http://127.0.0.1:")


def test_counter_reset_is_no_spike(day: Day) -> None:
    near = np.abs(day.series[2].time - (START + 60 * RESET)) <= 300
    assert near.sum() == 11
    assert day.series[2].values[near, 0].max() < 21


def test_gaps_and_missing_channels_are_reported_and_not_filled(day: Day) -> None:
    notes = " | ".join(day.notes)
    assert "1 series (shop/ship) have 1 gaps in time, the longest 3660 s" in notes
    assert "1 series (ops/nodisk) have no disk_io: NaN" in notes
    assert "1 series (ops/batch) have no more than the 15 samples of the warm-up" in notes
    assert np.isnan(day.series[0].values[:, 2]).all()
    # A gauge is repeated for five minutes after its last scrape.
    lost = np.isnan(day.series[2].values[:, 1])
    assert "memory: 55 samples of 1 series (shop/pay) are missing beside CPU: NaN" in notes
    assert np.flatnonzero(lost).tolist() == [m - 1 for m in range(MEMORY_LOST[0] + 5, MEMORY_LOST[-1] + 1)]


def test_warnings_of_the_server_are_notes(day: Day) -> None:
    assert any("cpu: http://127.0.0.1:" in n and "warns:" in n and "remote_read" in n for n in day.notes)


def test_chaos_gauge_gives_labelled_faults_with_an_end(day: Day) -> None:
    (fault,) = day.faults
    assert (fault.pod, fault.kind, fault.channel, fault.shows_in_cpu) == ("shop/cart", "cpu_stress", 0, True)
    assert (fault.time, fault.until) == (START + 60 * FAULT[0], START + 60 * FAULT[-1])
    event, judged = label(day.series[1], day.faults, Config().labels)
    minutes = (day.series[1].time - START) // 60
    assert minutes[event == 0].tolist() == list(range(FAULT[0], FAULT[-1] + 2)), "rates over two minutes"
    assert minutes[~judged].tolist() == [FAULT[0] - 1, FAULT[-1] + 2]
    assert any("1 faults are on series without samples" in note for note in day.notes)


def test_experiments_of_chaos_mesh_are_faults_unless_another_query_is_given(url: str, day: Day) -> None:
    by_default = ask(url, faults=Queries.faults)
    (fault,), (told,) = by_default.faults, day.faults
    assert fault == replace(told, kind="fault")
    assert not ask(url, faults="").faults


def test_ranges_over_the_servers_limits_are_read_in_parts(url: str, day: Day) -> None:
    fine = {s.name: s for s in ask(url, step=15).series}
    for other in day.series:
        one = fine[other.name]
        assert len(one.time) > 11_000 or one.name == "shop/ship"
        assert (np.diff(one.time) > 0).all()
        _, here, there = np.intersect1d(one.time, other.time, return_indices=True)
        assert len(there) == len(other.time)
        np.testing.assert_array_equal(one.values[here], other.values[there])


def test_same_history_has_the_same_digest(url: str, day: Day) -> None:
    assert ask(url).sha256 == day.sha256
    assert ask(url, memory="2 * (" + Queries.memory + ")").sha256 != day.sha256


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"memory": "nothing_like_this"}, "memory: no series between .* change the query: nothing_like_this"),
        ({"disk_io": "sum by ("}, "disk_io: .* answers 400: .*parse error.*: change the query"),
        (
            {"cpu": "container_fs_reads_total / on (namespace) container_fs_writes_total"},
            "cpu: .* answers 422: .*many-to-many",
        ),
        ({"cpu": "sum by (pod) (container_fs_reads_total)"}, "cpu: a result has no label namespace"),
        (
            {"cpu": "container_cpu_usage_seconds_total"},
            r"cpu: two results are of ops/batch: aggregate by \(namespace, pod\)",
        ),
    ],
)
def test_queries_that_give_nothing_useful_are_named(url: str, changed: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ask(url, **changed)


def test_a_server_that_is_gone_is_given_up_after_the_attempts() -> None:
    with pytest.raises(DataError, match=r"cpu: http://127.0.0.1:\d+ did not answer in 2 attempts: connection refused"):
        ask(f"http://user:secret@127.0.0.1:{free_port()}")


def test_a_server_that_never_answers_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = Server(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.2, attempts=2, backoff=0.01)
        with pytest.raises(DataError, match=r"did not answer in 2 attempts: no answer within 0\.2 s"):
            ask("", server=server)


@contextmanager
def gateway(upstream: str, failures: int, token: str) -> Iterator[str]:
    """A proxy before Prometheus that wants a token and answers 503 the first times."""
    left = [failures]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != f"Bearer {token}":
                return self.answer(401, b"who are you?")
            if left[0]:
                left[0] -= 1
                return self.answer(503, b"no upstream")
            kind = {"Content-Type": self.headers["Content-Type"]}
            request = urllib.request.Request(upstream + self.path, body, kind)  # noqa: S310 - our own server
            with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310 - as above
                return self.answer(reply.status, reply.read())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_passing_failures_are_tried_again_and_the_token_is_sent(url: str, day: Day) -> None:
    # One sample less than the server's limit in each part, so that the proxy sees no error of Prometheus.
    small = replace(Queries(), cpu="sum by (namespace, pod) (container_memory_working_set_bytes)")
    small = replace(small, memory=small.cpu, disk_io=small.cpu)
    with gateway(url, 2, "hello") as address:
        server = Server(address, "hello", attempts=3, backoff=0.01)
        seen = read(server, small, Config(), begin=START, end=START + 3600)
        assert seen.series[0].name == day.series[0].name.replace("nodisk", "free")
        with pytest.raises(DataError, match=r"answers 401: give it a valid token"):
            read(replace(server, token="bye"), small, Config(), begin=START, end=START + 3600)  # noqa: S106
    with gateway(url, 9, "hello") as address, pytest.raises(DataError, match="3 attempts: status 503: no upstream"):
        read(Server(address, "hello", attempts=3, backoff=0.01), small, Config(), begin=START, end=START + 3600)


def test_a_token_is_in_no_message() -> None:
    assert "hello" not in repr(Server("http://a", "hello"))
