"""Renders all that Argo CD deploys from this repository, and tells what is wrong with it: one sentence a mistake.

    .venv-k8s/bin/python gitops/validate.py [--output FOLDER]

Charts are not rendered, for their registries may be out of reach: their versions, values and places are looked at.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "k8s" / "tests"))  # What holds of manifests, and where their schemas are, is said there.

import manifests  # noqa: E402
from manifests import Document, containers, namespace, of, pods, read, shown  # noqa: E402

ENVIRONMENTS = {"prod": ("gitops/root-app.yaml", "production"), "dev": ("gitops/root-app-dev.yaml", "dev")}
"""What is applied by hand, and the folder of `k8s/overlays` that has what differs."""
APART = {"kserve"}
"""Folders of an overlay that no application deploys: they go into namespaces of the user's."""
DEFINED_BY = {"external-secrets": "external-secrets.io", "kube-prometheus-stack": "monitoring.coreos.com"}
"""The charts that bring definitions which others need."""
SHOWN = {"Pod", "ReplicaSet"}
"""Made by Deployments; without being admitted they would not be shown."""
BUILT_IN = {"", "apps", "autoscaling", "policy"}
WAVE = "argocd.argoproj.io/sync-wave"
COMPARED = "argocd.argoproj.io/compare-options"
KEPT = "Prune=false,Delete=false"


class BrokenError(Exception):
    """Something cannot be rendered, so nothing can be said of it."""


@dataclass(frozen=True)
class Part:
    """An application, with the documents of its folders (none of a chart's) and the values that its chart gets."""

    application: Document
    documents: list[Document]
    values: list[Any]

    @property
    def name(self) -> str:
        """Its name."""
        return self.application["metadata"]["name"]

    @property
    def wave(self) -> int:
        """When it comes."""
        return int(self.application["metadata"].get("annotations", {}).get(WAVE, 0))

    @property
    def sources(self) -> list[Document]:
        """Where it comes from."""
        return _sources(self.application)

    @property
    def place(self) -> str:
        """The namespace of what names none."""
        return self.application["spec"]["destination"]["namespace"]

    @property
    def options(self) -> list[str]:
        """Its sync options."""
        return self.application["spec"].get("syncPolicy", {}).get("syncOptions", [])


@dataclass(frozen=True)
class Environment:
    """All that one cluster gets.

    Attributes:
        tree: The repository.
        root: The application of applications, whose documents are these and the projects.
        projects: By their names, the root's among them.
        parts: The applications, in no order.
        overlay: The folder of `k8s/overlays` that is its own.
    """

    tree: Path
    root: Part
    projects: dict[str, Document]
    parts: list[Part]
    overlay: str

    @property
    def documents(self) -> list[Document]:
        """All that is rendered of the parts."""
        return [document for part in self.parts for document in part.documents]


def _sources(application: Document) -> list[Document]:
    spec = application["spec"]
    return spec.get("sources") or [spec["source"]]


@cache
def render(folder: Path) -> list[Document]:
    """What `kubectl kustomize FOLDER` makes.

    Raises:
        BrokenError: It makes nothing.
    """
    words = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise BrokenError(done.stderr.strip())
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def load(tree: Path, name: str) -> Environment:
    """Renders an environment.

    Raises:
        BrokenError: A folder is not there, or not right.
    """
    file, overlay = ENVIRONMENTS[name]
    by_hand = read(tree / file)
    (root,) = of(by_hand, "Application")
    made = render(tree / root["spec"]["source"]["path"])
    projects = {one["metadata"]["name"]: one for one in of(by_hand + made, "AppProject")}
    parts = [_part(tree, one) for one in of(made, "Application")]
    return Environment(tree, Part(root, made, []), projects, parts, overlay)


def _part(tree: Path, application: Document) -> Part:
    documents: list[Document] = []
    values: list[Any] = []
    for source in _sources(application):
        if "path" in source:
            documents += render(tree / source["path"])
        helm = source.get("helm", {})
        for name in helm.get("valueFiles", []):
            file = tree / name.removeprefix("$values/")
            if not file.is_file():
                msg = f"{shown(application)}: there is no {name}"
                raise BrokenError(msg)
            values += read(file)
        values.append(helm.get("valuesObject", {}))
    return Part(application, documents, values)


