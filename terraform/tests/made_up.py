"""What the providers for tests answer where AWS would say it: names, numbers and ARNs in AWS' forms."""

import hashlib
from typing import Any

ACCOUNT = "111122223333"
REGION = "eu-west-1"
SECRET = '{"password": "read back from the secret"}'

# The end of the ARN, after `arn:aws:`, from the resource's own values; "{id}" is a number of its own.
ARNS = {
    "aws_cloudwatch_event_rule": f"events:{REGION}:{ACCOUNT}:rule/{{name}}",
    "aws_cloudwatch_log_group": f"logs:{REGION}:{ACCOUNT}:log-group:{{name}}",
    "aws_cloudwatch_metric_alarm": f"cloudwatch:{REGION}:{ACCOUNT}:alarm:{{alarm_name}}",
    "aws_db_instance": f"rds:{REGION}:{ACCOUNT}:db:{{identifier}}",
    "aws_ecr_repository": f"ecr:{REGION}:{ACCOUNT}:repository/{{name}}",
    "aws_eks_cluster": f"eks:{REGION}:{ACCOUNT}:cluster/{{name}}",
    "aws_fis_experiment_template": f"fis:{REGION}:{ACCOUNT}:experiment-template/{{id}}",
    "aws_iam_openid_connect_provider": f"iam::{ACCOUNT}:oidc-provider/{{host}}",
    "aws_iam_role": f"iam::{ACCOUNT}:role/{{name}}",
    "aws_kms_key": f"kms:{REGION}:{ACCOUNT}:key/{{id}}",
    "aws_lambda_function": f"lambda:{REGION}:{ACCOUNT}:function:{{function_name}}",
    "aws_route53_zone": "route53:::hostedzone/{id}",
    "aws_s3_bucket": "s3:::{bucket}",
    "aws_secretsmanager_secret": f"secretsmanager:{REGION}:{ACCOUNT}:secret:{{name}}-AbCdEf",
    "aws_security_group": f"ec2:{REGION}:{ACCOUNT}:security-group/{{id}}",
    "aws_sfn_state_machine": f"states:{REGION}:{ACCOUNT}:stateMachine:{{name}}",
    "aws_sns_topic": f"sns:{REGION}:{ACCOUNT}:{{name}}",
}
PREFIXES = {
    "aws_vpc": "vpc-",
    "aws_subnet": "subnet-",
    "aws_security_group": "sg-",
    "aws_route_table": "rtb-",
    "aws_launch_template": "lt-",
    "aws_route53_zone": "Z",
    "aws_fis_experiment_template": "EXT",
}
# What the provider takes as the id, where it is no number.
IDS = {"aws_iam_role": "name", "aws_s3_bucket": "bucket"}
VALUES = {
    "data.aws_caller_identity": {"account_id": ACCOUNT},
    "data.aws_region": {"region": REGION, "name": REGION},
    "data.aws_partition": {"partition": "aws", "dns_suffix": "amazonaws.com"},
    "data.aws_availability_zones": {"names": [f"{REGION}a", f"{REGION}b", f"{REGION}c"]},
    "aws_eks_cluster": {
        "endpoint": f"https://0123456789ABCDEF0123456789ABCDEF.gr7.{REGION}.eks.amazonaws.com",
        "certificate_authority": [{"data": "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="}],
        "vpc_config.cluster_security_group_id": "sg-c0ffee",
        "identity": [
            {"oidc": [{"issuer": f"https://oidc.eks.{REGION}.amazonaws.com/id/0123456789ABCDEF0123456789ABCDEF"}]}
        ],
    },
    "aws_eks_node_group": {
        "resources": [{"autoscaling_groups": [{"name": "eks-workers-c0ffee"}], "remote_access_security_group_id": ""}]
    },
    "ephemeral.aws_secretsmanager_secret_version": {"secret_string": SECRET},
    "aws_db_instance": {"address": f"ml-anomaly-eks-mlflow.c0ffee000000.{REGION}.rds.amazonaws.com", "port": 5432},
}


def made_up(kind: str, name: str, of: Any, values: dict[str, Any]) -> Any:
    """A value for what was unknown.

    Args:
        kind: the resource's type, with `data.` or `ephemeral.` before it for others.
        name: the attribute, with the names of the blocks that it is in.
        of: its type, in Terraform's JSON.
        values: what is known of the resource, or of the block.
    """
    if name in VALUES.get(kind, {}):
        return VALUES[kind][name]
    if of == "string":
        return _text(kind, name, values)
    if of in ("number", "bool"):
        return 0 if of == "number" else False
    if of[0] == "object":
        return {k: made_up(kind, f"{name}.{k}", v, values) for k, v in of[1].items()}
    return {} if of[0] == "map" else []


def _text(kind: str, name: str, values: dict[str, Any]) -> str:
    known = {k: v for k, v in values.items() if isinstance(v, str)}
    number = hashlib.sha256(f"{kind} {sorted(known.items())}".encode()).hexdigest()[:17]
    known = {"id": PREFIXES.get(kind, "") + number, "host": known.get("url", "").removeprefix("https://"), **known}
    if name == "arn" and kind in ARNS:
        return "arn:aws:" + ARNS[kind].format(**known)
    if name == "repository_url":
        return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{known['name']}"
    if name in {"id", "key_id", "zone_id"}:
        return known[IDS.get(kind, "id")]
    if name == "region":
        return REGION
    return f"{name}-{number}"
