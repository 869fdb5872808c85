"""The server in its image: as a user starts it, as SageMaker and Vertex AI do; its health, and its end."""

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from conftest import ROOT, Unpacked
from container import Image, open_folder, run, serve, until

ROW = {"cpu_zscore": 2.1, "memory_zscore": 1.5}
MODELS = {"/models": ROOT / "models"}


@pytest.mark.parametrize("user", ["65532:65532", "1000660000:0"])
def test_it_serves_as_nobody_with_little_to_write_to(onnxd: Image, place: Path, user: str) -> None:
    """Two volumes and /tmp can be written to, the rest of the file system cannot. A cluster may choose another user."""
    onnxd = replace(onnxd, config={**onnxd.config, "User": user})
    volumes = {at: open_folder(place / at[1:].replace("/", "-")) for at in onnxd.config["Volumes"]}
    with serve(onnxd, place, mounts=MODELS, writable=volumes) as server:
        server.wait("8082/readyz")
        status, answer = server.ask("8080/predict", ROW)
        assert (status, json.loads(answer)["anomaly"]) == (200, False)
        assert server.ask("8081/")[0] != 0
        about = Path(f"/proc/{server.container.process.pid}/status").read_text()
        assert "Uid:\t" + "\t".join([user.split(":", maxsplit=1)[0]] * 4) in about
        assert "CapEff:\t0000000000000000" in about
        assert server.health() == (0, "ready\n")
        assert server.ask("8082/metrics")[0] == 200
        server.container.process.send_signal(signal.SIGTERM)
        assert server.container.wait() == 0, server.container.said()
    assert " WARN " not in server.container.said()
    assert " ERROR " not in server.container.said()


def test_a_request_on_its_way_is_answered_after_sigterm(onnxd: Image, place: Path) -> None:
    """A body that comes slowly: it is complete only after the signal."""
    with serve(onnxd, place, mounts=MODELS) as server:
        server.wait("8082/readyz")
        url = "http://127.0.0.1:8080/predict"
        words = [*server.within, "curl", "--silent", "--no-buffer", "--header", "Content-Type: application/json"]
        words += [
            "--header",
            "Expect:",
            "--header",
            "Transfer-Encoding: chunked",
            "--upload-file",
            "-",
            "-X",
            "POST",
            url,
        ]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            client.stdin.write(json.dumps(ROW)[:-1])
            client.stdin.flush()
            until("the request", lambda: "anomaly" in server.ask("8082/status")[1] or None, server.container)
            server.container.process.send_signal(signal.SIGTERM)
            until("unready", lambda: server.ask("8082/readyz")[0] == 503 or None, server.container)
            assert server.health()[0] == 1
            answer, _ = client.communicate("}")
        assert json.loads(answer)["anomaly"] is False
        assert server.container.wait() == 0, server.container.said()


def test_health_is_found_on_other_ports_and_nobody_else_is_asked(onnxd: Image, place: Path) -> None:
    environment = {"ONNXD_HTTP": "0.0.0.0:9080", "ONNXD_OPS": "127.0.0.1:9082", "ONNXD_GRPC": "off"}
    with serve(onnxd, place, environment=environment, mounts=MODELS) as server:
        until("health", lambda: server.health()[0] == 0 or None, server.container)
        assert server.ask("9080/predict", ROW)[0] == 200
        assert server.ask("8082/readyz")[0] == 0
        counters = Path(f"/proc/{server.container.process.pid}/net/snmp").read_text().splitlines()
        tables = zip(counters[::2], counters[1::2])
        count = {h.split()[0]: dict(zip(h.split()[1:], map(int, v.split()[1:]))) for h, v in tables}
        assert count["Udp:"]["OutDatagrams"] == 0, "a name was looked up"
        assert count["Tcp:"]["ActiveOpens"] == server.asked, "it connected to somebody"
    with serve(onnxd, place, environment={"ONNXD_OPS": "off"}, mounts=MODELS) as server:
        until("health", lambda: server.health()[0] == 0 or None, server.container)


def test_without_models_it_is_not_healthy(onnxd: Image, place: Path) -> None:
    with serve(onnxd, place) as server:
        server.wait("8082/livez")
        code, said = server.health()
        assert code == 1
        assert "not ready" in said


def test_sagemaker_starts_it_its_way(onnxd: Image, place: Path) -> None:
    """`docker run IMAGE serve`, models in /opt/ml/model, /ping and /invocations on port 8080 or the one it names."""
    for environment, port in ({"SAGEMAKER_REGION": "eu-west-1"}, 8080), ({"SAGEMAKER_BIND_TO_PORT": "9000"}, 9000):
        mounts = {"/opt/ml/model": ROOT / "models"}
        with serve(onnxd, place, environment=environment, command=["serve"], mounts=mounts) as server:
            server.wait(f"{port}/ping")
            status, answer = server.ask(f"{port}/invocations", {"dataframe_records": [ROW]})
            assert (status, json.loads(answer)["predictions"][0]["anomaly"]) == (200, False)
            assert server.health()[0] == 0


def test_vertex_ai_starts_it_its_way(onnxd: Image, place: Path) -> None:
    environment = {"AIP_HTTP_PORT": "7080", "AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/vertex"}
    with serve(onnxd, place, environment=environment, mounts=MODELS) as server:
        server.wait("7080/health")
        status, answer = server.ask("7080/vertex", {"instances": [ROW]})
        assert (status, json.loads(answer)["predictions"][0]["anomaly"]) == (200, False)
        assert server.ask("8080/ping")[0] == 0
        assert server.health()[0] == 0


def test_a_model_of_text_finds_its_locale(onnxd: Image, place: Path) -> None:
    """With this attribute it does not load on a machine without the locale."""
    folder = place / "text"
    folder.mkdir()
    (folder / "text.onnx").write_bytes((ROOT / "server/tests/fixtures/faults/locale.onnx").read_bytes())
    environment = {"ONNXD_REPOSITORY": "/models/text.onnx"}
    with serve(onnxd, place, environment=environment, mounts={"/models": folder}) as server:
        server.wait("8082/readyz")
        assert server.ask("8080/predict", {"x": "GRÖSSE ΑΒΓ ДА"}) == (200, '{"y":"grösse αβγ да"}')


def test_every_library_that_is_loaded_is_in_the_bill(onnxd: Image, place: Path) -> None:
    with serve(onnxd, place, mounts=MODELS) as server:
        server.wait("8082/readyz")
        maps = Path(f"/proc/{server.container.process.pid}/maps").read_text()
    loaded = {line.split()[5].removeprefix(str(onnxd.root)) for line in maps.splitlines() if ".so" in line}
    assert {Path(path).name.split(".so")[0] for path in loaded} >= {"libc", "libstdc++", "libonnxruntime"}
    sums = (onnxd.root / "var/lib/dpkg/status.d").glob("*.md5sums")
    owners = {f"/{line.split()[1]}": f.stem for f in sums for line in f.read_text().splitlines()}
    owners |= {path: "onnxruntime" for path in loaded if path.startswith("/opt/onnxd/libonnxruntime")}
    components = json.loads((onnxd.root / "usr/share/sbom/onnxd.cdx.json").read_text())["components"]
    assert {owners.get(path, path) for path in loaded} <= {c["name"] for c in components}


@pytest.mark.parametrize("name", ["collector", "remediation-operator"])
def test_the_other_programs_start(name: str, unpacked: Unpacked, place: Path) -> None:
    code, said = run(unpacked(name), place / "log", ["--help"])
    assert (code, "Usage" in said) == (0, True), said
