# What experiments of AWS FIS need: a role, an alarm that ends them, a log. The experiment itself is in the root module.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region
  document  = "arn:${local.partition}:ssm:${local.region}::document/AWSFIS-Run-CPU-Stress"
}

resource "aws_cloudwatch_log_group" "this" {
  # checkov:skip=CKV_AWS_158:encrypted by CloudWatch's own key; who may read is IAM's matter
  name              = "/aws/fis/${var.name}"
  retention_in_days = var.log_retention_days
}

# A node that no longer answers EC2's own checks has more than stress.
resource "aws_cloudwatch_metric_alarm" "stop" {
  alarm_name          = "${var.name}-chaos-stop"
  alarm_description   = "A node fails EC2's checks: ends running experiments"
  namespace           = "AWS/EC2"
  metric_name         = "StatusCheckFailed"
  dimensions          = { AutoScalingGroupName = var.autoscaling_group }
  statistic           = "Maximum"
  period              = 60
  evaluation_periods  = 1
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
}

resource "aws_iam_role" "this" {
  name = "${var.name}-fis"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "fis.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:fis:${local.region}:${local.account}:experiment/*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  # checkov:skip=CKV_AWS_355:the actions on "*" are those that AWS gives no resource; terraform/tests/test_policies.py lists them
  # checkov:skip=CKV_AWS_290:the same
  name = "experiments"
  role = aws_iam_role.this.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "StressDocument"
        Effect   = "Allow"
        Action   = "ssm:SendCommand"
        Resource = local.document
      },
      {
        Sid       = "NodesOfThisCluster"
        Effect    = "Allow"
        Action    = "ssm:SendCommand"
        Resource  = "arn:${local.partition}:ec2:${local.region}:${local.account}:instance/*"
        Condition = { StringEquals = { "ssm:resourceTag/eks:cluster-name" = var.name } }
      },
      {
        Sid      = "FollowAndCancel"
        Effect   = "Allow"
        Action   = ["ssm:ListCommands", "ssm:CancelCommand", "ec2:DescribeInstances"]
        Resource = "*"
      },
      {
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogDelivery", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups"]
        Resource = "*"
      },
    ]
  })
}