# --- what must be true of an environment


def sources(environment: Environment) -> Iterator[str]:
    """Folders are of this repository, at the root's revision; charts are of one version."""
    (ours,) = environment.root.sources
    for part in environment.parts:
        for source in part.sources:
            where = (source["repoURL"], source["targetRevision"])
            if "chart" in source:
                if not re.fullmatch(r"\d+\.\d+\.\d+", source["targetRevision"]):
                    yield f"{part.name}: {source['targetRevision']} is no version of a chart"
            elif where != (ours["repoURL"], ours["targetRevision"]):
                yield f"{part.name}: {' at '.join(where)} is not what the root application is of"


def policies(environment: Environment) -> Iterator[str]:
    """Git is made true without being asked; who goes takes along what it made, but for namespaces and definitions."""
    for part in environment.parts:
        spec, policy = part.application["spec"], part.application["spec"].get("syncPolicy", {})
        if policy.get("automated") != {"prune": True, "selfHeal": True} or "backoff" not in policy.get("retry", {}):
            yield f"{part.name} does not sync, prune, heal and try again by itself"
        if not part.application["metadata"].get("finalizers"):
            yield f"{part.name} would leave behind what it made"
        if spec["destination"].get("server") != "https://kubernetes.default.svc":
            yield f"{part.name} goes to another cluster"
        labels = policy.get("managedNamespaceMetadata", {}).get("labels", {})
        if "CreateNamespace=true" in part.options and "pod-security.kubernetes.io/enforce" not in labels:
            yield f"{part.name} makes a namespace that says nothing of what its pods may be"
    if environment.root.application["metadata"].get("finalizers"):
        yield f"{environment.root.name} would take everything along when it is deleted"
    for document in of(environment.documents, "Namespace", "CustomResourceDefinition"):
        if document["metadata"].get("annotations", {}).get("argocd.argoproj.io/sync-options") != KEPT:
            yield f"{shown(document)} would be deleted, with all that is in it"


def applied(environment: Environment) -> Iterator[str]:
    """What the API server adds is no difference, and settings outlive the pods that read them."""
    for part in environment.parts:
        compared = part.application["metadata"].get("annotations", {}).get(COMPARED)
        if ("ServerSideApply=true" in part.options) != (compared == "ServerSideDiff=true"):
            yield f"{part.name} is not compared as it is applied"
        if of(part.documents, "ExternalSecret") and "ServerSideApply=true" not in part.options:
            yield f"{part.name} would always differ: the API server adds to lists of ExternalSecrets"
        if of(part.documents, "ConfigMap") and pods(part.documents) and "PruneLast=true" not in part.options:
            yield f"{part.name} would delete settings that pods still read"


def admitted(environment: Environment) -> Iterator[str]:
    """Each part is within its project, and so is the root."""
    for part in [environment.root, *environment.parts]:
        project = environment.projects.get(part.application["spec"]["project"])
        if project is None:
            yield f"{part.name}: there is no project {part.application['spec']['project']}"
            continue
        spec = project["spec"]
        for url in {source["repoURL"] for source in part.sources} - set(spec["sourceRepos"]):
            yield f"{part.name}: {shown(project)} does not know {url}"
        places = {one["namespace"] for one in spec["destinations"]}
        for place in {part.place, *map(namespace, part.documents)} - {"", *places}:
            yield f"{part.name}: {shown(project)} does not reach {place}"
        for document in part.documents:
            # Without a list, all kinds of a namespace are admitted.
            entries = (
                spec.get("namespaceResourceWhitelist")
                if namespace(document)
                else spec.get("clusterResourceWhitelist", [])
            )
            if entries is not None and not any(_names(entry, document) for entry in entries):
                yield f"{part.name}: {shown(project)} does not admit {shown(document)}"


def _names(entry: Document, document: Document) -> bool:
    alike = (entry["group"], entry["kind"]) == (_group(document), document["kind"])
    return alike and fnmatchcase(document["metadata"]["name"], entry.get("name", "*"))


def _group(document: Document) -> str:
    return document["apiVersion"].rpartition("/")[0]


