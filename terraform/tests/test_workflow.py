"""The plan of a pull request, as the workflow makes it, with no rights but its role's: an S3 of moto has the state."""

import re
from collections.abc import Iterator

import boto3
import pytest
import requests
import yaml
from moto.server import ThreadedMotoServer

from stack import REPOSITORY, ROOT, Stack, copy

WORKFLOW = (REPOSITORY / ".github/workflows/terraform.yml").read_text()
ADMIN = {"region_name": "eu-west-1", "aws_access_key_id": "admin", "aws_secret_access_key": "admin"}


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """The address of an AWS, which asks policies once it is told to."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    ask_policies(f"http://{host}:{port}", after="inf")
    server.stop()


def ask_policies(address: str, *, after: str) -> None:
    """Of all requests after so many. It holds for all of moto in this process."""
    requests.post(f"{address}/moto-api/reset-auth", data=after, timeout=10).raise_for_status()


@pytest.fixture(scope="module")
def pulled(aws, applied, made, tmp_path_factory) -> Stack:
    """A checkout with backend.tf, whose state is in the bucket, and the rights of the role `plan`."""
    example = (ROOT / "backend.tf.example").read_text()
    bucket, key = (re.search(rf'{name} += "(.+)"', example)[1] for name in ("bucket", "key"))
    s3, iam = (boto3.client(name, endpoint_url=aws, **ADMIN) for name in ("s3", "iam"))
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.upload_file(applied.root / "terraform.tfstate", bucket, key)
    (policy,) = (
        one.values["policy"]
        for one in made
        if one.type == "aws_iam_role_policy" and one.values["role"] == "ml-anomaly-eks-github-plan"
    )
    iam.create_user(UserName="plan")
    iam.put_user_policy(UserName="plan", PolicyName="plan", PolicyDocument=policy)
    access = iam.create_access_key(UserName="plan")["AccessKey"]
    ask_policies(aws, after="0")
    stack = Stack(applied.providers, copy(tmp_path_factory.mktemp("pulled")))
    (stack.root / "backend.tf").write_text(example)
    stack.more = {
        "AWS_ACCESS_KEY_ID": access["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": access["SecretAccessKey"],
        "AWS_ENDPOINT_URL": aws,
    }
    return stack


def asked(verb: str) -> list[str]:
    """The arguments of the job that has the role's rights."""
    job = yaml.safe_load(WORKFLOW)["jobs"]["plan"]
    (words,) = (
        step["run"].split()[2:]
        for step in job["steps"]
        if step.get("run", "").startswith(f"terraform -chdir=terraform {verb} ")
    )
    return words


def test_a_pull_request_is_planned_with_nothing_but_the_roles_rights(pulled):
    pulled.terraform(*asked("init"), "-backend-config=use_path_style=true")
    assert "No changes." in pulled.terraform(*asked("plan")).stdout
    assert "1 to change" in pulled.terraform(*asked("plan"), "-var=database_class=db.t4g.large").stdout


def test_a_lock_would_need_more(pulled):
    done = pulled.terraform("plan", "-refresh=false", "-no-color", good=False)
    assert done.returncode
    assert "Error acquiring the state lock" in done.stderr
    assert "AccessDenied" in done.stderr
