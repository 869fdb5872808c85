"""Mistakes made on purpose: each check finds the kind of mistake that it is there for."""

import json
import re

import pytest

from policies import allowed
from stack import resources
from test_policies import RIGHTS

# file, what is there, what is put in its place, what Terraform says
WRONG = {
    "an argument that is not one": (
        "modules/network/main.tf",
        "enable_dns_support ",
        "enable_dns_suport ",
        'An argument named "enable_dns_suport" is not expected here. Did you mean "enable_dns_support"?',
    ),
    "a missing argument": (
        "modules/chaos/main.tf",
        "comparison_operator = ",
        "alarm_actions = [] #",
        'The argument "comparison_operator" is required',
    ),
    "a missing block": (
        "main.tf",
        'stop_condition {\n    source = "aws:cloudwatch:alarm"\n    value  = module.chaos.stop_alarm_arn\n  }',
        "",
        'At least 1 "stop_condition" blocks are required',
    ),
    "a block that is not one": (
        "modules/eks/main.tf",
        "encryption_config {",
        "encrypt_config {",
        'Blocks of type "encrypt_config" are not expected here',
    ),
    "a block twice": (
        "modules/eks/main.tf",
        "access_config {",
        "access_config {}\n access_config {",
        'No more than 1 "access_config" blocks are allowed',
    ),
    "a block for a nested argument": (
        "main.tf",
        "kubernetes = {",
        "kubernetes {",
        'Blocks of type "kubernetes" are not expected here. Did you mean to define argument "kubernetes"?',
    ),
    "a wrong type": ("modules/mlflow-db/main.tf", "= 20\n", '= "much"\n', "a number is required"),
    "an argument that only AWS gives": (
        "main.tf",
        'name = "${local.name}-alarms"',
        'arn = "x"',
        "aws_sns_topic.arn is set by AWS alone",
    ),
    "an attribute that is not one": (
        "modules/network/outputs.tf",
        "aws_vpc.this.id",
        "aws_vpc.this.ip",
        'exported attribute named "ip"',
    ),
    "a resource that is not there": (
        "modules/chaos/outputs.tf",
        "aws_cloudwatch_log_group.this.arn",
        "aws_cloudwatch_log_group.that.arn",
        "has not been declared",
    ),
    "a variable that a module has not": (
        "main.tf",
        "rows_days       = var.rows_days",
        "row_days       = var.rows_days",
        'An argument named "row_days" is not expected here',
    ),
    "a secret that would be kept": (
        "modules/mlflow-db/main.tf",
        "password_wo  ",
        "password ",
        "Ephemeral values are not valid",
    ),
}


def spoil(stack, file, there, instead):
    """Puts one thing in the place of another in a copy of the module."""
    path = stack.root / file
    text = path.read_text()
    assert there in text
    path.write_text(text.replace(there, instead, 1))


@pytest.mark.parametrize("mistake", WRONG)
def test_terraform_finds_what_the_schema_does_not_know(spoilt, mistake):
    file, there, instead, said = WRONG[mistake]
    spoil(spoilt, file, there, instead)
    first = spoilt.terraform("init", "-backend=false", "-no-color", good=False)
    found = spoilt.terraform("validate", "-json", good=False) if first.returncode == 0 else first
    errors = found.stdout + found.stderr
    if errors.startswith("{"):
        errors = " ".join(f"{e['summary']} {e['detail']}" for e in json.loads(errors)["diagnostics"])
    assert said in re.sub(r"\s+", " ", errors)


def test_the_table_of_rights_finds_policies_that_are_too_wide(spoilt):
    file = "modules/identity/main.tf"
    spoil(spoilt, file, '"${local.b.models}/models/*/aliases.json"', '"${local.b.models}/models/*"')
    spoil(spoilt, file, "states:StartExecution", "states:*")
    spoilt.terraform("init", "-backend=false")
    spoilt.apply("-target=module.identity")
    made = resources(spoilt.shown()["values"]["root_module"])
    policies = {
        one.values["name"]: json.loads(one.values["policy"]) for one in made if one.type == "aws_iam_role_policy"
    }
    wrong = {
        (role, action, resource.rsplit("/", 1)[-1])
        for role, may, action, resource, context in RIGHTS
        if role in policies and allowed([policies[role]], action, resource, context) is not may
    }
    assert wrong == {
        ("anomaly-api", "s3:PutObject", "model.onnx"),
        ("anomaly-api", "s3:PutObject", "manifest.json"),
        (
            "remediation-operator",
            "states:StopExecution",
            "arn:aws:states:eu-west-1:111122223333:stateMachine:ml-anomaly-eks-retraining",
        ),
    }


def test_a_value_that_a_variable_refuses_is_told_with_its_reason(initialised):
    said = initialised.terraform("plan", "-no-color", "-var=zones=1", good=False)
    assert said.returncode
    assert "2 or 3." in said.stderr
