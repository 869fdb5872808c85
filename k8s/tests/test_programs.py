"""The programs take what the manifests give them: settings, arguments, probes, and KServe's folder.

The programs are those in target/, or what ONNXD_BINARY, COLLECTOR_BINARY and REMEDIATION_OPERATOR_BINARY name.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import loads
from pathlib import Path

import pytest
import requests

from manifests import PUBLIC_KEY, ROOT, Document, command, named, of, render

MODELS = ROOT / "models" / "anomaly"
ROW = {"cpu_zscore": 2.1, "memory_zscore": 1.5, "disk_io_zscore": 0.2, "cpu_baseline": 20.0, "cpu_scale": 2.0}
"""All features: a file without its manifest does not tell which of them may be left out."""
ANSWER = {"anomaly", "score", "forecast"}
LIMIT = 60
"""Seconds after which what should have happened has not."""


def program(name: str) -> str:
    """The program, or the test is skipped and says so."""
    found = command(name)
    if found is None:
        pytest.skip(f"{name} is not built: cargo build -p {name}")
    return found


def given(documents: list[Document], name: str) -> dict[str, str]:
    """The variables that the Deployment's first container gets as plain text."""
    (container, *_) = named(documents, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    sources = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
    settings = {key: value for one in sources for key, value in named(documents, "ConfigMap", one)["data"].items()}
    return settings | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


def environment(**settings: str) -> dict[str, str]:
    """That of a container: nothing of the caller's but what finds ONNX Runtime."""
    own = {name: os.environ[name] for name in ("PATH", "HOME", "ORT_DYLIB_PATH") if name in os.environ}
    return own | settings


def run(words: list[str], **settings: str) -> str:
    """What a program says; it must end well."""
    done = subprocess.run(
        words, env=environment(**settings), cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Served:
    """Where a server listens, `host:port`."""

    http: str
    grpc: str
    ops: str

    def get(self, path: str, door: str = "http") -> requests.Response:
        """Asks at one of the doors."""
        return requests.get(f"http://{getattr(self, door)}{path}", timeout=10)

    def post(self, path: str, body: object, door: str = "http", **headers: str) -> requests.Response:
        """Sends JSON to one of the doors."""
        return requests.post(f"http://{getattr(self, door)}{path}", json=body, headers=headers, timeout=10)


@contextmanager
def served(folder: Path, settings: dict[str, str]) -> Iterator[Served]:
    """`onnxd serve` with a container's settings, on free ports, ended as the kubelet does it."""
    ports = folder / "ports.json"
    changed = dict.fromkeys(("ONNXD_HTTP", "ONNXD_GRPC", "ONNXD_OPS"), "127.0.0.1:0")
    changed |= {"ONNXD_PORTS_FILE": str(ports), "ONNXD_DRAIN_DELAY": "0s"}
    own = environment(**settings | changed)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program("onnxd"), "serve"], env=own, cwd=ROOT, stdout=log, stderr=log)
    try:
        until(ports.exists, process, folder / "log")
        yield Served(**loads(ports.read_text()))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(LIMIT)
    assert code == 0, (folder / "log").read_text()


def until(holds: Callable[[], bool], process: subprocess.Popen[bytes] | None = None, log: Path | None = None) -> None:
    """Waits for a condition, at most LIMIT."""
    end = time.monotonic() + LIMIT
    while not holds():
        said = log.read_text() if log else ""
        assert process is None or process.poll() is None, said
        assert time.monotonic() < end, f"not within {LIMIT} s: {said}"
        time.sleep(0.05)


def placed(settings: dict[str, str], places: dict[str, Path]) -> dict[str, str]:
    """The same settings with a container's folders replaced by those of this machine."""
    changed = {}
    for name, value in settings.items():
        place = next((place for place in places if value == place or value.startswith(f"{place}/")), None)
        changed[name] = value if place is None else f"{places[place]}{value.removeprefix(place)}"
    return changed


