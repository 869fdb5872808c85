"""What Argo CD would deploy is right, and mistakes made on purpose are found."""

import copy
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import manifests
import monitoring
import validate
from validate import CHECKS, ENVIRONMENTS, ROOT, BrokenError, Environment, Part, alike, charts, load, schemas

DOCUMENT = (ROOT / "docs" / "gitops.md").read_text()


@cache
def loaded(name: str) -> Environment:
    """`load`, once."""
    return load(ROOT, name)


@pytest.fixture
def prod() -> Environment:
    """A copy of production, to be changed."""
    return copy.deepcopy(loaded("prod"))


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_environment_is_right(name: str, check: Callable) -> None:
    assert list(check(loaded(name))) == []


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_fits_the_schemas(name: str) -> None:
    try:
        assert list(schemas(loaded(name))) == []
    except manifests.UnavailableError as missing:
        pytest.skip(str(missing))


def test_environments_have_the_same_charts_and_roots() -> None:
    assert list(alike([loaded(name) for name in ENVIRONMENTS])) == []
    prod, dev = ((ROOT / file).read_text().partition("\n")[2] for file, _ in ENVIRONMENTS.values())
    assert prod.replace("gitops/overlays/prod", "gitops/overlays/dev") == dev


def test_a_version_of_a_chart_is_in_one_file() -> None:
    files = [file for file in (ROOT / "gitops").rglob("*.yaml") if file.parent.name != "argocd"]
    for chart, (_, version) in charts(loaded("dev")).items():
        holding = [file.name for file in files if re.search(rf"\b{re.escape(version)}\b", file.read_text())]
        assert len(holding) == 1, (chart, holding)


def test_services_are_called_what_others_ask(prod: Environment) -> None:
    # The stack calls what is its own `<release>-kube-prometheus-..`, unless values say otherwise.
    stack, grafana = _part(prod, "prometheus"), _part(prod, "grafana")
    assert stack.sources[0]["helm"]["releaseName"] == "prometheus"
    assert not any("fullnameOverride" in values or "nameOverride" in values for values in stack.values)
    assert [values["fullnameOverride"] for values in grafana.values if "fullnameOverride" in values] == ["grafana"]
    asked = "http://prometheus-kube-prometheus-prometheus.monitoring.svc"
    assert [values["prometheus"]["url"] for values in _part(prod, "prometheus-adapter").values if values] == [asked]


# --- mistakes in what is rendered: each changes one thing, and names who must say what


def _part(environment: Environment, name: str) -> Part:
    (found,) = [part for part in environment.parts if part.name == name]
    return found


def _spec(environment: Environment, name: str) -> dict[str, Any]:
    return _part(environment, name).application["spec"]


def _project(environment: Environment, name: str) -> dict[str, Any]:
    return environment.projects[name]["spec"]


def _wave(environment: Environment, name: str, wave: int) -> None:
    _part(environment, name).application["metadata"]["annotations"][validate.WAVE] = str(wave)


def _document(environment: Environment, part: str, kind: str) -> dict[str, Any]:
    return manifests.of(_part(environment, part).documents, kind)[0]