def needless(environment: Environment) -> Iterator[str]:
    """No project admits what none of its parts needs. Of what charts make, nothing is known but where they are from."""
    for name, project in environment.projects.items():
        spec = project["spec"]
        if "*" in str(spec):
            yield f"{shown(project)} has a *"
        if name == "default":
            continue
        parts = [part for part in [environment.root, *environment.parts] if part.application["spec"]["project"] == name]
        used = {source["repoURL"] for part in parts for source in part.sources}
        yield from (f"{shown(project)}: nothing is from {url}" for url in spec["sourceRepos"] if url not in used)
        if any("chart" in source for part in parts for source in part.sources):
            continue
        documents = [document for part in parts for document in part.documents]
        reached = {namespace(document) for document in documents}
        for one in spec["destinations"]:
            if one["namespace"] not in reached:
                yield f"{shown(project)}: nothing goes to {one['namespace']}"
        for entry in spec.get("clusterResourceWhitelist", []) + spec.get("namespaceResourceWhitelist", []):
            if entry["kind"] not in SHOWN and not any(_names(entry, document) for document in documents):
                yield f"{shown(project)}: nothing is a {entry['kind']} {entry.get('name', '')}".rstrip()


def waves(environment: Environment) -> Iterator[str]:
    """What a part needs is there before it: its project, namespaces, definitions of what it makes, secrets it reads."""
    for project in environment.projects.values():
        wave = int(project["metadata"].get("annotations", {}).get(WAVE, 0))
        own = [part for part in environment.parts if part.application["spec"]["project"] == project["metadata"]["name"]]
        if own and wave >= min(part.wave for part in own):
            yield f"{shown(project)} comes no earlier than what is in it"
    made = _made(environment)
    for part in environment.parts:
        for what in sorted(_needs(part, made)):
            giver = made.get(what)
            if giver is None:
                yield f"{part.name}: nothing makes {' '.join(what)}"
            elif giver is not part and giver.wave >= part.wave:
                yield f"{part.name} comes no later than {giver.name}, which makes {' '.join(what)}"


Thing = tuple[str, ...]
"""A namespace, an API group or a secret: the kind, then where and what."""


def _made(environment: Environment) -> dict[Thing, Part]:
    made: dict[Thing, Part] = {}
    for part in environment.parts:
        for document in part.documents:
            if document["kind"] == "Namespace":
                made["namespace", document["metadata"]["name"]] = part
            elif document["kind"] == "CustomResourceDefinition":
                made["group", document["spec"]["group"]] = part
            elif document["kind"] == "ExternalSecret":
                made["secret", namespace(document), document["metadata"]["name"]] = part
        if "CreateNamespace=true" in part.options:
            made["namespace", part.place] = part
        for source in part.sources:
            if source.get("chart") in DEFINED_BY:
                made["group", DEFINED_BY[source["chart"]]] = part
    return made


def _needs(part: Part, made: dict[Thing, Part]) -> Iterator[Thing]:
    for place in {part.place, *map(namespace, part.documents)} - {"", "kube-system"}:
        yield ("namespace", place)
    for group in {_group(document) for document in part.documents}:
        if group not in BUILT_IN and not group.endswith(".k8s.io"):
            yield ("group", group)
    for pod in pods(part.documents):
        volumes = [volume["secret"]["secretName"] for volume in pod["spec"].get("volumes", []) if "secret" in volume]
        variables = [variable.get("valueFrom", {}) for one in containers(pod) for variable in one.get("env", [])]
        read_by_it = volumes + [one["secretKeyRef"]["name"] for one in variables if "secretKeyRef" in one]
        yield from (("secret", namespace(pod), name) for name in read_by_it)
    # A chart's values name secrets in fields of many names: whatever is called as one of ours is meant.
    named = set(words(part.values))
    yield from (what for what in made if what[0] == "secret" and what[1] == part.place and what[2] in named)


