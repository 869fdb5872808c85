# Retraining: two functions of one image, told apart by rights; the state machine that calls them; what starts it.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region
  models    = "${var.bucket_arns.models}/models"
  work      = "${var.bucket_arns.metrics}/training/*"

  # By training/statemachine/README.md. A task's time-out in the machine is 30 s longer.
  functions = {
    pipeline = {
      timeout = 900
      rights = [
        { Sid = "ReadRows", Action = ["s3:GetObject"], Resource = ["${var.bucket_arns.metrics}/rows/*"] },
        { Sid = "ReadModels", Action = ["s3:GetObject"], Resource = ["${local.models}/*"] },
      ]
    }
    release = {
      timeout = 300
      rights = [
        { Sid = "ReadModels", Action = ["s3:GetObject"], Resource = ["${local.models}/*"] },
        { Sid = "WriteModels", Action = ["s3:PutObject", "s3:AbortMultipartUpload"], Resource = ["${local.models}/anomaly/*"] },
        { Sid = "SignModels", Action = ["secretsmanager:GetSecretValue"], Resource = [var.signing_key_arn] },
      ]
    }
  }
  # Both hand files to each other, and list what they read.
  common = [
    { Sid = "Work", Action = ["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"], Resource = [local.work] },
    { Sid = "ListModels", Action = ["s3:ListBucket"], Resource = [var.bucket_arns.models], Condition = { StringLike = { "s3:prefix" = ["models/*"] } } },
    {
      Sid       = "ListMetrics"
      Action    = ["s3:ListBucket"]
      Resource  = [var.bucket_arns.metrics]
      Condition = { StringLike = { "s3:prefix" = ["rows", "rows/*", "training", "training/*"] } }
    },
  ]
}

resource "aws_security_group" "this" {
  name        = "${var.name}-retraining"
  description = "The functions of retraining"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-retraining" }
}

