"""The manifests as Kubernetes would get them, and what can be wrong with them: one sentence a mistake."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
SCHEMAS = ROOT.parent / "shared" / "data" / "k8s-schemas"
"""JSON Schemas of other projects' resource definitions. They are not part of this repository."""
WORKLOADS = ("Deployment", "StatefulSet")
# There is no schema at hand for External Secrets.
UNCHECKED = {"ClusterSecretStore", "ExternalSecret"}
CUSTOM = ("monitoring.coreos.com", "chaos-mesh.org", "serving.kserve.io", "argoproj.io")

EXAMPLES = ("111122223333", "444455556666")
"""Accounts that the overlays name until a user puts in another one."""
PUBLIC_KEY = re.compile(
    r"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA[A-Za-z0-9+/]{43}=\n-----END PUBLIC KEY-----$", re.MULTILINE
)
"""Of Ed25519, as OpenSSL writes it."""

Document = dict[str, Any]


class UnavailableError(Exception):
    """A schema is not on this machine."""


def render(folder: str) -> list[Document]:
    """What `kubectl kustomize k8s/FOLDER` makes."""
    words = ["kubectl", "kustomize", str(K8S / folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        msg = f"{folder}: {done.stderr.strip()}"
        raise AssertionError(msg)
    return list(yaml.safe_load_all(done.stdout))


def read(file: Path) -> list[Document]:
    """The documents of a file."""
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def shown(document: Document) -> str:
    """A document's kind and name, for messages."""
    return f"{document['kind']} {document['metadata']['name']}"


def of(documents: list[Document], *kinds: str) -> list[Document]:
    """Those of some kinds."""
    return [document for document in documents if document["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document:
    """The one of that kind and name."""
    (found,) = [d for d in of(documents, kind) if d["metadata"]["name"] == name]
    return found


def namespace(document: Document) -> str:
    """Where it is."""
    return document["metadata"].get("namespace", "")


# --- schemas


@cache
def _custom(file: Path) -> Draft202012Validator:
    return Draft202012Validator(json.loads(file.read_text()))


@cache
def _policies() -> Draft202012Validator:
    definition = yaml.safe_load((K8S / "operator" / "crd.yaml").read_text())
    (version,) = definition["spec"]["versions"]
    return Draft202012Validator(_strict(version["schema"]["openAPIV3Schema"]))


def _strict(schema: Any) -> Any:
    """The API server drops fields that a schema does not name; here they are mistakes."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(part) for key, part in schema.items()}
    named_here = schema.get("properties")
    if isinstance(named_here, dict) and schema.get("type") == "object" and "additionalProperties" not in schema:
        strict["additionalProperties"] = False
    return strict


def wrong_with(document: Document) -> list[str]:
    """What its schema says of a document.

    Raises:
        UnavailableError: The schema is not on this machine.
    """
    group, _, version = document["apiVersion"].rpartition("/")
    if document["kind"] in UNCHECKED:
        return []
    if group == "onnxd.dev":
        # The definition says nothing of what every object has.
        own = {key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")}
        return _errors(_policies(), own, shown(document))
    if group.endswith(CUSTOM):
        file = SCHEMAS / f"{document['kind'].lower()}-{group}-{version}.json"
        if not SCHEMAS.is_dir():
            msg = f"{SCHEMAS} is not there: nothing was checked against its schemas"
            raise UnavailableError(msg)
        return _errors(_custom(file), document, shown(document))
    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{shown(document)}: {getattr(error, 'message', error)}"]
    return []


def _errors(validator: Draft202012Validator, document: Document, where: str) -> list[str]:
    return [f"{where}: {error.json_path}: {error.message}" for error in validator.iter_errors(document)]


# --- pods


def pods(documents: list[Document]) -> list[Document]:
    """The pods that the workloads make, each with `metadata` (name, namespace, labels) and `spec`."""
    found = []
    for workload in of(documents, *WORKLOADS):
        template = workload["spec"]["template"]
        about = {"name": shown(workload), "namespace": namespace(workload), "labels": template["metadata"]["labels"]}
        found.append({"metadata": about, "spec": template["spec"], "workload": workload})
    return found


def containers(pod: Document) -> list[Document]:
    """All of a pod's containers."""
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def ports(pod: Document) -> dict[str | int, int]:
    """A pod's ports, by their names and numbers."""
    all_of_it = [port for one in containers(pod) for port in one.get("ports", [])]
    return {key: port["containerPort"] for port in all_of_it for key in (port["name"], port["containerPort"])}


def selected(labels: dict[str, str], selector: dict[str, Any]) -> bool:
    """Whether a selector of `matchLabels` takes something with these labels; an empty one takes everything."""
    unknown = set(selector) - {"matchLabels"}
    assert not unknown, f"{unknown} is not understood here"
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _behind(documents: list[Document], selecting: Document, selector: dict[str, Any]) -> list[Document]:
    here = [pod for pod in pods(documents) if namespace(pod) == namespace(selecting)]
    return [pod for pod in here if selected(pod["metadata"]["labels"], selector)]


# --- what must fit together


def selectors(documents: list[Document]) -> Iterator[str]:
    """Whatever selects pods selects those of one workload, at least its own."""
    for pod in pods(documents):
        spreads = pod["spec"].get("topologySpreadConstraints", [])
        for selector in (pod["workload"]["spec"]["selector"], *(spread["labelSelector"] for spread in spreads)):
            if not selected(pod["metadata"]["labels"], selector):
                yield f"{pod['metadata']['name']}: {selector} does not select its own pods"
    for one in of(documents, "PodDisruptionBudget", "NetworkPolicy"):
        selector = one["spec"]["selector" if one["kind"] == "PodDisruptionBudget" else "podSelector"]
        if selector and len(_behind(documents, one, selector)) != 1:
            yield f"{shown(one)} does not select the pods of one workload"
    for scaler in of(documents, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        there = [d for d in of(documents, target["kind"]) if d["metadata"]["name"] == target["name"]]
        if len(there) != 1 or "replicas" in there[0]["spec"]:
            yield f"{shown(scaler)} does not own the replicas of {target['name']}"


def services(documents: list[Document]) -> Iterator[str]:
    """A Service has pods with its ports, and a ServiceMonitor a Service with its port."""
    for service in of(documents, "Service"):
        found = _behind(documents, service, {"matchLabels": service["spec"]["selector"]})
        if len(found) != 1:
            yield f"{shown(service)} selects {len(found)} workloads"
        for port in service["spec"]["ports"]:
            if not all(port["targetPort"] in ports(pod) for pod in found):
                yield f"{shown(service)}: {port['targetPort']} is no port of its pods"
    for monitor in of(documents, "ServiceMonitor"):
        here = [service for service in of(documents, "Service") if namespace(service) == namespace(monitor)]
        taken = [service for service in here if selected(service["metadata"]["labels"], monitor["spec"]["selector"])]
        wanted = {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}
        if len(taken) != 1 or not wanted <= {port["name"] for port in taken[0]["spec"]["ports"]}:
            yield f"{shown(monitor)} does not select the ports {wanted} of one Service"


def probes(documents: list[Document]) -> Iterator[str]:
    """Each container that stays has all three probes, at ports that it has."""
    for pod in pods(documents):
        for one in pod["spec"]["containers"]:
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = one.get(name)
                if probe is None:
                    yield f"{pod['metadata']['name']}: no {name}"
                elif "httpGet" in probe and probe["httpGet"]["port"] not in ports(pod):
                    yield f"{pod['metadata']['name']}: {name} asks at {probe['httpGet']['port']}, which is no port"


def references(documents: list[Document]) -> Iterator[str]:
    """What pods name is there: settings, secrets (or who makes them), volumes, accounts."""
    there = {(d["kind"], namespace(d), d["metadata"]["name"]) for d in documents}
    there |= {("Secret", namespace(d), d["metadata"]["name"]) for d in of(documents, "ExternalSecret")}
    for pod in pods(documents):
        spec = pod["spec"]
        wanted = [("ServiceAccount", spec["serviceAccountName"])] if "serviceAccountName" in spec else []
        for volume in spec.get("volumes", []):
            wanted += [("Secret", volume["secret"]["secretName"])] if "secret" in volume else []
            wanted += [("ConfigMap", volume["configMap"]["name"])] if "configMap" in volume else []
            if "persistentVolumeClaim" in volume:
                wanted.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        mounts = {volume["name"] for volume in spec.get("volumes", [])}
        mounts |= {c["metadata"]["name"] for c in pod["workload"]["spec"].get("volumeClaimTemplates", [])}
        for one in containers(pod):
            wanted += [("ConfigMap", source["configMapRef"]["name"]) for source in one.get("envFrom", [])]
            sources = [variable.get("valueFrom", {}) for variable in one.get("env", [])]
            wanted += [("Secret", s["secretKeyRef"]["name"]) for s in sources if "secretKeyRef" in s]
            for mount in one.get("volumeMounts", []):
                if mount["name"] not in mounts:
                    yield f"{pod['metadata']['name']}: there is no volume {mount['name']}"
        for kind, name in wanted:
            if (kind, namespace(pod), name) not in there:
                yield f"{pod['metadata']['name']}: there is no {kind} {name}"


def hardening(documents: list[Document]) -> Iterator[str]:
    """Pods are such as the Pod Security Standard `restricted` admits, and hold no token that they do not need."""
    for pod in pods(documents):
        name, spec = pod["metadata"]["name"], pod["spec"]
        context = spec.get("securityContext", {})
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{name} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name} has no seccomp profile"
        if any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name} shares what is the host's"
        if spec.get("enableServiceLinks") is not False:
            yield f"{name} gets variables of all Services"
        if name != "Deployment remediation-operator" and spec.get("automountServiceAccountToken") is not False:
            yield f"{name} holds a token for the API"


def containment(documents: list[Document]) -> Iterator[str]:
    """Containers gain nothing, write to volumes with a limit only, and see nothing of the host."""
    for pod in pods(documents):
        name = pod["metadata"]["name"]
        for volume in pod["spec"].get("volumes", []):
            if not set(volume) & {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}:
                yield f"{name}: the volume {volume['name']} is not allowed"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{name}: the volume {volume['name']} has no limit"
        for one in containers(pod):
            own = one.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{name}: {one['name']} may gain privileges"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}: {one['name']} keeps capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name}: {one['name']} may write to its image"


def resources(documents: list[Document]) -> Iterator[str]:
    """Each container says what it needs, and what it may take at most."""
    for pod in pods(documents):
        for one in containers(pod):
            given = one.get("resources", {})
            for kind in ("requests", "limits"):
                lacking = {"cpu", "memory", "ephemeral-storage"} - set(given.get(kind, {}))
                if lacking:
                    yield f"{pod['metadata']['name']}: {one['name']} has no {kind} of {sorted(lacking)}"


def images(documents: list[Document]) -> Iterator[str]:
    """Each image is pinned by an overlay: by a digest, or by a tag that says a version."""
    for pod in pods(documents):
        for one in containers(pod):
            image = one["image"]
            tag = image.rpartition("/")[2].partition(":")[2]
            if "@sha256:" not in image and tag in ("", "latest"):
                yield f"{pod['metadata']['name']}: {image} is not pinned"


def disruption(documents: list[Document]) -> Iterator[str]:
    """A budget for disruptions leaves at least one replica where there are several."""
    least = {
        s["spec"]["scaleTargetRef"]["name"]: s["spec"]["minReplicas"] for s in of(documents, "HorizontalPodAutoscaler")
    }
    for pod in pods(documents):
        workload = pod["workload"]
        name = workload["metadata"]["name"]
        replicas = least.get(name, workload["spec"].get("replicas"))
        all_of_them = of(documents, "PodDisruptionBudget")
        budgets = [one for one in all_of_them if selected(pod["metadata"]["labels"], one["spec"]["selector"])]
        if replicas is None:
            yield f"{name}: nobody says how many replicas there are"
        elif replicas > 1 and len(budgets) != 1:
            yield f"{name}: {replicas} replicas and {len(budgets)} budgets"
        for budget in budgets:
            if replicas and replicas > 1 and budget["spec"]["maxUnavailable"] >= replicas:
                yield f"{shown(budget)} lets all {replicas} replicas go"


def trust(documents: list[Document]) -> Iterator[str]:
    """Servers that load only what is signed know by whom, as soon as they are of somebody's account."""
    accounts = {d["metadata"]["name"]: d["metadata"].get("annotations", {}) for d in of(documents, "ServiceAccount")}
    settings = {d["metadata"]["name"]: d.get("data", {}) for d in of(documents, "ConfigMap")}
    for pod in pods(documents):
        name = pod["metadata"]["name"]
        role = accounts.get(pod["spec"].get("serviceAccountName"), {}).get("eks.amazonaws.com/role-arn", "")
        for one in containers(pod):
            given = [settings.get(source["configMapRef"]["name"], {}) for source in one.get("envFrom", [])]
            file = next((some["ONNXD_REQUIRE_SIGNATURE"] for some in given if "ONNXD_REQUIRE_SIGNATURE" in some), None)
            if file is None:
                continue
            keys = _mounted(file, one, pod, settings)
            if keys is None:
                yield f"{name}: {file} is in no volume"
            elif "PRIVATE" in keys:
                yield f"{name}: {file} holds a private key, for all to read: make another one"
            elif not PUBLIC_KEY.search(keys) and not any(f":{example}:" in role for example in EXAMPLES):
                yield f"{name}: {file} holds no public key: docs/deploy.md#signed-models"


def _mounted(file: str, container: Document, pod: Document, settings: dict[str, dict[str, str]]) -> str | None:
    """A file's text, if a container has it from a ConfigMap."""
    folder, _, key = file.rpartition("/")
    volumes = {one["name"]: one for one in pod["spec"].get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        volume = volumes.get(mount["name"], {})
        if mount["mountPath"] == folder and "configMap" in volume:
            return settings.get(volume["configMap"]["name"], {}).get(key)
    return None


CHECKS = (selectors, services, probes, references, hardening, containment, resources, images, disruption, trust)
"""What holds of everything that an overlay makes."""


def command(name: str) -> str | None:
    """A program of this project: what the variable NAME_BINARY names, or what is built in target/."""
    if given := os.environ.get(f"{name.upper().replace('-', '_')}_BINARY"):
        return given
    built = [ROOT / "target" / profile / name for profile in ("release", "debug")]
    return next((str(path) for path in built if path.is_file()), None)