def words(values: Any) -> Iterator[str]:  # noqa: ANN401 - as YAML has it
    """The texts that are values of a document."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        for value in values:
            yield from words(value)
    elif isinstance(values, str):
        yield values


def complete(environment: Environment) -> Iterator[str]:
    """Every folder is deployed by one application, every object once; together they are the whole overlay."""
    overlay = environment.tree / "k8s" / "overlays" / environment.overlay
    folders = {
        str(file.parent.relative_to(environment.tree))
        for file in overlay.glob("*/kustomization.yaml")
        if file.parent.name not in APART and yaml.safe_load(file.read_text())["kind"] == "Kustomization"
    }
    deployed = Counter(source["path"] for part in environment.parts for source in part.sources if "path" in source)
    for folder in sorted(folders | {"k8s/monitoring", "k8s/grafana"} | set(deployed)):
        if deployed[folder] != 1:
            yield f"{folder} is deployed by {deployed[folder]} applications"
    for what, times in Counter(map(_identity, environment.documents)).items():
        if times > 1:
            yield f"{' '.join(what).strip()} is in {times} applications"
    apart = [d for part in environment.parts if _of_an_overlay(part) for d in part.documents]
    if sorted(map(repr, apart)) != sorted(map(repr, render(overlay))):
        yield f"the applications do not make what k8s/overlays/{environment.overlay} is"


def _of_an_overlay(part: Part) -> bool:
    return any(source.get("path", "").startswith("k8s/overlays/") for source in part.sources)


def _identity(document: Document) -> Thing:
    return (document["kind"], namespace(document), document["metadata"]["name"])


def images(environment: Environment) -> Iterator[str]:
    """Each image is of one version."""
    yield from manifests.images(environment.documents)


def trust(environment: Environment) -> Iterator[str]:
    """Servers that load only what is signed know by whom."""
    yield from manifests.trust(environment.documents)


CHECKS: tuple[Callable[[Environment], Iterator[str]], ...] = (
    sources,
    policies,
    applied,
    admitted,
    needless,
    waves,
    complete,
    images,
    trust,
)


def schemas(environment: Environment) -> Iterator[str]:
    """Everything fits its schema.

    Raises:
        manifests.UnavailableError: There are no schemas of other projects' resources on this machine.
    """
    ours = [
        environment.root.application,
        *environment.projects.values(),
        *(part.application for part in environment.parts),
    ]
    for document in ours + environment.documents:
        yield from manifests.wrong_with(document)


def charts(environment: Environment) -> dict[str, tuple[str, str]]:
    """The charts that are used, each with its repository and version."""
    all_of_them = [source for part in environment.parts for source in part.sources if "chart" in source]
    return {source["chart"]: (source["repoURL"], source["targetRevision"]) for source in all_of_them}


def alike(environments: list[Environment]) -> Iterator[str]:
    """Environments differ in folders and roles, never in the version of a chart."""
    first, *others = environments
    for other in others:
        for chart in charts(first).keys() & charts(other).keys():
            if charts(first)[chart] != charts(other)[chart]:
                yield f"{chart} is not of one version in {first.overlay} and {other.overlay}"


# --- on the command line


def _table(environment: Environment) -> Iterator[str]:
    for part in sorted(environment.parts, key=lambda part: (part.wave, part.name)):
        source = next(source for source in part.sources if "ref" not in source)
        what = source.get("path") or f"{source['chart']} {source['targetRevision']}"
        project, size = part.application["spec"]["project"], len(part.documents) or "chart"
        yield f"  {part.wave}  {part.name:<19} {project:<11} {what:<38} {part.place:<17} {size}"


def main() -> int:
    """Tells what each environment gets, and its mistakes. Returns 1 where there are some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write what is rendered into this folder, a file an application")
    folder = parser.parse_args().output
    mistakes: list[str] = []
    environments = []
    for name in ENVIRONMENTS:
        try:
            environment = load(ROOT, name)
        except BrokenError as broken:
            mistakes.append(f"{name}: {broken}")
            continue
        print(f"{name}: wave, application, project, what, namespace", *_table(environment), sep="\n")
        for check in CHECKS:
            mistakes += [f"{name}: {mistake}" for mistake in check(environment)]
        try:
            mistakes += [f"{name}: {mistake}" for mistake in schemas(environment)]
        except manifests.UnavailableError as missing:
            print(f"{name}: {missing}")
        if folder:
            _write(environment, folder / name)
        environments.append(environment)
    if environments:
        mistakes += alike(environments)
    print(*mistakes, f"{len(mistakes)} mistakes", sep="\n")
    return 1 if mistakes else 0


def _write(environment: Environment, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part in environment.parts:
        documents = [part.application, *part.documents]
        (folder / f"{part.name}.yaml").write_text(yaml.safe_dump_all(documents, sort_keys=False))


if __name__ == "__main__":
    sys.exit(main())
