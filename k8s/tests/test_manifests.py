"""What `kubectl apply -k` would send: it fits the schemas, its parts fit each other, and mistakes would be found."""

import copy
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import manifests
from manifests import CHECKS, K8S, Document, containers, named, of, pods, read, render, shown, wrong_with

OVERLAYS = ("overlays/local", "overlays/production", "overlays/dev")
CHAOS = (K8S / "chaos-pod-kill.yaml", *sorted((K8S / "chaos").glob("*.yaml")))
# Rules and dashboards have tests of their own.
ELSEWHERE = {"monitoring", "grafana", "prometheus", "tests"}


@cache
def rendered(folder: str) -> list[Document]:
    """`render`, once."""
    return render(folder)


@pytest.fixture
def overlay(request: pytest.FixtureRequest) -> list[Document]:
    """A copy of what the overlay makes, to be changed."""
    return copy.deepcopy(rendered(request.param))


def folders() -> list[str]:
    """All that can be rendered."""
    found = []
    for file in sorted(K8S.rglob("kustomization.yaml")):
        folder = file.parent.relative_to(K8S)
        if folder.parts[0] not in ELSEWHERE and yaml.safe_load(file.read_text())["kind"] == "Kustomization":
            found.append(str(folder))
    return found


def schema_mistakes(documents: list[Document]) -> list[str]:
    """Those of all documents; without the schemas of others, the test is skipped and says so."""
    try:
        return [mistake for document in documents for mistake in wrong_with(document)]
    except manifests.UnavailableError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("folder", folders())
def test_every_base_and_overlay_is_rendered_and_fits_the_schemas(folder: str) -> None:
    documents = rendered(folder)
    assert documents
    assert schema_mistakes(documents) == []


@pytest.mark.parametrize("file", CHAOS, ids=lambda file: file.name)
def test_experiments_fit_the_schemas_of_chaos_mesh(file: Path) -> None:
    assert schema_mistakes(read(file)) == []


def test_values_for_the_adapter_make_the_metric_that_the_autoscaler_asks_for() -> None:
    (values,) = read(K8S / "anomaly-api" / "prometheus-adapter-values.yaml")
    (rule,) = values["rules"]["custom"]
    (scaler,) = of(rendered("anomaly-api"), "HorizontalPodAutoscaler")
    asked = [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if metric["type"] == "Pods"]
    assert asked == [rule["name"]["as"]]
    assert rule["seriesQuery"].startswith("onnxd_queue_rows{")
    assert "`onnxd_queue_rows`" in (K8S.parent / "docs" / "metrics.md").read_text()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("overlay", OVERLAYS, indirect=True)
def test_parts_fit_each_other(overlay: list[Document], check: Callable[[list[Document]], Iterator[str]]) -> None:
    assert list(check(overlay)) == []


@pytest.mark.parametrize("folder", OVERLAYS)
def test_names_are_those_that_all_parts_agree_on(folder: str) -> None:
    documents = rendered(folder)
    ours = {"anomaly-api": "ml", "collector": "ml", "remediation-operator": "ml", "mlflow": "mlflow"}
    for name, place in ours.items():
        for kind in ("Deployment", "Service", "ServiceAccount"):
            assert named(documents, kind, name)["metadata"]["namespace"] == place
        assert named(documents, "Deployment", name)["spec"]["template"]["metadata"]["labels"]["app"] == name
    ports = {port["name"]: port["port"] for port in named(documents, "Service", "anomaly-api")["spec"]["ports"]}
    assert ports == {"http": 80, "grpc": 8081, "ops": 8082}
    for name, port in (("anomaly-api", 8080), ("collector", 8083), ("remediation-operator", 8084)):
        numbers = [p["containerPort"] for p in _container(documents, name)["ports"]]
        assert port in numbers
    assert all(
        space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        for space in of(documents, "Namespace")
        if space["metadata"]["name"] in {pod["metadata"]["namespace"] for pod in pods(documents)}
    )


