"""Who may do what, and who may not: the policies of the state, by the evaluator of `policies.py` and by parliament."""

import json
import warnings

import boto3
import pytest
from moto import mock_aws

from policies import allowed, many, trusted
from stack import GIVEN, resources

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports pkg_resources
    import parliament

NAME = "ml-anomaly-eks"
ACCOUNT = "111122223333"
HERE = f"eu-west-1:{ACCOUNT}"
MODELS = f"arn:aws:s3:::ml-anomaly-models-{ACCOUNT}"
METRICS = f"arn:aws:s3:::ml-anomaly-metrics-{ACCOUNT}"
MLFLOW = f"arn:aws:s3:::ml-anomaly-mlflow-{ACCOUNT}"
MACHINE = f"arn:aws:states:{HERE}:stateMachine:{NAME}-retraining"
NODE = f"arn:aws:ec2:{HERE}:instance/i-0123456789"
SECRET = f"arn:aws:secretsmanager:{HERE}:secret:ml-anomaly/alertmanager-AbCdEf"
SIGNING = f"arn:aws:secretsmanager:{HERE}:secret:ml-anomaly-signing-key-AbCdEf"
STRESS = "arn:aws:ssm:eu-west-1::document/AWSFIS-Run-CPU-Stress"
IMAGES = [
    f"arn:aws:ecr:{HERE}:repository/{i}" for i in ("onnxd", "collector", "remediation-operator", "onnxd-training")
]
STATE = f"arn:aws:s3:::ml-anomaly-terraform-{ACCOUNT}"
PUSH = ["BatchCheckLayerAvailability", "InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage"]
LAMBDA = f"arn:aws:lambda:{HERE}:function:{NAME}-retraining"
YES, NO = True, False
TLS = {"aws:SecureTransport": "true"}

