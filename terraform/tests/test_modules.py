"""The modules as Terraform sees them: valid, complete, stable, and without a secret in what it keeps."""

import json
import re
import shutil
from dataclasses import replace

import pytest

import schema
from made_up import SECRET
from stack import GIVEN, ROOT, resources

MODULES = sorted(path.name for path in (ROOT / "modules").iterdir())
FOLDERS = [ROOT, *(ROOT / "modules" / name for name in MODULES)]
PARTS = ["main.tf", "outputs.tf", "variables.tf", "versions.tf"]


def blocks(kind: str, text: str) -> dict[str, str]:
    """The bodies of the blocks of a kind, by name."""
    return dict(re.findall(rf'^{kind} "(\w+)" {{\n(.*?)^}}', text, re.MULTILINE | re.DOTALL))


def test_the_modules_are_these():
    assert MODULES == [
        "chaos",
        "eks",
        "github",
        "identity",
        "mlflow-db",
        "network",
        "registry",
        "retraining",
        "storage",
    ]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_a_module_has_four_files(folder):
    assert sorted(path.name for path in folder.glob("*.tf")) == PARTS


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_every_variable_is_typed_described_and_validated(folder):
    for name, body in blocks("variable", (folder / "variables.tf").read_text()).items():
        assert re.search(r'^  description = ".{6,}', body, re.MULTILINE), name
        kind = re.search(r"^  type +=+ (.+)$", body, re.MULTILINE)
        assert kind, name
        # Of the two values of a bool both are good, and null is none of them.
        assert "  validation {" in body or (kind[1] == "bool" and re.search(r"nullable += false", body)), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_every_output_is_described(folder):
    for name, body in blocks("output", (folder / "outputs.tf").read_text()).items():
        assert re.search(r'^  description = ".{6,}', body, re.MULTILINE), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_providers_are_pinned_to_the_version_whose_schema_was_checked(folder):
    notes = json.loads(schema.SCHEMAS.read_text())["provenance"]
    pins = re.findall(r'source += "hashicorp/(\w+)"\n +version += "([^"]+)"', (folder / "versions.tf").read_text())
    assert pins
    for name, version in pins:
        assert notes[name].endswith(f"provider {version}")


def test_the_schemas_are_of_what_is_used_and_of_nothing_else():
    parts = {"resource": "resource_schemas", "data": "data_source_schemas", "ephemeral": "ephemeral_resource_schemas"}
    schemas = json.loads(schema.SCHEMAS.read_text())["provider_schemas"]
    known = {
        (kind, name)
        for provider in schemas.values()
        for kind, part in parts.items()
        for name in provider[part]
        # What an ephemeral resource's schema was derived from.
        if (kind, name) not in {("resource", "random_password"), ("data", "aws_secretsmanager_secret_version")}
    }
    assert known == set().union(*schema.used().values()), "make schemas.json anew: terraform/tests/schema.py says how"


def test_the_code_is_formatted(initialised):
    assert initialised.terraform("fmt", "-check", "-recursive", good=False).stdout == ""


def test_the_code_is_valid(initialised):
    assert json.loads(initialised.terraform("validate", "-json").stdout)["diagnostics"] == []


def test_terraforms_own_tests_pass(initialised):
    assert "13 passed, 0 failed" in replace(initialised, given={}).terraform("test", "-no-color").stdout


def test_a_second_apply_changes_nothing(applied):
    assert applied.terraform("plan", "-detailed-exitcode").returncode == 0


def test_another_version_writes_new_secrets_and_changes_nothing_else(applied):
    changed = {
        one["address"]
        for one in applied.plan("-var=secrets_version=2")["resource_changes"]
        if one["change"]["actions"] != ["no-op"]
    }
    assert changed == {
        "module.mlflow_db.aws_db_instance.this",
        "module.mlflow_db.aws_secretsmanager_secret_version.this",
        'module.identity.aws_secretsmanager_secret_version.token["anomaly-api-admin"]',
        'module.identity.aws_secretsmanager_secret_version.token["grafana-admin"]',
        'module.identity.aws_secretsmanager_secret_version.token["remediation-operator-alerts"]',
    }


def test_no_secret_is_in_the_state(applied, made):
    secrets = [value for kind, _, value in applied.providers.written if kind != "helm_release"]
    assert len(secrets) >= 5  # the database's, in its secret and in the database; two tokens; Grafana's
    state = (applied.root / "terraform.tfstate").read_text()
    for secret in secrets:
        assert json.dumps(secret)[1:-1] not in state
    for one in made:
        if one.type == "aws_secretsmanager_secret_version":
            assert not one.values["secret_string"]
        if one.type == "aws_db_instance":
            assert not one.values["password"]


def test_the_database_gets_the_password_that_its_secret_holds(applied):
    """By way of the secret, so that an apply that breaks between the two goes on with the same one."""
    written = applied.providers.written
    assert ("aws_db_instance", "password_wo", json.loads(SECRET)["password"]) in written
    (secret,) = {value for kind, _, value in written if kind == "aws_secretsmanager_secret_version" and "host" in value}
    assert json.loads(secret).keys() == {"username", "password", "host"}


def test_a_plan_opens_no_secret(applied):
    """Who may only plan may not read any: a workflow on GitHub."""
    before = len(applied.providers.opened)
    applied.plan()
    assert set(applied.providers.opened[before:]) == {"random_password"}  # made up anew, and used for nothing


def test_the_first_apply_needs_no_image(initialised):
    without = {k: v for k, v in GIVEN.items() if k != "training_image_tag"}
    plan = replace(initialised, given=without).plan()
    types = {one["type"] for one in plan["resource_changes"]}
    assert "aws_ecr_repository" in types
    assert "aws_fis_experiment_template" in types
    assert "aws_lambda_function" not in types
    assert "aws_sfn_state_machine" not in types


def test_the_runbooks_command_makes_the_experiment(spoilt):
    spoilt.terraform("init", "-backend=false")
    said = spoilt.apply("-target=aws_fis_experiment_template.cpu_stress")
    assert "aws_fis_experiment_template.cpu_stress: Creation complete" in said
    made = {one.address for one in resources(spoilt.shown()["values"]["root_module"])}
    assert "helm_release.argocd" not in made


def test_everything_can_be_destroyed_but_what_is_kept(applied, tmp_path):
    """As docs/deploy.md says: buckets are taken out of Terraform's hands first."""
    shutil.copytree(applied.root.parent, tmp_path, dirs_exist_ok=True)
    stack = replace(applied, root=tmp_path / "terraform")
    stack.apply("-var=deletion_protection=false")
    stack.terraform("state", "rm", "module.storage")
    said = stack.terraform("destroy", "-auto-approve", "-no-color").stdout
    assert "aws_s3_bucket" not in said
    assert "values" not in stack.shown()