def test_the_local_overlay_names_the_images_that_are_built_here() -> None:
    version = tomllib.loads((K8S.parent / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    used = {container["image"] for pod in pods(rendered("overlays/local")) for container in containers(pod)}
    ours = {image for image in used if "/" not in image}
    assert ours == {f"{file.stem}:{version}" for file in (K8S / "images").glob("*.Containerfile")}


@pytest.mark.parametrize("folder", OVERLAYS)
def test_a_pod_has_time_to_end(folder: str) -> None:
    documents = rendered(folder)
    pod = named(documents, "Deployment", "anomaly-api")["spec"]["template"]["spec"]
    settings = _settings(documents, "anomaly-api")
    (server,) = pod["containers"]
    grace, drain = (int(settings[f"ONNXD_{name}"].removesuffix("s")) for name in ("GRACE_PERIOD", "DRAIN_DELAY"))
    assert drain < grace
    assert server["lifecycle"]["preStop"]["sleep"]["seconds"] + grace < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_folders_that_are_written_to_are_volumes(folder: str) -> None:
    for name, settings in (
        ("anomaly-api", ("ONNXD_CACHE", "ONNXD_STATE")),
        ("collector", ("COLLECTOR_ROWS",)),
        ("mlflow", ("MLFLOW_ARTIFACTS_DESTINATION", "HOME")),
    ):
        values = _settings(rendered(folder), name)
        mounts = [mount["mountPath"] for mount in _container(rendered(folder), name).get("volumeMounts", [])]
        for setting in settings:
            assert values[setting] in mounts or values[setting].startswith("s3://"), setting


def test_the_documentation_names_what_the_user_has_to_make() -> None:
    told = (K8S.parent / "docs" / "kubernetes.md").read_text()
    documents = rendered("overlays/production")
    for secret in of(documents, "ExternalSecret"):
        spec = secret["spec"]
        keys = [one["remoteRef"]["key"] for one in spec.get("data", [])]
        keys += [one["extract"]["key"] for one in spec.get("dataFrom", [])]
        assert [key for key in keys if f"`{key}`" not in told] == [], shown(secret)
    (policy,) = of(documents, "RemediationPolicy")
    assert f"`{policy['spec']['retraining']['stateMachineArn'].rpartition(':')[2]}`" in told
    for account in of(documents, "ServiceAccount"):
        role = account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/")[2]
        assert f"`{role}`" in told


def test_chaos_hits_one_pod_at_a_time_of_what_is_deployed() -> None:
    (schedule,) = read(CHAOS[0])
    spec = schedule["spec"]
    assert (schedule["kind"], spec["type"], spec["schedule"]) == ("Schedule", "PodChaos", "*/5 * * * *")
    assert (spec["podChaos"]["mode"], spec["podChaos"]["duration"]) == ("one", "60s")
    assert spec["concurrencyPolicy"] == "Forbid"
    hit = [pod for file in CHAOS for one in read(file) for pod in _hit(one)]
    assert {pod["metadata"]["name"] for pod in hit} == {"Deployment anomaly-api"}
    # A container that is paused for 60 s is not started anew by its own probe.
    startup = _container(rendered("overlays/production"), "anomaly-api")["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] > 60


def _hit(experiment: Document) -> list[Document]:
    chaos = experiment["spec"].get("podChaos", experiment["spec"])
    selector = chaos["selector"]
    if "onnxd.dev/chaos" in selector["labelSelectors"]:
        return []
    everything = pods(rendered("overlays/production"))
    return [
        pod
        for pod in everything
        if pod["metadata"]["namespace"] in selector["namespaces"]
        and selector["labelSelectors"].items() <= pod["metadata"]["labels"].items()
    ]


def _container(documents: list[Document], name: str) -> Document:
    pod = named(documents, "Deployment", name)["spec"]["template"]["spec"]
    return pod["containers"][0]


def _settings(documents: list[Document], name: str) -> dict[str, str]:
    (source,) = _container(documents, name)["envFrom"]
    return named(documents, "ConfigMap", source["configMapRef"]["name"])["data"]


# --- that mistakes are found: each changes one thing, and names who must say so

API = ("Deployment", "anomaly-api")


def _pod(documents: list[Document], name: str = "anomaly-api") -> Document:
    return named(documents, "Deployment", name)["spec"]["template"]["spec"]


KEY = f"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{'A' * 43}=\n-----END PUBLIC KEY-----\n"
OWNED = "arn:aws:iam::999900001111:role/ml-anomaly-eks-anomaly-api"


def _trusted(documents: list[Document], text: str, *, role: str = OWNED) -> None:
    """Somebody's overlay, with this in the place of the key."""
    named(documents, "ServiceAccount", "anomaly-api")["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] = role
    volume = next(v for v in _pod(documents)["volumes"] if v["name"] == "trusted")
    named(documents, "ConfigMap", volume["configMap"]["name"])["data"]["trusted.pem"] = text


def _without(items: list[Document], name: str) -> None:
    items.remove(next(one for one in items if one["name"] == name))


MISTAKES: dict[str, tuple[Callable[[list[Document]], object], str]] = {
    "an account without a key": (lambda d: _trusted(d, "Here comes the public key"), "trust"),
    "a key of another kind": (lambda d: _trusted(d, KEY.replace("MCowBQYDK2VwAyEA", "MCowBQYDK2VuAyEA")), "trust"),
    "a private key": (lambda d: _trusted(d, KEY + "-----BEGIN PRIVATE KEY-----\n"), "trust"),
    "a private key in the example": (
        lambda d: _trusted(d, "-----BEGIN PRIVATE KEY-----\n", role="arn:aws:iam::111122223333:role/x"),
        "trust",
    ),
    "keys that are not mounted": (lambda d: _without(_pod(d)["containers"][0]["volumeMounts"], "trusted"), "trust"),
    "a Service selects nothing": (
        lambda d: named(d, "Service", "anomaly-api")["spec"]["selector"].update(app="other"),
        "services",
    ),
    "a Service names no port": (
        lambda d: named(d, "Service", "collector")["spec"]["ports"][0].update(targetPort="http"),
        "services",
    ),
    "a template has another label": (
        lambda d: named(d, *API)["spec"]["template"]["metadata"]["labels"].update(app="other"),
        "selectors",
    ),
    "a ServiceMonitor asks at no port": (
        lambda d: named(d, "ServiceMonitor", "anomaly-api")["spec"]["endpoints"][0].update(port="metrics"),
        "services",
    ),
    "replicas belong to two": (lambda d: named(d, *API)["spec"].update(replicas=3), "selectors"),
    "a probe asks at no port": (
        lambda d: _pod(d)["containers"][0]["readinessProbe"]["httpGet"].update(port="metrics"),
        "probes",
    ),
    "no probe": (lambda d: _pod(d, "mlflow")["containers"][0].pop("livenessProbe"), "probes"),
    "a secret that nobody makes": (
        lambda d: next(v for v in _pod(d)["volumes"] if "secret" in v)["secret"].update(secretName="other"),
        "references",
    ),
    "settings that are not there": (
        lambda d: _pod(d)["containers"][0]["envFrom"][0]["configMapRef"].update(name="anomaly-api"),
        "references",
    ),
    "an account that is not there": (lambda d: _pod(d).update(serviceAccountName="other"), "references"),
    "root": (lambda d: _pod(d)["securityContext"].pop("runAsNonRoot"), "hardening"),
    "a writable image": (
        lambda d: _pod(d)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        "containment",
    ),
    "a capability": (
        lambda d: _pod(d)["containers"][0]["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "containment",
    ),
    "a host's path": (
        lambda d: _pod(d)["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
        "containment",
    ),
    "no request": (lambda d: _pod(d)["containers"][0]["resources"]["requests"].pop("cpu"), "resources"),
    "no limit": (lambda d: _pod(d)["containers"][0]["resources"]["limits"].pop("memory"), "resources"),
    "an image without a version": (lambda d: _pod(d)["containers"][0].update(image="onnxd"), "images"),
    "the latest image": (lambda d: _pod(d)["containers"][0].update(image="a.example:5000/onnxd:latest"), "images"),
    "a budget for all replicas": (
        lambda d: named(d, "PodDisruptionBudget", "anomaly-api")["spec"].update(maxUnavailable=3),
        "disruption",
    ),
    "no budget": (
        lambda d: d.remove(named(d, "PodDisruptionBudget", "remediation-operator")),
        "disruption",
    ),
}


@pytest.mark.parametrize("overlay", ["overlays/production", "overlays/dev"], indirect=True)
def test_servers_load_only_what_is_signed_by_a_key_of_the_overlay(overlay: list[Document]) -> None:
    file = _settings(overlay, "anomaly-api")["ONNXD_REQUIRE_SIGNATURE"]
    (mount,) = [m for m in _container(overlay, "anomaly-api")["volumeMounts"] if file.startswith(f"{m['mountPath']}/")]
    assert mount["readOnly"]
    for keys in (KEY, KEY + KEY, f"# The first one\n{KEY}"):
        _trusted(overlay, keys)
        assert list(manifests.trust(overlay)) == []
    # One line less, and no key is needed.
    (source,) = _container(overlay, "anomaly-api")["envFrom"]
    named(overlay, "ConfigMap", source["configMapRef"]["name"])["data"].pop("ONNXD_REQUIRE_SIGNATURE")
    _trusted(overlay, "")
    assert [mistake for check in CHECKS for mistake in check(overlay)] == []


def test_each_environment_has_its_own_key() -> None:
    texts = {
        folder: (K8S / folder / "anomaly-api" / "trusted.pem").read_text()
        for folder in ("overlays/production", "overlays/dev")
    }
    for folder, text in texts.items():
        held = [
            d for d in of(rendered(folder), "ConfigMap") if d["metadata"]["name"].startswith("anomaly-api-trusted-")
        ]
        assert [one["data"] for one in held] == [{"trusted.pem": text}]


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("overlay", ["overlays/production"], indirect=True)
def test_a_mistake_is_found(overlay: list[Document], mistake: str) -> None:
    make, by = MISTAKES[mistake]
    make(overlay)
    (check,) = [check for check in CHECKS if check.__name__ == by]
    assert list(check(overlay))


MISFITS: dict[str, tuple[tuple[str, str], Callable[[Document], object]]] = {
    "a number in words": (API, lambda d: d["spec"].update(minReadySeconds="three")),
    "an unknown field": (API, lambda d: d["spec"]["template"]["spec"]["containers"][0].update(readOnly=True)),
    "a missing field": (("HorizontalPodAutoscaler", "anomaly-api"), lambda d: d["spec"].pop("maxReplicas")),
    "another project's unknown field": (
        ("ServiceMonitor", "anomaly-api"),
        lambda d: d["spec"]["endpoints"][0].update(scrapeNativeHistograms=True),
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("overlay", ["overlays/production"], indirect=True)
def test_what_does_not_fit_a_schema_is_found(overlay: list[Document], misfit: str) -> None:
    (kind, name), make = MISFITS[misfit]
    document = named(overlay, kind, name)
    make(document)
    assert schema_mistakes([document])


def test_an_unknown_experiment_is_found() -> None:
    (schedule,) = read(CHAOS[0])
    schedule["spec"]["podChaos"]["action"] = "pod-sleep"
    schedule["spec"].pop("type")
    found = schema_mistakes([schedule])
    assert len(found) == 2, found


def test_a_policy_that_the_definition_does_not_know_is_found() -> None:
    (policy,) = of(rendered("overlays/production"), "RemediationPolicy")
    assert wrong_with(policy) == []
    wrong = copy.deepcopy(policy)
    wrong["spec"]["coolDowns"] = "10m"
    assert wrong_with(wrong), shown(policy)


def test_every_container_is_looked_at() -> None:
    local = {one["name"] for pod in pods(rendered("overlays/local")) for one in containers(pod)}
    assert local == {"onnxd", "push", "collector", "remediation-operator", "mlflow", "postgres"}
