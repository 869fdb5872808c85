"""Names that others write too: the manifests, the documents, the state machine's inputs. They must be equal."""

import ast
import json
import re

import pytest
import yaml

from stack import REPOSITORY, ROOT, resources

PRODUCTION = REPOSITORY / "k8s/overlays/production"
MANIFESTS = {path: path.read_text() for path in PRODUCTION.rglob("*.yaml") if path.parent.name != "kserve"}
TEXT = "\n".join(MANIFESTS.values())
KUBERNETES = (REPOSITORY / "docs/kubernetes.md").read_text()
MACHINE_README = (REPOSITORY / "training/statemachine/README.md").read_text()
SUBJECT = ["token.actions.githubusercontent.com:sub"]
DEFINITION = (REPOSITORY / "training/statemachine/retraining.asl.json").read_text()


@pytest.fixture(scope="module")
def outputs(applied) -> dict:
    return {name: one["value"] for name, one in applied.shown()["values"]["outputs"].items()}


def of(made, kind):
    """The values of all resources of a kind."""
    return [one.values for one in made if one.type == kind]


def filled(template, name, value):
    """A template of EventBridge's with a value: inside of quotes as it is, elsewhere as JSON."""
    parts = template.split('"')
    values = [json.dumps(value), value]
    return '"'.join(part.replace(f"<{name}>", values[i % 2]) for i, part in enumerate(parts))


def documents():
    """All documents of the production overlay's files."""
    return [document for text in MANIFESTS.values() for document in yaml.safe_load_all(text)]


def test_service_accounts_name_roles_that_are_there(outputs):
    applications = "".join(path.read_text() for path in (REPOSITORY / "gitops").rglob("*.yaml"))
    named = set(re.findall(r"arn:aws:iam::111122223333:role/[\w-]+", TEXT + applications))
    assert len(named) >= 4
    assert named <= set(outputs["role_arns"].values())


def test_the_documents_tables_are_what_is_made(made, outputs):
    trusts = {role["name"]: role["assume_role_policy"] for role in of(made, "aws_iam_role")}
    rows = re.findall(r"^\| `([\w-]+)/([\w-]+)` \| `(ml-anomaly-eks-[\w-]+)` \|", KUBERNETES, re.MULTILINE)
    assert len(rows) == 4
    for namespace, account, role in rows:
        assert f'"system:serviceaccount:{namespace}:{account}"' in trusts[role]
    assert set(re.findall(r"^\| `(ml-anomaly/[\w-]+)` \|", KUBERNETES, re.MULTILINE)) == set(outputs["secret_names"])


def test_external_secrets_asks_for_secrets_that_are_there(made, outputs):
    keys = set(re.findall(r"\{key: ([\w/-]+)", TEXT))
    names = {one["name"] for one in of(made, "aws_secretsmanager_secret")}
    assert keys == set(outputs["secret_names"]) == names - {"ml-anomaly-signing-key"}


def test_external_secrets_finds_the_database_as_it_is_written(applied):
    (template,) = re.findall(r"uri: (postgresql.+)", TEXT)
    written = (value for kind, _, value in applied.providers.written if kind == "aws_secretsmanager_secret_version")
    (secret,) = {value for value in written if value.startswith("{")}
    assert set(re.findall(r"\{\{ \.(\w+)", template)) == json.loads(secret).keys()
    assert json.loads(secret)["host"] == "mlflow-database.ml-anomaly.internal"


def test_the_databases_name_leads_to_it(made):
    (record,), (database,) = of(made, "aws_route53_record"), of(made, "aws_db_instance")
    assert record["name"] == "mlflow-database.ml-anomaly.internal"
    assert record["records"] == [database["address"]]
    assert database["db_name"] == "mlflow"
    assert "@{{ .host }}:5432/mlflow?sslmode=require" in TEXT


def test_buckets_are_those_of_the_settings(outputs):
    named = {re.match(r"s3://([\w-]+)", uri)[1] for uri in re.findall(r"s3://\S+", TEXT)}
    assert named == set(outputs["buckets"].values())