# role, may, action, resource, what the request says besides
RIGHTS = [
    ("anomaly-api", YES, "s3:GetObject", f"{MODELS}/models/anomaly/1/model.onnx", {}),
    ("anomaly-api", YES, "s3:ListBucket", MODELS, {"s3:prefix": "models/anomaly/"}),
    ("anomaly-api", NO, "s3:ListBucket", MODELS, {"s3:prefix": "other/"}),
    ("anomaly-api", NO, "s3:ListBucket", MODELS, {}),
    ("anomaly-api", YES, "s3:PutObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("anomaly-api", YES, "s3:PutObject", f"{MODELS}/models/anomaly/ledger/17.json", {}),
    ("anomaly-api", NO, "s3:PutObject", f"{MODELS}/models/anomaly/1/model.onnx", {}),
    ("anomaly-api", NO, "s3:PutObject", f"{MODELS}/models/anomaly/1/manifest.json", {}),
    ("anomaly-api", NO, "s3:DeleteObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("anomaly-api", NO, "s3:GetObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("collector", YES, "s3:PutObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("collector", NO, "s3:GetObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("collector", NO, "s3:PutObject", f"{METRICS}/training/runs/x/push.json", {}),
    ("collector", NO, "s3:PutObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("remediation-operator", YES, "states:StartExecution", MACHINE, {}),
    ("remediation-operator", NO, "states:StartExecution", f"arn:aws:states:{HERE}:stateMachine:other", {}),
    ("remediation-operator", NO, "states:StopExecution", MACHINE, {}),
    ("mlflow", YES, "s3:PutObject", f"{MLFLOW}/artifacts/1/models/m-1/artifacts/model.onnx", {}),
    ("mlflow", YES, "s3:DeleteObject", f"{MLFLOW}/artifacts/1/a", {}),
    ("mlflow", YES, "s3:ListBucket", MLFLOW, {"s3:prefix": "artifacts/1/"}),
    ("mlflow", NO, "s3:GetObject", f"{MODELS}/models/anomaly/1/model.onnx", {}),
    ("external-secrets", YES, "secretsmanager:GetSecretValue", SECRET, {}),
    ("external-secrets", NO, "secretsmanager:PutSecretValue", SECRET, {}),
    ("external-secrets", NO, "secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:prod/x", {}),
    ("external-secrets", NO, "secretsmanager:GetSecretValue", SIGNING, {}),
    ("prometheus", YES, "ec2:DescribeInstances", "*", {}),
    ("prometheus", NO, "ec2:TerminateInstances", NODE, {}),
    ("grafana", YES, "cloudwatch:GetMetricData", "*", {}),
    ("grafana", YES, "logs:StartQuery", f"arn:aws:logs:{HERE}:log-group:/aws/fis/{NAME}", {}),
    ("grafana", YES, "logs:DescribeLogGroups", "*", {}),
    ("grafana", NO, "logs:StartQuery", f"arn:aws:logs:{HERE}:log-group:/aws/eks/{NAME}/cluster", {}),
    ("grafana", NO, "cloudwatch:PutMetricAlarm", "*", {}),
    ("retraining-pipeline", YES, "s3:GetObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("retraining-pipeline", YES, "s3:PutObject", f"{METRICS}/training/runs/x/prepare.json", {}),
    ("retraining-pipeline", YES, "s3:ListBucket", METRICS, {"s3:prefix": "rows/"}),
    ("retraining-pipeline", NO, "s3:PutObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("retraining-pipeline", YES, "s3:GetObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("retraining-pipeline", NO, "s3:PutObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("retraining-pipeline", NO, "s3:PutObject", f"{MODELS}/models/anomaly/5/model.onnx", {}),
    ("retraining-pipeline", NO, "secretsmanager:GetSecretValue", SIGNING, {}),
    ("retraining-release", YES, "secretsmanager:GetSecretValue", SIGNING, {}),
    ("retraining-release", NO, "secretsmanager:PutSecretValue", SIGNING, {}),
    ("retraining-release", NO, "secretsmanager:GetSecretValue", SECRET, {}),
    ("retraining-release", YES, "s3:PutObject", f"{MODELS}/models/anomaly/5/model.onnx", {}),
    ("retraining-release", YES, "s3:PutObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("retraining-release", YES, "s3:PutObject", f"{METRICS}/training/runs/x/push.json", {}),
    ("retraining-release", NO, "s3:PutObject", f"{MODELS}/models/another/aliases.json", {}),
    ("retraining-release", NO, "s3:DeleteObject", f"{MODELS}/models/anomaly/1/model.onnx", {}),
    ("retraining-release", NO, "s3:GetObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("retraining-release", YES, "ec2:CreateNetworkInterface", "*", {}),
    ("retraining-release", NO, "ec2:DeleteNetworkInterface", "*", {"lambda:SourceFunctionArn": f"{LAMBDA}-release"}),
    ("retraining-machine", YES, "lambda:InvokeFunction", f"{LAMBDA}-pipeline", {}),
    ("retraining-machine", YES, "lambda:InvokeFunction", f"{LAMBDA}-release", {}),
    ("retraining-machine", NO, "lambda:InvokeFunction", f"arn:aws:lambda:{HERE}:function:other", {}),
    ("retraining-machine", NO, "s3:GetObject", f"{MODELS}/models/anomaly/aliases.json", {}),
    ("retraining-events", YES, "states:StartExecution", MACHINE, {}),
    ("retraining-events", NO, "lambda:InvokeFunction", f"{LAMBDA}-pipeline", {}),
    ("fis", YES, "ssm:SendCommand", STRESS, {}),
    ("fis", YES, "ssm:SendCommand", NODE, {"ssm:resourceTag/eks:cluster-name": NAME}),
    ("fis", NO, "ssm:SendCommand", NODE, {"ssm:resourceTag/eks:cluster-name": "another"}),
    ("fis", NO, "ssm:SendCommand", NODE, {}),
    ("fis", NO, "ssm:SendCommand", "arn:aws:ssm:eu-west-1::document/AWS-RunShellScript", {}),
    ("fis", NO, "ec2:TerminateInstances", NODE, {"ssm:resourceTag/eks:cluster-name": NAME}),
    ("flow-logs", NO, "logs:PutLogEvents", f"arn:aws:logs:{HERE}:log-group:/aws/fis/{NAME}:log-stream:x", {}),
    ("flow-logs", YES, "logs:PutLogEvents", f"arn:aws:logs:{HERE}:log-group:/aws/vpc/{NAME}:log-stream:x", {}),
    ("github-plan", YES, "s3:GetObject", f"{STATE}/{NAME}/terraform.tfstate", {}),
    ("github-plan", YES, "s3:ListBucket", STATE, {"s3:prefix": "env:/"}),
    ("github-plan", YES, "ec2:DescribeAvailabilityZones", "*", {}),
    ("github-plan", YES, "states:ValidateStateMachineDefinition", "*", {}),
    ("github-plan", NO, "s3:GetObject", f"{STATE}/another/terraform.tfstate", {}),
    ("github-plan", NO, "s3:PutObject", f"{STATE}/{NAME}/terraform.tfstate", {}),
    ("github-plan", NO, "s3:PutObject", f"{STATE}/{NAME}/terraform.tfstate.tflock", {}),
    ("github-plan", NO, "s3:DeleteObject", f"{STATE}/{NAME}/terraform.tfstate", {}),
    ("github-plan", NO, "s3:GetObject", f"{MODELS}/models/anomaly/1/model.onnx", {}),
    ("github-plan", NO, "s3:GetObject", f"{METRICS}/rows/date=2026-11-28/a.parquet", {}),
    ("github-plan", NO, "secretsmanager:GetSecretValue", SECRET, {}),
    ("github-plan", NO, "eks:DescribeCluster", f"arn:aws:eks:{HERE}:cluster/{NAME}", {}),
    ("github-plan", NO, "states:StartExecution", MACHINE, {}),
    ("github-plan", NO, "ecr:PutImage", IMAGES[0], {}),
    ("github-plan", NO, "sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/{NAME}-github-push", {}),
    ("github-push", YES, "ecr:GetAuthorizationToken", "*", {}),
    *(("github-push", YES, f"ecr:{action}", image, {}) for image in IMAGES for action in PUSH),
    ("github-push", YES, "ecr:BatchGetImage", IMAGES[0], {}),
    ("github-push", YES, "ecr:GetDownloadUrlForLayer", IMAGES[0], {}),
    ("github-push", NO, "ecr:PutImage", f"arn:aws:ecr:{HERE}:repository/another", {}),
    ("github-push", NO, "ecr:BatchDeleteImage", IMAGES[0], {}),
    ("github-push", NO, "ecr:PutImageTagMutability", IMAGES[0], {}),
    ("github-push", NO, "ecr:SetRepositoryPolicy", IMAGES[0], {}),
    ("github-push", NO, "ecr:DeleteRepository", IMAGES[0], {}),
    ("github-push", NO, "lambda:UpdateFunctionCode", f"{LAMBDA}-pipeline", {}),
    ("github-push", NO, "s3:GetObject", f"{STATE}/{NAME}/terraform.tfstate", {}),
    ("github-push", NO, "secretsmanager:GetSecretValue", SECRET, {}),
]

# Service accounts of the cluster, and who else may take a role.
ACCOUNTS = {
    "anomaly-api": "ml:anomaly-api",
    "collector": "ml:collector",
    "remediation-operator": "ml:remediation-operator",
    "mlflow": "mlflow:mlflow",
    "external-secrets": "external-secrets:external-secrets",
    "external-dns": "external-dns:external-dns",
    "prometheus": "monitoring:prometheus-kube-prometheus-prometheus",
    "grafana": "monitoring:grafana",
    "vpc-cni": "kube-system:aws-node",
    "ebs-csi": "kube-system:ebs-csi-controller-sa",
}
SERVICES = {
    "cluster": ("eks", {}),
    "node": ("ec2", {}),
    "flow-logs": ("vpc-flow-logs", {"aws:SourceAccount": ACCOUNT}),
    "retraining-pipeline": ("lambda", {}),
    "retraining-release": ("lambda", {}),
    "retraining-machine": ("states", {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": MACHINE}),
    "retraining-events": (
        "events",
        {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": f"arn:aws:events:{HERE}:rule/{NAME}-retrain-alarm"},
    ),
    "fis": ("fis", {"aws:SourceAccount": ACCOUNT, "aws:SourceArn": f"arn:aws:fis:{HERE}:experiment/EXP1"}),
}

# What GitHub says of a workflow's job, after the repository.
SUBJECTS = {"github-plan": "pull_request", "github-push": "environment:release"}

# AWS' own policies, which are wide: for the cluster's own parts only.
MANAGED = {
    "cluster": {"AmazonEKSClusterPolicy"},
    "node": {"AmazonEKSWorkerNodePolicy", "AmazonEC2ContainerRegistryPullOnly", "AmazonSSMManagedInstanceCore"},
    "vpc-cni": {"AmazonEKS_CNI_Policy"},
    "ebs-csi": {"AmazonEBSCSIDriverPolicy"},
}

# Why an action is allowed on everything.
LISTS = "lists; AWS knows no resource for it"
DELIVERY = "log deliveries of services; AWS knows no resource for them"
INTERFACE = (
    "Lambda checks a role with VPC for it on everything, before it makes the function; denied to the code itself"
)
EVERYTHING = {
    "cloudwatch:GetMetricData": "reads numbers; AWS knows no resource for it",
    "cloudwatch:ListMetrics": LISTS,
    "tag:GetResources": LISTS,
    "logs:DescribeLogGroups": LISTS,
    "logs:StopQuery": "ends a query; AWS knows no resource for it",
    "ec2:DescribeInstances": LISTS,
    "ec2:DescribeAvailabilityZones": LISTS,
    "ecr:GetAuthorizationToken": "a password for what else is allowed; AWS knows no resource for it",
    "states:ValidateStateMachineDefinition": "looks at a text; AWS knows no resource for it",
    "route53:ListHostedZones": LISTS,
    "ssm:ListCommands": LISTS,
    "ssm:CancelCommand": "ends what FIS began; AWS knows no resource for it",
    **dict.fromkeys(
        [
            "logs:CreateLogDelivery",
            "logs:GetLogDelivery",
            "logs:UpdateLogDelivery",
            "logs:DeleteLogDelivery",
            "logs:ListLogDeliveries",
            "logs:PutResourcePolicy",
            "logs:DescribeResourcePolicies",
        ],
        DELIVERY,
    ),
    **dict.fromkeys(
        [
            "ec2:CreateNetworkInterface",
            "ec2:DescribeNetworkInterfaces",
            "ec2:DescribeSubnets",
            "ec2:DeleteNetworkInterface",
            "ec2:AssignPrivateIpAddresses",
            "ec2:UnassignPrivateIpAddresses",
        ],
        INTERFACE,
    ),
}

# What parliament says of these policies, and why it may.
FINDINGS = {
    (
        "fis",
        "RESOURCE_MISMATCH",
    ): "a statement for the document and one for the nodes, whose condition the document lacks",
    ("retraining-pipeline", "RESOURCE_STAR"): INTERFACE,
    ("retraining-release", "RESOURCE_STAR"): INTERFACE,
    (
        "retraining-pipeline",
        "UNKNOWN_CONDITION_FOR_ACTION",
    ): "lambda:SourceFunctionArn is with every call of a function",
    ("retraining-release", "UNKNOWN_CONDITION_FOR_ACTION"): "the same",
}


@pytest.fixture(scope="module")
def policies(made) -> dict[str, list[dict]]:
    """The roles' own policies, by the role's name without the cluster's."""
    found: dict[str, list[dict]] = {}
    for one in made:
        if one.type == "aws_iam_role_policy":
            role = one.values["role"].removeprefix(f"{NAME}-")
            found.setdefault(role, []).append(json.loads(one.values["policy"]))
    return found


@pytest.fixture(scope="module")
def trusts(made) -> dict[str, dict]:
    """What the roles trust."""
    return {
        one.values["name"].removeprefix(f"{NAME}-"): json.loads(one.values["assume_role_policy"])
        for one in made
        if one.type == "aws_iam_role"
    }


@pytest.mark.parametrize("right", RIGHTS, ids=lambda right: " ".join(str(part) for part in right[:4]))
def test_a_role_may_do_its_work_and_no_more(policies, right):
    role, may, action, resource, context = right
    assert allowed(policies[role], action, resource, context) is may


def test_the_table_says_of_every_role_what_it_may_and_what_it_may_not(policies):
    said = {(role, may) for role, may, *_ in RIGHTS}
    of_others = {"cluster", "external-dns"}  # the one of AWS' own policy besides, the other below
    assert said == {(role, may) for role in policies.keys() - of_others for may in (YES, NO)}


def test_external_dns_writes_addresses_in_its_zone_only(policies, made):
    (zone,) = (one.values["arn"] for one in made if one.type == "aws_route53_zone")

    def may(zone: str, *kinds: str) -> bool:
        context = {"route53:ChangeResourceRecordSetsRecordTypes": list(kinds)}
        return allowed(policies["external-dns"], "route53:ChangeResourceRecordSets", zone, context)

    assert may(zone, "A", "TXT")
    assert not may(zone, "A", "CNAME")  # MLflow's database has one
    assert not may("arn:aws:route53:::hostedzone/ZOTHER", "A")
    assert not allowed(policies["external-dns"], "route53:DeleteHostedZone", zone)


def test_the_key_that_signs_is_for_the_function_that_releases(policies, made):
    """Nobody else reads it, nobody writes it, and Terraform neither: a person puts it in."""
    (key,) = (one.values["arn"] for one in made if one.values.get("name") == "ml-anomaly-signing-key")

    def who(action: str) -> set[str]:
        return {role for role, documents in policies.items() if allowed(documents, f"secretsmanager:{action}", key)}

    assert who("GetSecretValue") == {"retraining-release"}
    for action in ("PutSecretValue", "UpdateSecret", "UpdateSecretVersionStage", "PutResourcePolicy", "DeleteSecret"):
        assert who(action) == set(), action
    holding = {one.values["secret_id"] for one in made if one.type == "aws_secretsmanager_secret_version"}
    (secret,) = (one.values["id"] for one in made if one.values.get("arn") == key)
    assert holding
    assert secret not in holding


def test_no_policy_allows_a_pattern_of_actions(policies):
    for documents in policies.values():
        for statement in (s for document in documents for s in document["Statement"] if s["Effect"] == "Allow"):
            assert not [action for action in many(statement["Action"]) if "*" in action]
            assert "NotAction" not in statement
            assert "NotResource" not in statement


def test_what_is_allowed_on_everything_has_a_reason(policies):
    wide = {
        action
        for documents in policies.values()
        for document in documents
        for statement in document["Statement"]
        if statement["Effect"] == "Allow" and "*" in many(statement["Resource"])
        for action in many(statement["Action"])
    }
    assert wide == EVERYTHING.keys()


def test_parliament_finds_nothing_but_what_is_meant(policies):
    found = {
        (role, finding.issue)
        for role, documents in policies.items()
        for document in documents
        for finding in parliament.analyze_policy_string(json.dumps(document)).findings
    }
    assert found == FINDINGS.keys()


def test_awss_own_policies_are_for_the_clusters_own_parts(made):
    found: dict[str, set[str]] = {}
    for one in made:
        if one.type == "aws_iam_role_policy_attachment":
            role = one.values["role"].removeprefix(f"{NAME}-")
            found.setdefault(role, set()).add(one.values["policy_arn"].rsplit("/", 1)[1])
    assert found == MANAGED


def test_every_role_is_for_somebody(trusts):
    assert trusts.keys() == ACCOUNTS.keys() | SERVICES.keys() | SUBJECTS.keys()


def identity_provider(made, host: str) -> str:
    """The ARN of what vouches for identities of this host, of which there is one."""
    found = [one.values["arn"] for one in made if one.type == "aws_iam_openid_connect_provider"]
    (arn,) = (arn for arn in found if f"/{host}" in arn)
    return arn


@pytest.mark.parametrize("role", ACCOUNTS)
def test_a_role_is_for_one_service_account_of_this_cluster(trusts, made, role):
    cluster = identity_provider(made, "oidc.eks.")
    host = cluster.split("oidc-provider/")[1]

    def may(provider: str, audience: str, account: str) -> bool:
        context = {f"{host}:aud": audience, f"{host}:sub": f"system:serviceaccount:{account}"}
        return trusted(trusts[role], ("Federated", provider), context)

    own = ACCOUNTS[role]
    assert may(cluster, "sts.amazonaws.com", own)
    assert not may(cluster, "sts.amazonaws.com", "default:default")
    assert not may(cluster, "sts.amazonaws.com", own + "-x")
    assert not may(cluster, "another", own)
    assert not may(cluster.replace("0123", "3210"), "sts.amazonaws.com", own)
    assert not trusted(trusts[role], ("AWS", f"arn:aws:iam::{ACCOUNT}:root"))


@pytest.mark.parametrize("role", SUBJECTS)
def test_a_workflows_role_is_for_its_jobs_of_this_repository(trusts, made, role):
    host = "token.actions.githubusercontent.com"
    github = identity_provider(made, host)
    repository = GIVEN["github_repository"]

    def may(subject: str, audience: str = "sts.amazonaws.com", provider: str = github) -> bool:
        return trusted(trusts[role], ("Federated", provider), {f"{host}:aud": audience, f"{host}:sub": subject})

    assert may(f"repo:{repository}:{SUBJECTS[role]}")
    assert not may(f"repo:{repository}:{SUBJECTS[role]}", audience="https://github.com/octocat")
    assert not may(f"repo:{repository}:{SUBJECTS[role]}", provider=identity_provider(made, "oidc.eks."))
    others = {"pull_request", "environment:release", "environment:pypi", "ref:refs/heads/main", "ref:refs/tags/v1.0.0"}
    for other in others - {SUBJECTS[role]}:
        assert not may(f"repo:{repository}:{other}")
    for fork in ("mallory@3/onnxd@4", "octocat@1/onnxd@20", "octocat/onnxd", "octocat@1/onnxd-x@2", "*"):
        assert not may(f"repo:{fork}:{SUBJECTS[role]}")
    context = {f"{host}:aud": "sts.amazonaws.com"}
    assert not trusted(trusts[role], ("Federated", github), context)
    assert not trusted(trusts[role], ("AWS", f"arn:aws:iam::{ACCOUNT}:root"))


@pytest.mark.parametrize("role", SERVICES)
def test_a_services_role_is_for_this_service_and_this_account(trusts, role):
    service, context = SERVICES[role]
    assert trusted(trusts[role], ("Service", f"{service}.amazonaws.com"), context)
    assert not trusted(trusts[role], ("Service", "ecs.amazonaws.com"), context)
    for key, value in context.items():
        assert not trusted(trusts[role], ("Service", f"{service}.amazonaws.com"), context | {key: "0" + value}), key


def test_buckets_refuse_what_is_not_encrypted_on_its_way(made):
    documents = [json.loads(one.values["policy"]) for one in made if one.type == "aws_s3_bucket_policy"]
    assert len(documents) == 3
    everybody = {"Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    for document in documents:
        bucket = document["Statement"][0]["Resource"][0]
        for resource in (bucket, f"{bucket}/a"):
            assert allowed([everybody, document], "s3:GetObject", resource, TLS)
            assert not allowed([everybody, document], "s3:GetObject", resource, {"aws:SecureTransport": "false"})


def test_other_accounts_pull_images_only_where_they_are_named(applied, made):
    def pulls(planned):
        found = {}
        for one in planned:
            if one.type == "aws_ecr_repository_policy":
                for statement in json.loads(one.values["policy"])["Statement"]:
                    (who,) = (tuple(many(value)) for value in statement["Principal"].values())
                    found.setdefault(who, {})[one.values["repository"]] = set(statement["Action"])
        return found

    functions = {("lambda.amazonaws.com",): {"onnxd-training": {"ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}}}
    assert pulls(made) == functions
    other = resources(applied.plan('-var=pull_accounts=["444455556666"]')["planned_values"]["root_module"])
    layers = {"ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"}
    images = ("onnxd", "collector", "remediation-operator", "onnxd-training")
    assert pulls(other) == functions | {("arn:aws:iam::444455556666:root",): dict.fromkeys(images, layers)}


@mock_aws
def test_another_reader_of_policies_takes_all_of_them(policies, trusts):
    iam = boto3.client("iam", region_name="eu-west-1", aws_access_key_id="none", aws_secret_access_key="none")
    for role, trust in trusts.items():
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
        for i, document in enumerate(policies.get(role, [])):
            iam.create_policy(PolicyName=f"{role}-{i}", PolicyDocument=json.dumps(document))
    spoilt = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3", "Resource": "*"}]}
    with pytest.raises(iam.exceptions.MalformedPolicyDocumentException):
        iam.create_policy(PolicyName="spoilt", PolicyDocument=json.dumps(spoilt))


def test_the_evaluator_knows_iams_rules():
    allow = {"Effect": "Allow", "Action": ["s3:Get*"], "Resource": "arn:aws:s3:::b/a?"}
    deny = {"Effect": "Deny", "Action": "s3:GetObject", "Resource": "*", "Condition": {"Bool": {"k": "true"}}}
    both = [{"Statement": [allow, deny]}]
    assert allowed(both, "s3:getobject", "arn:aws:s3:::b/a1")  # actions in any case
    assert not allowed(both, "s3:GetObject", "arn:aws:s3:::B/a1")  # resources not
    assert not allowed(both, "s3:GetObject", "arn:aws:s3:::b/a12")
    assert not allowed(both, "s3:GetObject", "arn:aws:s3:::b/a1", {"k": "true"})  # a denial wins
    assert not allowed([], "s3:GetObject", "arn:aws:s3:::b/a1")
    with pytest.raises(KeyError):  # an operator that is not known here is no guess
        allowed(
            [{"Statement": [allow | {"Condition": {"IpAddress": {"k": "1"}}}]}], "s3:GetObject", "arn:aws:s3:::b/a1"
        )