@pytest.mark.parametrize("folder", ["overlays/local", "overlays/production"])
def test_onnxd_knows_every_setting_of_the_deployment(folder: str) -> None:
    settings = given(render(folder), "anomaly-api")
    told = run([program("onnxd"), "serve", "--print-config"], **settings)
    lines = dict(re.findall(r'(?m)^(\S+) = "?(.*?)"? +# environment$', told))
    ours = {name: value for name, value in settings.items() if name.startswith("ONNXD_")}
    assert lines == {name.removeprefix("ONNXD_").lower().replace("_", "-"): value for name, value in ours.items()}
    # The rest is for the AWS library.
    assert set(settings) - set(ours) <= {"AWS_REGION"}


@pytest.mark.parametrize("name", ["collector", "remediation-operator"])
@pytest.mark.parametrize("folder", ["overlays/local", "overlays/production"])
def test_the_other_programs_know_theirs(folder: str, name: str) -> None:
    documents = render(folder)
    (container,) = named(documents, "Deployment", name)["spec"]["template"]["spec"]["containers"]
    told = run([program(name), *container["args"], "--help"])
    settings = given(documents, name)
    unknown = [one for one in settings if f"[env: {one}" not in told and one != "AWS_REGION"]
    assert unknown == [], f"--help of {name} knows {re.findall('[A-Z]+(?:_[A-Z0-9]+)+', told)}"


def test_the_local_overlay_serves_its_first_model(tmp_path: Path) -> None:
    documents = render("overlays/local")
    pod = named(documents, "Deployment", "anomaly-api")["spec"]["template"]["spec"]
    (push,), (container,) = pod["initContainers"], pod["containers"]
    (seed,) = [volume["configMap"] for volume in pod["volumes"] if volume["name"] == "seed"]
    held = named(documents, "ConfigMap", seed["name"])
    for item in seed["items"]:
        assert item["key"] in held.get("data", {}) | held["binaryData"]
        file = tmp_path / "seed" / item["path"]
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(MODELS / item["path"], file)
    folders = {"/models": "models", "/var/cache/onnxd": "cache", "/var/lib/onnxd": "state", "/etc/onnxd/admin": "admin"}
    for name in folders.values():
        (tmp_path / name).mkdir()
    (secret,) = [s for s in of(documents, "Secret") if s["metadata"]["name"].startswith("anomaly-api-admin")]
    assert list(secret["data"]) == ["token"]
    (tmp_path / "admin" / "token").write_text("a-token-of-the-test")
    settings = placed(given(documents, "anomaly-api"), {place: tmp_path / name for place, name in folders.items()})
    settings["ONNXD_PEERS"] = ""

    words = [program("onnxd"), *(one.replace("/seed", str(tmp_path / "seed")) for one in push["args"])]
    run(words, **settings)
    once = (tmp_path / "models" / "anomaly" / "aliases.json").read_text()
    run(words, **settings)
    assert (tmp_path / "models" / "anomaly" / "aliases.json").read_text() == once, "a start changes nothing"

    with served(tmp_path, settings) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            until(lambda path=container[probe]["httpGet"]["path"]: server.get(path, "ops").ok)
        assert set(server.post("/predict", ROW).json()) == ANSWER
        assert "\nonnxd_queue_rows{" in server.get("/metrics", "ops").text
        assert server.post("/models/anomaly/reload", {}, "ops").status_code == 401
        assert server.post("/models/anomaly/reload", {}, "ops", Authorization="Bearer a-token-of-the-test").ok
    assert list((tmp_path / "state").iterdir()), "the evidence is kept where the volume is"