def test_images_are_those_of_the_registry(outputs):
    (images,) = (one["images"] for one in documents() if one and one.get("images"))
    assert {one["name"]: one["newName"] for one in images} == outputs["image_repositories"]


def test_region_network_zone_and_machine_are_the_same(outputs):
    assert set(re.findall(r"AWS_REGION=(\S+)", TEXT)) == {outputs["region"]}
    (store,) = (one for one in documents() if one.get("kind") == "ClusterSecretStore")
    assert store["spec"]["provider"]["aws"]["region"] == outputs["region"]
    assert set(re.findall(r"\b10\.[\d./]+", TEXT)) == {outputs["services_cidr"]}
    assert set(re.findall(r"arn:aws:states:\S+", TEXT)) == {outputs["state_machine_arn"]}
    hosts = re.findall(r"external-dns.alpha.kubernetes.io/hostname: ([\w.-]+)", TEXT)
    assert len(hosts) == 2
    assert all(host.endswith("." + outputs["private_zone"]) for host in hosts)


def test_the_functions_find_what_the_cluster_has(made, outputs):
    hosts = set(re.findall(r"external-dns.alpha.kubernetes.io/hostname: ([\w.-]+)", TEXT))
    (rows,) = re.findall(r"COLLECTOR_ROWS=(\S+)", TEXT)
    (repository,) = re.findall(r"ONNXD_REPOSITORY=(\S+)", TEXT)
    (allowed,) = re.findall(r"MLFLOW_SERVER_ALLOWED_HOSTS=(\S+)", TEXT)
    for function in of(made, "aws_lambda_function"):
        environment = function["environment"][0]["variables"]
        assert environment["ONNXD_REPOSITORY"] == repository == outputs["model_repository"]
        assert environment["TRAINING_SOURCE"] == f"rows:{rows}?days=14"
        assert environment["MLFLOW_TRACKING_URI"].removeprefix("http://") in allowed.split(",")
        found = {re.sub(r"^http://|:\d+$", "", environment[name]) for name in ("ONNXD_PEERS", "MLFLOW_TRACKING_URI")}
        found = {host.split(":")[0] for host in found}
        assert found == hosts


def test_the_functions_have_what_they_need(made):
    needed = dict(re.findall(r"^\| `([A-Z_]+)` \| (pipeline|both) \|", MACHINE_README, re.MULTILINE))
    assert len(needed) == 5
    timeouts = dict(re.findall(r"\| (pipeline|release) \| `training[.\w]+` \| (\d+) s \|", MACHINE_README))
    for function in of(made, "aws_lambda_function"):
        name = function["function_name"].rsplit("-", 1)[1]
        assert needed.keys() <= function["environment"][0]["variables"].keys()
        assert str(function["timeout"]) == timeouts[name]
        (handler,) = function["image_config"][0]["command"]
        assert f"`{handler}`" in MACHINE_README
        assert function["memory_size"] == 2048


def test_the_functions_name_the_key_that_signs_unless_they_are_told_not_to(applied, made):
    (secret,) = (one for one in of(made, "aws_secretsmanager_secret") if one["name"] == "ml-anomaly-signing-key")
    off = resources(
        applied.plan('-var=retraining_environment={TRAINING_SIGN_WITH=""}')["planned_values"]["root_module"]
    )
    for functions, named in ((of(made, "aws_lambda_function"), secret["arn"]), (of(off, "aws_lambda_function"), "")):
        assert len(functions) == 2
        for function in functions:
            assert function["environment"][0]["variables"]["TRAINING_SIGN_WITH"] == named
    assert '"TRAINING_SIGN_WITH"' in (REPOSITORY / "training/src/training/pipeline/settings.py").read_text()


def test_the_machine_is_the_file_with_its_functions(made):
    (machine,) = of(made, "aws_sfn_state_machine")
    functions = {f["function_name"].rsplit("-", 1)[1]: f for f in of(made, "aws_lambda_function")}
    text = DEFINITION
    for name, function in functions.items():
        text = text.replace(f"${{{name}_function_arn}}", function["arn"])
    assert "${" not in machine["definition"]
    assert json.loads(machine["definition"]) == json.loads(text)
    by_arn = {function["arn"]: function["timeout"] for function in functions.values()}
    tasks = [state for state in json.loads(text)["States"].values() if state["Type"] == "Task"]
    assert tasks
    assert all(task["TimeoutSeconds"] <= by_arn[task["Resource"]] + 30 for task in tasks)