# To pods, and to S3 and Secrets Manager over HTTPS. DNS is the VPC's own, which no group keeps away.
resource "aws_vpc_security_group_egress_rule" "https" {
  description       = "S3, Secrets Manager"
  security_group_id = aws_security_group.this.id
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "pods" {
  for_each = { mlflow = 5000, onnxd = 8082 }

  description                  = "${each.key} in pods"
  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = var.cluster_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
}

resource "aws_vpc_security_group_ingress_rule" "pods" {
  for_each = { mlflow = 5000, onnxd = 8082 }

  description                  = "Retraining asks ${each.key}"
  security_group_id            = var.cluster_security_group_id
  referenced_security_group_id = aws_security_group.this.id
  ip_protocol                  = "tcp"
  from_port                    = each.value
  to_port                      = each.value
}

resource "aws_cloudwatch_log_group" "function" {
  # checkov:skip=CKV_AWS_158:encrypted by CloudWatch's own key; who may read is IAM's matter
  for_each = local.functions

  name              = "/aws/lambda/${var.name}-retraining-${each.key}"
  retention_in_days = var.log_retention_days
}

resource "aws_iam_role" "function" {
  for_each = local.functions

  name = "${var.name}-retraining-${each.key}"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "function" {
  # checkov:skip=CKV_AWS_355:the actions on "*" are those that AWS gives no resource; terraform/tests/test_policies.py lists them
  # checkov:skip=CKV_AWS_290:the same
  # checkov:skip=CKV_AWS_288:reads rows and models, which is its work
  for_each = local.functions

  name = each.key
  role = aws_iam_role.function[each.key].id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [for statement in concat(each.value.rights, local.common, [
      {
        Sid      = "Log"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["${aws_cloudwatch_log_group.function[each.key].arn}:*"]
      },
      {
        # Lambda's own, for its interfaces in the subnets. With narrower resources it refuses the role.
        Sid      = "Network"
        Action   = ["ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"]
        Resource = ["*"]
      },
      {
        # Those are for Lambda; the code itself may not use them.
        Sid       = "NotByTheFunction"
        Effect    = "Deny"
        Action    = ["ec2:CreateNetworkInterface", "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "ec2:DeleteNetworkInterface", "ec2:AssignPrivateIpAddresses", "ec2:UnassignPrivateIpAddresses"]
        Resource  = ["*"]
        Condition = { ArnEquals = { "lambda:SourceFunctionArn" = ["arn:${local.partition}:lambda:${local.region}:${local.account}:function:${var.name}-retraining-${each.key}"] } }
      },
    ]) : merge({ Effect = "Allow" }, statement)]
  })
}

resource "aws_lambda_function" "this" {
  # checkov:skip=CKV_AWS_50:one caller, whose history shows each step with its times
  # checkov:skip=CKV_AWS_115:one execution at a time is what decide and the shadow make of it; a reservation takes it from the account's
  # checkov:skip=CKV_AWS_116:called and waited for by the state machine, which has the error
  # checkov:skip=CKV_AWS_173:no variable is secret
  # checkov:skip=CKV_AWS_272:for archives; these are images, of a repository whose tags do not move
  for_each = local.functions

  function_name = "${var.name}-retraining-${each.key}"
  description   = "Retraining: ${each.key}"
  role          = aws_iam_role.function[each.key].arn
  package_type  = "Image"
  image_uri     = var.image
  architectures = ["x86_64"]
  memory_size   = 2048
  timeout       = each.value.timeout

  image_config {
    command = ["training.pipeline.steps.${each.key}_handler"]
  }

  ephemeral_storage {
    size = 2048
  }

  vpc_config {
    subnet_ids         = var.subnet_ids
    security_group_ids = [aws_security_group.this.id]
  }

  environment {
    # Both name the key, for the gates tell whether what they pass will be signed; one may read it. var.environment may leave it out.
    variables = merge({ TRAINING_SIGN_WITH = var.signing_key_arn }, var.environment, {
      ONNXD_REPOSITORY    = "s3://${var.buckets.models}/models"
      ONNXD_PEERS         = "anomaly-api-peers.${var.private_zone}:8082"
      MLFLOW_TRACKING_URI = "http://mlflow.${var.private_zone}:5000"
      TRAINING_SOURCE     = "rows:s3://${var.buckets.metrics}/rows?days=${var.source_days}"
      TRAINING_WORK       = "s3://${var.buckets.metrics}/training"
    })
  }

  depends_on = [aws_cloudwatch_log_group.function, aws_iam_role_policy.function]
}

resource "aws_cloudwatch_log_group" "machine" {
  # checkov:skip=CKV_AWS_158:encrypted by CloudWatch's own key; who may read is IAM's matter
  # A name that begins so needs no line of its own in the account's resource policy, which is full after some.
  name              = "/aws/vendedlogs/states/${var.state_machine}"
  retention_in_days = var.log_retention_days
}

resource "aws_iam_role" "machine" {
  name = "${var.name}-retraining-machine"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "states.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:states:${local.region}:${local.account}:stateMachine:${var.state_machine}" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "machine" {
  # checkov:skip=CKV_AWS_355:the actions on "*" are those that AWS gives no resource; terraform/tests/test_policies.py lists them
  # checkov:skip=CKV_AWS_290:the same
  # checkov:skip=CKV_AWS_289:the same
  # checkov:skip=CKV_AWS_286:the same
  name = "steps"
  role = aws_iam_role.machine.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "Steps"
        Effect   = "Allow"
        Action   = ["lambda:InvokeFunction"]
        Resource = [for function in aws_lambda_function.this : function.arn]
      },
      {
        # By which a log group gets deliveries; AWS gives them no resource.
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogDelivery", "logs:GetLogDelivery", "logs:UpdateLogDelivery", "logs:DeleteLogDelivery", "logs:ListLogDeliveries", "logs:PutResourcePolicy", "logs:DescribeResourcePolicies", "logs:DescribeLogGroups"]
        Resource = ["*"]
      },
    ]
  })
}

resource "aws_sfn_state_machine" "this" {
  # checkov:skip=CKV_AWS_284:the history shows each step with its times
  name     = var.state_machine
  role_arn = aws_iam_role.machine.arn
  definition = templatefile(var.definition, {
    pipeline_function_arn = aws_lambda_function.this["pipeline"].arn
    release_function_arn  = aws_lambda_function.this["release"].arn
  })

  # With data: steps hand each other keys and decisions, nothing secret, and a failed one cannot be understood without.
  logging_configuration {
    log_destination        = "${aws_cloudwatch_log_group.machine.arn}:*"
    level                  = "ALL"
    include_execution_data = true
  }

  depends_on = [aws_iam_role_policy.machine]
}