def test_production_serves_what_is_signed_and_nothing_else(tmp_path: Path) -> None:
    documents = render("overlays/production")
    folders = {f"/{place}": place.replace("/", "-") for place in ("var/cache/onnxd", "var/lib/onnxd")}
    folders |= {f"/etc/onnxd/{name}": name for name in ("admin", "trusted")}
    pod = named(documents, "Deployment", "anomaly-api")["spec"]["template"]["spec"]
    assert {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]} == folders.keys() | {"/tmp"}
    for name in (*folders.values(), "models"):
        (tmp_path / name).mkdir()
    (tmp_path / "admin" / "token").write_text("a-token-of-the-test")
    settings = placed(given(documents, "anomaly-api"), {place: tmp_path / name for place, name in folders.items()})
    settings |= {"ONNXD_PEERS": "", "ONNXD_REPOSITORY": str(tmp_path / "models")}
    key, trusted = tmp_path / "release.key", tmp_path / "trusted" / "trusted.pem"
    run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)])
    # By somebody elsewhere, who may write the bucket.
    push = [program("onnxd"), "push", "--model", "anomaly", "--repository", str(tmp_path / "models")]
    run([*push, str(MODELS / "1" / "model.onnx"), "--sign-with", str(key)])

    # As the overlay is, nobody is trusted.
    shutil.copy(ROOT / "k8s" / "overlays" / "production" / "anomaly-api" / "trusted.pem", trusted)
    words = [program("onnxd"), "serve"]
    done = subprocess.run(
        words, env=environment(**settings), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 1
    assert f"{trusted}: there is no public key" in done.stderr

    run(["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(trusted)])
    assert PUBLIC_KEY.search(trusted.read_text())
    with served(tmp_path, settings) as server:
        until(lambda: server.get("/readyz", "ops").ok)
        assert server.post("/predict", ROW).headers["x-model-version"] == "1"
        run([*push, str(MODELS / "2" / "model.onnx"), "--as", "challenger"])
        until(lambda: "there is no manifest.json.sig" in server.get("/status", "ops").text)
        assert server.post("/predict", ROW).headers["x-model-version"] == "1"


def repository(mnt: Path) -> dict[str, str]:
    """`storageUri` names a repository."""
    shutil.copytree(MODELS, mnt / "anomaly")
    return {}


def one_file(mnt: Path) -> dict[str, str]:
    """`storageUri` names a folder with model.onnx in it; the InferenceService sets one variable."""
    shutil.copy(MODELS / "1" / "model.onnx", mnt / "model.onnx")
    return {"ONNXD_REPOSITORY": "/mnt/models/model.onnx"}


@pytest.mark.parametrize("stored", [repository, one_file], ids=lambda stored: stored.__name__)
def test_kserve_serves_what_its_storage_initializer_brings(
    tmp_path: Path, stored: Callable[[Path], dict[str, str]]
) -> None:
    (runtime,) = of(render("kserve"), "ServingRuntime")
    (service,) = of(render("kserve"), "InferenceService")
    name = service["metadata"]["name"]
    (container,) = runtime["spec"]["containers"]
    assert container["args"] == ["serve"]
    mnt = tmp_path / "mnt"
    mnt.mkdir()
    own = {one["name"]: one["value"].replace("{{.Name}}", name) for one in container["env"]} | stored(mnt)
    places = {"/mnt/models": mnt, "/tmp": tmp_path / "tmp"}
    with served(tmp_path, placed(own, places)) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = container[probe]["httpGet"]["path"].replace("{{.Name}}", name)
            until(lambda path=path: server.get(path).ok)
        (first,) = server.post(f"/v1/models/{name}:predict", {"instances": [ROW]}).json()["predictions"]
        assert set(first) == ANSWER
        tensor = {"name": "features", "shape": [1, len(ROW)], "datatype": "FP32", "data": list(ROW.values())}
        answer = server.post(f"/v2/models/{name}/infer", {"inputs": [tensor]}).json()
        assert (answer["model_name"], {output["name"] for output in answer["outputs"]}) == (name, ANSWER)
        assert server.get("/v1/models/other").status_code == 404


def test_the_runtime_speaks_what_the_service_asks_for() -> None:
    (runtime,) = of(render("kserve"), "ServingRuntime")
    (service,) = of(render("kserve"), "InferenceService")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in [one["name"] for one in runtime["spec"]["supportedModelFormats"]]