def test_what_starts_the_machine_says_what_it_takes(made):
    source = ast.parse((REPOSITORY / "training/src/training/lambdas.py").read_text())
    (kinds,) = (
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "KINDS"
    )
    event = {"time": "2026-11-28T10:00:00Z", "detail": {"alarmName": "ml-anomaly-eks-retrain-unusual-load"}}
    started = {}
    for target in of(made, "aws_cloudwatch_event_target"):
        (transformer,) = target["input_transformer"]
        text = transformer["input_template"]
        for name, path in transformer["input_paths"].items():
            value = event
            for key in path.removeprefix("$.").split("."):
                value = value[key]
            text = filled(text, name, value)
        assert "<" not in text
        trigger = json.loads(text)["trigger"]
        assert trigger.keys() == {"kind", "reason", "at"}
        assert trigger["kind"] in kinds
        assert trigger["at"] == event["time"]
        started[trigger["kind"]] = trigger["reason"]
    assert started == {"schedule": "rate(7 days)", "alert": "the alarm ml-anomaly-eks-retrain-unusual-load rings"}


def test_argo_cd_is_of_the_version_that_its_values_are_for(made):
    (release,) = of(made, "helm_release")
    values = (REPOSITORY / "gitops/argocd/values.yaml").read_text()
    assert f"argo-helm, {release['version']}), installed as release `{release['name']}`" in values
    assert f"in the namespace `{release['namespace']}`" in values
    assert release["values"] == [values]


def test_workflows_take_roles_that_are_for_them(made, outputs):
    """Of each job that takes one: what GitHub says of it, and which variable of the repository has the role."""
    found = {}
    for path in (REPOSITORY / ".github/workflows").glob("*.yml"):
        workflow = yaml.load(path.read_text(), yaml.BaseLoader)  # or the key `on` would be a truth value
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                if role := step.get("with", {}).get("role-to-assume"):
                    assert "environment" in job or workflow["on"].keys() == {"pull_request"}
                    said = f"environment:{job['environment']}" if "environment" in job else "pull_request"
                    found[re.search(r"vars\.(\w+)", role)[1]] = said
    arns = {"AWS_PLAN_ROLE_ARN": outputs["plan_role_arn"], "AWS_PUSH_ROLE_ARN": outputs["push_role_arn"]}
    trusts = {role["arn"]: json.loads(role["assume_role_policy"]) for role in of(made, "aws_iam_role")}
    assert found.keys() == arns.keys()
    for variable, arn in arns.items():
        (subject,) = (trusts[arn]["Statement"][0]["Condition"]["StringEquals"][key] for key in SUBJECT)
        assert subject == f"repo:octocat@1/onnxd@2:{found[variable]}"


def test_workflows_plan_and_push_what_is_there(outputs):
    steps = (REPOSITORY / ".github/workflows/terraform.yml").read_text()
    # Without these it would ask AWS for everything, the cluster's API for Argo CD, and for a lock: its role may not.
    assert "plan -input=false -lock=false -refresh=false" in steps
    release = yaml.safe_load((REPOSITORY / ".github/workflows/release.yml").read_text())
    assert set(release["jobs"]["images"]["strategy"]["matrix"]["image"]) == outputs["image_repositories"].keys()


def test_the_plan_reads_the_state_that_the_example_names(made):
    example = dict(re.findall(r'^ +(bucket|key) += "(.+)"$', (ROOT / "backend.tf.example").read_text(), re.MULTILINE))
    (policy,) = (
        one["policy"] for one in of(made, "aws_iam_role_policy") if one["role"] == "ml-anomaly-eks-github-plan"
    )
    state = f"arn:aws:s3:::{example['bucket']}"
    resources = {s["Sid"]: s["Resource"] for s in json.loads(policy)["Statement"]}
    assert (resources["State"], resources["Workspaces"]) == ([f"{state}/{example['key']}"], [state])