# What starts it, beside the operator and people.
resource "aws_iam_role" "events" {
  name = "${var.name}-retraining-events"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRole"
      Principal = { Service = "events.amazonaws.com" }
      Condition = {
        StringEquals = { "aws:SourceAccount" = local.account }
        ArnLike      = { "aws:SourceArn" = "arn:${local.partition}:events:${local.region}:${local.account}:rule/${var.name}-retrain-*" }
      }
    }]
  })
}

resource "aws_iam_role_policy" "events" {
  name = "start"
  role = aws_iam_role.events.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "states:StartExecution", Resource = aws_sfn_state_machine.this.arn }]
  })
}

resource "aws_cloudwatch_event_rule" "schedule" {
  name                = "${var.name}-retrain-schedule"
  description         = "Tries to retrain"
  schedule_expression = var.schedule
}

resource "aws_cloudwatch_event_target" "schedule" {
  rule     = aws_cloudwatch_event_rule.schedule.name
  arn      = aws_sfn_state_machine.this.arn
  role_arn = aws_iam_role.events.arn

  input_transformer {
    input_paths = { at = "$.time" }
    # jsonencode would write < and > as \u003c and \u003e, which EventBridge does not take for a place.
    input_template = <<-JSON
      {"trigger": {"kind": "schedule", "reason": "${var.schedule}", "at": <at>}}
    JSON
  }
}

# Each alarm whose name begins with this starts it: the one below, and your own. With the hyphen: "retraining-failed" must not.
resource "aws_cloudwatch_event_rule" "alarm" {
  name        = "${var.name}-retrain-alarm"
  description = "An alarm of CloudWatch whose name begins with ${var.name}-retrain- rings"
  event_pattern = jsonencode({
    source      = ["aws.cloudwatch"]
    detail-type = ["CloudWatch Alarm State Change"]
    detail = {
      alarmName = [{ prefix = "${var.name}-retrain-" }]
      state     = { value = ["ALARM"] }
    }
  })
}

resource "aws_cloudwatch_event_target" "alarm" {
  rule     = aws_cloudwatch_event_rule.alarm.name
  arn      = aws_sfn_state_machine.this.arn
  role_arn = aws_iam_role.events.arn

  input_transformer {
    input_paths    = { alarm = "$.detail.alarmName", at = "$.time" }
    input_template = <<-JSON
      {"trigger": {"kind": "alert", "reason": "the alarm <alarm> rings", "at": <at>}}
    JSON
  }
}

# The nodes use their CPU otherwise than CloudWatch learned in two weeks, for three hours: what models learned may be over.
resource "aws_cloudwatch_metric_alarm" "unusual" {
  alarm_name          = "${var.name}-retrain-unusual-load"
  alarm_description   = "The nodes' CPU is outside of what it used to be for three hours: starts retraining"
  comparison_operator = "LessThanLowerOrGreaterThanUpperThreshold"
  evaluation_periods  = 3
  threshold_metric_id = "usual"
  treat_missing_data  = "notBreaching"

  metric_query {
    id          = "cpu"
    return_data = true

    metric {
      namespace   = "AWS/EC2"
      metric_name = "CPUUtilization"
      dimensions  = { AutoScalingGroupName = var.autoscaling_group }
      period      = 3600
      stat        = "Average"
    }
  }

  metric_query {
    id          = "usual"
    expression  = "ANOMALY_DETECTION_BAND(cpu, 3)"
    label       = "usual"
    return_data = true
  }
}

# One failed execution is one that a person should look at: training/statemachine/README.md says which ends are failures.
resource "aws_cloudwatch_metric_alarm" "failed" {
  for_each = { failed = "ExecutionsFailed", timed-out = "ExecutionsTimedOut", aborted = "ExecutionsAborted" }

  alarm_name          = "${var.name}-retraining-${each.key}"
  alarm_description   = "An execution of ${var.state_machine}: ${each.value}"
  namespace           = "AWS/States"
  metric_name         = each.value
  dimensions          = { StateMachineArn = aws_sfn_state_machine.this.arn }
  statistic           = "Sum"
  period              = 300
  evaluation_periods  = 1
  threshold           = 1
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = [var.alarm_topic_arn]
}
