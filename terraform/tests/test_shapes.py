"""Documents inside of arguments, which the schemas know as text: against AWS' models, and by moto's readers."""

import json

import boto3
import botocore.session
import botocore.validate
import pytest
from moto import mock_aws
from moto.events.models import EventPattern

NONE = {"region_name": "eu-west-1", "aws_access_key_id": "none", "aws_secret_access_key": "none"}


def one_of(made, kind, **values):
    """The one resource of a kind with these values."""
    (found,) = (one.values for one in made if one.type == kind and all(one.values[k] == v for k, v in values.items()))
    return found


def experiment(values):
    """The request that the provider makes of a template's arguments."""
    pairs = lambda blocks: {block["key"]: block["value"] for block in blocks}  # noqa: E731
    (log,) = values["log_configuration"]
    return {
        "clientToken": "once",
        "description": values["description"],
        "roleArn": values["role_arn"],
        "stopConditions": values["stop_condition"],
        "targets": {
            target["name"]: {
                "resourceType": target["resource_type"],
                "resourceTags": pairs(target["resource_tag"]),
                "filters": target["filter"],
                "selectionMode": target["selection_mode"],
            }
            for target in values["target"]
        },
        "actions": {
            action["name"]: {
                "actionId": action["action_id"],
                "parameters": pairs(action["parameter"]),
                "targets": pairs(action["target"]),
            }
            for action in values["action"]
        },
        "logConfiguration": {
            "cloudWatchLogsConfiguration": {"logGroupArn": log["cloudwatch_logs_configuration"][0]["log_group_arn"]},
            "logSchemaVersion": log["log_schema_version"],
        },
        "tags": values["tags"],
    }


def test_the_experiment_is_a_request_that_fis_knows(made):
    request = experiment(one_of(made, "aws_fis_experiment_template"))
    shape = (
        botocore.session.get_session().get_service_model("fis").operation_model("CreateExperimentTemplate").input_shape
    )
    check = botocore.validate.ParamValidator().validate
    assert not check(request, shape).has_errors()
    assert check(request | {"stopCondition": []}, shape).has_errors()
    assert check(request | {"roleArn": 1}, shape).has_errors()


def test_the_experiment_stresses_half_of_this_clusters_nodes_for_two_minutes(made):
    request = experiment(one_of(made, "aws_fis_experiment_template"))
    (action,) = request["actions"].values()
    assert action["actionId"] == "aws:ssm:send-command"
    assert action["parameters"]["documentArn"] == "arn:aws:ssm:eu-west-1::document/AWSFIS-Run-CPU-Stress"
    assert json.loads(action["parameters"]["documentParameters"])["DurationSeconds"] == "120"
    (target,) = (request["targets"][name] for name in action["targets"].values())
    assert target["resourceTags"] == {"eks:cluster-name": "ml-anomaly-eks"}
    assert target["selectionMode"] == "PERCENT(50)"


def test_the_experiment_ends_when_a_node_fails(made):
    (stop,) = one_of(made, "aws_fis_experiment_template")["stop_condition"]
    alarm = one_of(made, "aws_cloudwatch_metric_alarm", alarm_name="ml-anomaly-eks-chaos-stop")
    assert stop == {"source": "aws:cloudwatch:alarm", "value": alarm["arn"]}


@pytest.mark.parametrize(
    ("alarm", "state", "starts"),
    [
        ("ml-anomaly-eks-retrain-unusual-load", "ALARM", True),
        ("ml-anomaly-eks-retrain-of-yours", "ALARM", True),
        ("ml-anomaly-eks-retrain-unusual-load", "OK", False),
        # It would start itself anew, for ever.
        ("ml-anomaly-eks-retraining-failed", "ALARM", False),
        ("ml-anomaly-eks-chaos-stop", "ALARM", False),
    ],
)
def test_an_alarm_starts_retraining_if_it_is_one_for_it(made, alarm, state, starts):
    pattern = one_of(made, "aws_cloudwatch_event_rule", name="ml-anomaly-eks-retrain-alarm")["event_pattern"]
    event = {
        "source": "aws.cloudwatch",
        "detail-type": "CloudWatch Alarm State Change",
        "detail": {"alarmName": alarm, "state": {"value": state}},
    }
    assert EventPattern.load(pattern).matches_event(event) is starts


def test_no_alarm_of_ours_starts_retraining_but_the_one_that_is_for_it(made):
    names = {one.values["alarm_name"] for one in made if one.type == "aws_cloudwatch_metric_alarm"}
    assert {name for name in names if name.startswith("ml-anomaly-eks-retrain-")} == {
        "ml-anomaly-eks-retrain-unusual-load"
    }


def test_a_failed_execution_is_told(made):
    topic = one_of(made, "aws_sns_topic")["arn"]
    machine = one_of(made, "aws_sfn_state_machine")["arn"]
    for end, metric in {
        "failed": "ExecutionsFailed",
        "timed-out": "ExecutionsTimedOut",
        "aborted": "ExecutionsAborted",
    }.items():
        alarm = one_of(made, "aws_cloudwatch_metric_alarm", alarm_name=f"ml-anomaly-eks-retraining-{end}")
        assert alarm["metric_name"] == metric
        assert alarm["dimensions"] == {"StateMachineArn": machine}
        assert alarm["alarm_actions"] == [topic]


@mock_aws
def test_a_registrys_reader_takes_the_rules_of_images(made):
    ecr = boto3.client("ecr", **NONE)
    for one in (one.values for one in made if one.type == "aws_ecr_lifecycle_policy"):
        ecr.create_repository(repositoryName=one["repository"])
        ecr.put_lifecycle_policy(repositoryName=one["repository"], lifecyclePolicyText=one["policy"])
        spoilt = one["policy"].replace("countNumber", "count")
        with pytest.raises(ecr.exceptions.InvalidParameterException):
            ecr.put_lifecycle_policy(repositoryName=one["repository"], lifecyclePolicyText=spoilt)


def test_nothing_is_open_or_kept_without_encryption(made):
    assert all(one.values["image_tag_mutability"] == "IMMUTABLE" for one in made if one.type == "aws_ecr_repository")
    database = one_of(made, "aws_db_instance")
    assert database["storage_encrypted"]
    assert not database["publicly_accessible"]
    assert database["deletion_protection"]
    assert database["backup_retention_period"] >= 7
    buckets = {one.values["bucket"] for one in made if one.type == "aws_s3_bucket"}
    for kind in (
        "aws_s3_bucket_versioning",
        "aws_s3_bucket_server_side_encryption_configuration",
        "aws_s3_bucket_public_access_block",
        "aws_s3_bucket_policy",
        "aws_s3_bucket_lifecycle_configuration",
    ):
        assert {one.values["bucket"] for one in made if one.type == kind} == buckets
    assert all(one.values["retention_in_days"] for one in made if one.type == "aws_cloudwatch_log_group")


def test_the_cluster_enforces_network_policies_and_has_its_add_ons(made):
    addons = {one.values["addon_name"]: one.values for one in made if one.type == "aws_eks_addon"}
    assert addons.keys() == {"vpc-cni", "kube-proxy", "coredns", "aws-ebs-csi-driver"}
    assert json.loads(addons["vpc-cni"]["configuration_values"]) == {"enableNetworkPolicy": "true"}
    assert json.loads(addons["aws-ebs-csi-driver"]["configuration_values"]) == {
        "defaultStorageClass": {"enabled": True}
    }
    cluster = one_of(made, "aws_eks_cluster")
    assert cluster["encryption_config"][0]["resources"] == ["secrets"]
    assert len(cluster["enabled_cluster_log_types"]) == 5