MISTAKES: dict[str, tuple[Callable[[Environment], object], str, str]] = {
    "another repository": (
        lambda e: _spec(e, "mlflow")["source"].update(repoURL="https://git.example.com/other.git"),
        "sources",
        "mlflow: https://git.example.com/other.git at main is not",
    ),
    "another revision of the values": (
        lambda e: _spec(e, "prometheus")["sources"][1].update(targetRevision="HEAD"),
        "sources",
        "prometheus: .* at HEAD is not",
    ),
    "a chart of many versions": (
        lambda e: _spec(e, "grafana")["sources"][0].update(targetRevision="11.*"),
        "sources",
        r"grafana: 11\.\* is no version",
    ),
    "nothing heals": (
        lambda e: _spec(e, "collector")["syncPolicy"]["automated"].update(selfHeal=False),
        "policies",
        "collector does not sync, prune, heal",
    ),
    "no second try": (lambda e: _spec(e, "collector")["syncPolicy"].pop("retry"), "policies", "collector does not"),
    "nothing is cleaned up": (
        lambda e: _part(e, "operator").application["metadata"].pop("finalizers"),
        "policies",
        "operator would leave behind",
    ),
    "another cluster": (
        lambda e: _spec(e, "mlflow")["destination"].update(server="https://10.0.0.1"),
        "policies",
        "mlflow goes to another cluster",
    ),
    "a namespace that admits everything": (
        lambda e: _spec(e, "external-dns")["syncPolicy"].update(syncOptions=["CreateNamespace=true"]),
        "policies",
        "external-dns makes a namespace that says nothing",
    ),
    "applied in one way and compared in another": (
        lambda e: _spec(e, "prometheus")["syncPolicy"].pop("syncOptions"),
        "applied",
        "prometheus is not compared as it is applied",
    ),
    "defaults in lists": (
        lambda e: _spec(e, "secrets")["syncPolicy"].pop("syncOptions"),
        "applied",
        "secrets would always differ",
    ),
    "settings that go before the pods that read them": (
        lambda e: _spec(e, "mlflow")["syncPolicy"].pop("syncOptions"),
        "applied",
        "mlflow would delete settings that pods still read",
    ),
    "a namespace that may be pruned": (
        lambda e: _document(e, "namespaces", "Namespace")["metadata"].pop("annotations"),
        "policies",
        "Namespace .* would be deleted",
    ),
    "a definition that may be pruned": (
        lambda e: _document(e, "operator", "CustomResourceDefinition")["metadata"].pop("annotations"),
        "policies",
        "CustomResourceDefinition .* would be deleted",
    ),
    "a root that takes everything along": (
        lambda e: e.root.application["metadata"].update(finalizers=["resources-finalizer.argocd.argoproj.io"]),
        "policies",
        "root would take everything along",
    ),
    "a root that makes something else": (
        lambda e: e.root.documents[0].update(kind="ApplicationSet"),
        "admitted",
        "root: AppProject root does not admit ApplicationSet",
    ),
    "no such project": (lambda e: e.projects.pop("ml"), "admitted", "mlflow: there is no project ml"),
    "a chart from elsewhere": (
        lambda e: _spec(e, "external-dns")["source"].update(repoURL="https://charts.example.com"),
        "admitted",
        "external-dns: AppProject add-ons does not know https://charts.example.com",
    ),
    "a chart in another's namespace": (
        lambda e: _spec(e, "external-dns")["destination"].update(namespace="ml"),
        "admitted",
        "external-dns: AppProject add-ons does not reach ml",
    ),
    "a resource in another's namespace": (
        lambda e: _document(e, "mlflow", "Service")["metadata"].update(namespace="monitoring"),
        "admitted",
        "mlflow: AppProject ml does not reach monitoring",
    ),
    "a kind that nobody expects": (
        lambda e: _document(e, "collector", "Service").update(kind="Secret"),
        "admitted",
        "collector: AppProject ml does not admit Secret collector",
    ),
    "rights in the whole cluster": (
        lambda e: _part(e, "collector").documents.append(_document(e, "operator", "ClusterRole")),
        "admitted",
        "collector: AppProject ml does not admit ClusterRole remediation-operator",
    ),
    "another's rights in the whole cluster": (
        lambda e: _document(e, "operator", "ClusterRole")["metadata"].update(name="cluster-admin"),
        "admitted",
        "operator: AppProject operator does not admit ClusterRole cluster-admin",
    ),
    "a project for everything": (
        lambda e: _project(e, "ml")["sourceRepos"].append("*"),
        "needless",
        r"AppProject ml has a \*",
    ),
    "a repository that nobody uses": (
        lambda e: _project(e, "add-ons")["sourceRepos"].append("https://charts.example.com"),
        "needless",
        "AppProject add-ons: nothing is from https://charts.example.com",
    ),
    "a namespace that nobody uses": (
        lambda e: _project(e, "operator")["destinations"].append({"namespace": "kube-system"}),
        "needless",
        "AppProject operator: nothing goes to kube-system",
    ),
    "a kind that nobody uses": (
        lambda e: _project(e, "ml")["namespaceResourceWhitelist"].append({"group": "", "kind": "Secret"}),
        "needless",
        "AppProject ml: nothing is a Secret",
    ),
    "a project after its applications": (
        lambda e: e.projects["ml"]["metadata"]["annotations"].update({validate.WAVE: "5"}),
        "waves",
        "AppProject ml comes no earlier",
    ),
    "pods before their secret": (
        lambda e: _wave(e, "mlflow", 2),
        "waves",
        "mlflow comes no later than secrets, which makes secret mlflow mlflow-database",
    ),
    "a chart before its secret": (
        lambda e: _wave(e, "prometheus", 2),
        "waves",
        "prometheus comes no later than secrets, which makes secret monitoring alertmanager-receivers",
    ),
    "another chart before its secret": (
        lambda e: _wave(e, "grafana", 1),
        "waves",
        "grafana comes no later than secrets, which makes secret monitoring grafana-admin",
    ),
    "secrets before their definition": (
        lambda e: _wave(e, "secrets", 1),
        "waves",
        "secrets comes no later than external-secrets, which makes group external-secrets.io",
    ),
    "rules before their definition": (
        lambda e: _wave(e, "rules", 3),
        "waves",
        "rules comes no later than prometheus, which makes group monitoring.coreos.com",
    ),
    "everything before its namespace": (
        lambda e: _wave(e, "namespaces", 4),
        "waves",
        "secrets comes no later than namespaces, which makes namespace ml",
    ),
    "a secret that nobody makes": (
        lambda e: _document(e, "secrets", "ExternalSecret")["metadata"].update(name="other"),
        "waves",
        "mlflow: nothing makes secret mlflow mlflow-database",
    ),
    "a definition that nobody brings": (
        lambda e: e.parts.remove(_part(e, "prometheus")),
        "waves",
        "rules: nothing makes group monitoring.coreos.com",
    ),
    "a part that nobody deploys": (
        lambda e: e.parts.remove(_part(e, "collector")),
        "complete",
        "k8s/overlays/production/collector is deployed by 0 applications",
    ),
    "a part that two deploy": (
        lambda e: e.parts.append(_part(e, "collector")),
        "complete",
        "Deployment ml collector is in 2 applications",
    ),
    "another environment's part": (
        lambda e: _part(e, "collector").documents.__setitem__(slice(None), _part(loaded("dev"), "collector").documents),
        "complete",
        "the applications do not make what k8s/overlays/production is",
    ),
    "no dashboards": (
        lambda e: e.parts.remove(_part(e, "dashboards")),
        "complete",
        "k8s/grafana is deployed by 0 applications",
    ),
    "an image without a version": (
        lambda e: manifests.containers(manifests.pods(_part(e, "mlflow").documents)[0])[0].update(image="mlflow"),
        "images",
        "Deployment mlflow: mlflow is not pinned",
    ),
    "an account without a key": (
        lambda e: _document(e, "anomaly-api", "ServiceAccount")["metadata"]["annotations"].update(
            {"eks.amazonaws.com/role-arn": "arn:aws:iam::999900001111:role/ml-anomaly-eks-anomaly-api"}
        ),
        "trust",
        "Deployment anomaly-api: /etc/onnxd/trusted/trusted.pem holds no public key: docs/deploy.md#signed-models",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(prod: Environment, mistake: str) -> None:
    make, by, message = MISTAKES[mistake]
    make(prod)
    (check,) = [check for check in CHECKS if check.__name__ == by]
    found = list(check(prod))
    assert any(re.match(message, one) for one in found), found


def test_every_check_finds_something() -> None:
    assert {by for _, by, _ in MISTAKES.values()} == {check.__name__ for check in CHECKS}


def test_another_version_in_dev_is_found(prod: Environment) -> None:
    _spec(prod, "grafana")["sources"][0]["targetRevision"] = "11.1.8"
    assert list(alike([prod, loaded("dev")])) == ["grafana is not of one version in production and dev"]


def test_a_field_that_argo_cd_does_not_know_is_found(prod: Environment) -> None:
    _spec(prod, "mlflow")["syncPolicy"]["selfHeal"] = True
    try:
        (found,) = schemas(prod)
    except manifests.UnavailableError as missing:
        pytest.skip(str(missing))
    assert "Application mlflow" in found
    assert "selfHeal" in found


# --- mistakes in the files, and what a user does with them


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what Argo CD reads, to be changed."""
    for folder in ("gitops", "k8s"):
        ignored = shutil.ignore_patterns("src", "tests", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    return tmp_path


def test_a_folder_that_is_not_there_is_told(tree: Path) -> None:
    shutil.rmtree(tree / "k8s" / "overlays" / "production" / "collector")
    with pytest.raises(BrokenError, match="overlays/production/collector"):
        load(tree, "prod")


def test_values_that_are_not_there_are_told(tree: Path) -> None:
    (tree / "k8s" / "prometheus" / "values.yaml").unlink()
    with pytest.raises(BrokenError, match=r"Application prometheus: there is no \$values/k8s/prometheus/values.yaml"):
        load(tree, "prod")


def test_a_folder_that_is_new_needs_an_application(tree: Path) -> None:
    overlay = tree / "k8s" / "overlays" / "production"
    shutil.copytree(overlay / "collector", overlay / "second")
    assert "k8s/overlays/production/second is deployed by 0 applications" in list(validate.complete(load(tree, "prod")))


def test_chaos_mesh_is_taken_in_by_a_line(tree: Path) -> None:
    file = tree / "gitops" / "overlays" / "prod" / "kustomization.yaml"
    assert "chaos-mesh" not in {part.name for part in loaded("prod").parts}
    file.write_text(file.read_text().replace("# - ../../chaos-mesh", "- ../../chaos-mesh"))
    taken = load(tree, "prod")
    part = _part(taken, "chaos-mesh")
    assert part.values[0]["clusterScoped"] is False
    assert part.values[0]["controllerManager"]["targetNamespace"] == "ml"
    assert [(one["kind"], one["metadata"]["namespace"]) for one in part.documents] == [("ServiceMonitor", part.place)]
    assert [mistake for check in CHECKS for mistake in check(taken)] == []
    # The component comes before what all have in common.
    assert part.application["spec"]["syncPolicy"]["automated"]["prune"] is True


def test_the_command_of_the_documentation_puts_in_what_is_the_users(tree: Path) -> None:
    (command,) = re.findall(r"^grep -rlE .*?^'$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    theirs = {"YOU/REPOSITORY": "acme/onnxd", "PROD_ACCOUNT": "999900001111", "DEV_ACCOUNT": "999900002222"}
    theirs |= {"REGION": "eu-north-1", "SERVICES_CIDR": "10.9.244.0/22"}
    for name, value in theirs.items():
        assert name in command
        command = command.replace(name, value)
    subprocess.run(["bash", "-ec", command], cwd=tree, check=True)
    for name, (_, overlay) in ENVIRONMENTS.items():
        # The key comes from the guide, which is where it is asked for.
        assert len(list(validate.trust(load(tree, name)))) == 1
        key = f"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA{'A' * 43}=\n-----END PUBLIC KEY-----\n"
        (tree / "k8s" / "overlays" / overlay / "anomaly-api" / "trusted.pem").write_text(key)
        validate.render.cache_clear()
        environment = load(tree, name)
        assert environment.root.sources[0]["repoURL"] == "https://github.com/acme/onnxd.git"
        assert [mistake for check in CHECKS for mistake in check(environment)] == []
        made = yaml.safe_dump([environment.documents, [part.application for part in environment.parts]])
        assert re.findall(r"git\.example\.com|111122223333|444455556666|eu-west-1|10\.0\.244\.0/22", made) == []
    assert "999900001111.dkr.ecr.eu-north-1" in yaml.safe_dump(load(tree, "dev").documents)


@pytest.mark.parametrize("environment", ["dev", "production"])
def test_the_command_of_the_documentation_promotes_one_image(tree: Path, environment: str) -> None:
    (command,) = re.findall(r"^sed -i .*images/kustomization.yaml$", DOCUMENT, flags=re.MULTILINE)
    file = tree / "k8s" / "overlays" / environment / "images" / "kustomization.yaml"

    def tags() -> dict[str, str]:
        images = yaml.safe_load(file.read_text())["images"]
        return {one["name"].rpartition("/")[2]: one["newTag"] for one in images}

    for image, tag in {"onnxd": "0.2.0", "onnxd-training": "0.3.0"}.items():
        expected = tags() | {image: tag}
        words = f"environment={environment} image={image} tag={tag}; {command}"
        subprocess.run(["bash", "-ec", words], cwd=tree, check=True)
        assert tags() == expected


def test_the_script_tells_what_there_is_and_writes_it(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "gitops" / "validate.py"), "--output", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("0 mistakes\n")
    for name in ENVIRONMENTS:
        names = {part.name for part in loaded(name).parts}
        assert {file.stem for file in (tmp_path / name).iterdir()} == names
        assert all(re.search(rf"^  \d  {one} ", done.stdout, flags=re.MULTILINE) for one in names)


def test_the_script_fails_on_a_mistake(tree: Path) -> None:
    file = tree / "gitops" / "apps" / "grafana.yaml"
    file.write_text(file.read_text().replace("11.1.7", "latest"))
    (tree / "gitops" / "overlays" / "dev" / "kustomization.yaml").unlink()
    shutil.copytree(ROOT / "k8s" / "tests", tree / "k8s" / "tests")
    words = [sys.executable, str(tree / "gitops" / "validate.py")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "prod: grafana: latest is no version of a chart" in done.stdout
    assert "unable to find one of 'kustomization.yaml'" in done.stdout


# --- what the documentation says


def test_the_documentation_has_every_application_with_its_wave_and_version() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d) \|", DOCUMENT, flags=re.MULTILINE))
    assert rows == {part.name: str(part.wave) for part in loaded("dev").parts}
    versions = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+\.\d+\.\d+) \|", DOCUMENT, flags=re.MULTILINE))
    used = {chart: version for chart, (_, version) in charts(loaded("dev")).items()}
    (argo,) = re.findall(r"argo-helm, (\S+)\)", (ROOT / "gitops" / "argocd" / "values.yaml").read_text())
    assert versions == used | {"argo-cd": argo}


def test_the_documentation_deletes_in_the_reverse_order() -> None:
    (names,) = re.findall(r"^for app in (.*); do", DOCUMENT, flags=re.MULTILINE)
    waves = {part.name: part.wave for part in loaded("dev").parts}
    order = [waves.pop(name) for name in names.split()]
    assert order == sorted(order, reverse=True)
    assert waves == {}


@pytest.mark.parametrize(("name", "account"), [("prod", "111122223333"), ("dev", "444455556666")])
def test_service_accounts_of_charts_take_the_roles_that_the_documentation_names(name: str, account: str) -> None:
    table = dict(re.findall(r"^\| `([\w-]+/[\w-]+)` \| `(ml-anomaly-eks-[\w-]+)` \|", DOCUMENT, flags=re.MULTILINE))
    roles = [
        word
        for part in loaded(name).parts
        if any("chart" in source for source in part.sources)
        for word in validate.words(part.values)
        if word.startswith("arn:aws:iam:")
    ]
    assert sorted(roles) == sorted(f"arn:aws:iam::{account}:role/{role}" for role in table.values())


def test_grafanas_sidecar_finds_the_second_datasource(prod: Environment) -> None:
    values = _part(prod, "grafana").values
    (sidecar,) = (one["sidecar"]["datasources"] for one in values if "sidecar" in one)
    ((datasource,),) = (one["extraObjects"] for one in values if "extraObjects" in one)
    assert datasource["metadata"]["labels"] == {sidecar["label"]: sidecar["labelValue"]}
    names = [
        source["uid"]
        for text in [*datasource["data"].values(), (ROOT / "k8s" / "grafana" / "datasource.yaml").read_text()]
        for source in yaml.safe_load(text)["datasources"]
    ]
    assert sorted(names) == ["cloudwatch", "prometheus"]


def test_prometheus_takes_the_job_of_hosts_outside(prod: Environment, tmp_path: Path) -> None:
    (spec,) = (one["prometheus"]["prometheusSpec"] for one in _part(prod, "prometheus").values if "kubeEtcd" in one)
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump({"scrape_configs": spec["additionalScrapeConfigs"]}))
    done = monitoring.run("promtool", "check", "config", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_documentation_forwards_ports_of_services_that_are_there(prod: Environment) -> None:
    # Of charts, as they call what is theirs.
    known = {
        ("monitoring", "grafana", "80"),
        ("monitoring", "prometheus-kube-prometheus-prometheus", "9090"),
        ("argocd", "argocd-server", "443"),
    }
    for service in manifests.of(prod.documents, "Service"):
        name = (manifests.namespace(service), service["metadata"]["name"])
        known |= {(*name, str(port["port"])) for port in service["spec"]["ports"]}
    named = {
        (place, service, pair.rpartition(":")[2])
        for page in (ROOT / "docs").glob("*.md")
        for place, service, pairs in re.findall(
            r"-n (\S+) port-forward\s+(?:service|svc)/(\S+)((?: \d+(?::\d+)?)+)", page.read_text()
        )
        for pair in pairs.split()
    }
    assert len(named) >= 6
    assert named <= known


def test_the_default_project_does_nothing(prod: Environment) -> None:
    assert not any(
        _project(prod, "default")[key] for key in ("sourceRepos", "destinations", "clusterResourceWhitelist")
    )
