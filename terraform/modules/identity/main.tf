# Who in the cluster may do what in AWS, and the secrets that the parts share.

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}

locals {
  account   = data.aws_caller_identity.current.account_id
  partition = data.aws_partition.current.partition
  region    = data.aws_region.current.region
  b         = var.bucket_arns

  # Each role is for one service account, and the only one that this one may take.
  roles = {
    anomaly-api = {
      account = "ml:anomaly-api"
      statements = [
        { Sid = "Read", Action = ["s3:GetObject"], Resource = ["${local.b.models}/models/*"] },
        { Sid = "List", Action = ["s3:ListBucket"], Resource = [local.b.models], Condition = { StringLike = { "s3:prefix" = ["models/*"] } } },
        {
          # Promotion and rollback, by admin calls, by the verdict, and by the guard. Never a model.
          Sid      = "Promote"
          Action   = ["s3:PutObject"]
          Resource = ["${local.b.models}/models/*/aliases.json", "${local.b.models}/models/*/ledger/*"]
        },
      ]
    }
    collector = {
      account    = "ml:collector"
      statements = [{ Sid = "WriteRows", Action = ["s3:PutObject"], Resource = ["${local.b.metrics}/rows/*"] }]
    }
    remediation-operator = {
      account = "ml:remediation-operator"
      statements = [{
        Sid      = "Retrain"
        Action   = ["states:StartExecution"]
        Resource = ["arn:${local.partition}:states:${local.region}:${local.account}:stateMachine:${var.state_machine}"]
      }]
    }
    mlflow = {
      account = "mlflow:mlflow"
      statements = [
        {
          Sid      = "Files"
          Action   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
          Resource = ["${local.b.mlflow}/artifacts/*"]
        },
        { Sid = "List", Action = ["s3:ListBucket"], Resource = [local.b.mlflow], Condition = { StringLike = { "s3:prefix" = ["artifacts", "artifacts/*"] } } },
      ]
    }
    external-secrets = {
      account = "external-secrets:external-secrets"
      statements = [{
        Sid      = "Read"
        Action   = ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"]
        Resource = ["arn:${local.partition}:secretsmanager:${local.region}:${local.account}:secret:${var.secret_prefix}*"]
      }]
    }
    external-dns = {
      account = "external-dns:external-dns"
      statements = [
        {
          # Addresses, and the TXT records by which external-dns knows its own. Not the database's CNAME.
          Sid       = "Write"
          Action    = ["route53:ChangeResourceRecordSets"]
          Resource  = [var.zone_arn]
          Condition = { "ForAllValues:StringEquals" = { "route53:ChangeResourceRecordSetsRecordTypes" = ["A", "AAAA", "TXT"] } }
        },
        { Sid = "Read", Action = ["route53:ListResourceRecordSets", "route53:ListTagsForResources"], Resource = [var.zone_arn] },
        { Sid = "Find", Action = ["route53:ListHostedZones"], Resource = ["*"] },
      ]
    }
    prometheus = {
      # To find exporters on hosts outside of the cluster, and name their zone (ec2_sd_configs in gitops/apps/prometheus.yaml).
      account    = "monitoring:prometheus-kube-prometheus-prometheus"
      statements = [{ Sid = "Discover", Action = ["ec2:DescribeInstances", "ec2:DescribeAvailabilityZones"], Resource = ["*"] }]
    }
    grafana = {
      # CloudWatch as a data source (gitops/apps/grafana.yaml): what Step Functions, Lambda, RDS and FIS tell.
      account = "monitoring:grafana"
      statements = [
        {
          Sid      = "Metrics"
          Action   = ["cloudwatch:GetMetricData", "cloudwatch:ListMetrics", "tag:GetResources"]
          Resource = ["*"]
        },
        {
          Sid      = "Alarms"
          Action   = ["cloudwatch:DescribeAlarms"]
          Resource = ["arn:${local.partition}:cloudwatch:${local.region}:${local.account}:alarm:${var.name}-*"]
        },
        {
          Sid      = "Logs"
          Action   = ["logs:StartQuery", "logs:GetQueryResults", "logs:GetLogGroupFields"]
          Resource = [for name in ["lambda", "vendedlogs/states", "fis"] : "arn:${local.partition}:logs:${local.region}:${local.account}:log-group:/aws/${name}/${var.name}*"]
        },
        # Names, to choose from, and the end of a query.
        { Sid = "LogGroups", Action = ["logs:DescribeLogGroups", "logs:StopQuery"], Resource = ["*"] },
      ]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each = local.roles

  name = "${var.name}-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = var.oidc_provider_arn }
      Condition = {
        StringEquals = {
          "${var.oidc_host}:aud" = "sts.amazonaws.com"
          "${var.oidc_host}:sub" = "system:serviceaccount:${each.value.account}"
        }
      }
    }]
  })
}

resource "aws_iam_role_policy" "this" {
  # checkov:skip=CKV_AWS_355:the actions on "*" are those that AWS gives no resource; terraform/tests/test_policies.py lists them
  for_each = local.roles

  name = each.key
  role = aws_iam_role.this[each.key].id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [for statement in each.value.statements : merge({ Effect = "Allow" }, statement)]
  })
}

# Tokens and a password that nobody has to choose: made here, and in no state.
ephemeral "random_password" "token" {
  for_each = local.tokens

  length  = 48
  special = false
}

locals {
  tokens = {
    anomaly-api-admin           = "Opens the admin calls of anomaly-api"
    grafana-admin               = "The password of Grafana's user admin"
    remediation-operator-alerts = "Alertmanager's messages to the operator"
  }
}

resource "aws_secretsmanager_secret" "token" {
  # checkov:skip=CKV_AWS_149:Secrets Manager's own key; who may read is the policies' matter
  # checkov:skip=CKV2_AWS_57:changed by tokens_version; External Secrets carries it on
  for_each = local.tokens

  name        = "${var.secret_prefix}${each.key}"
  description = each.value

  # A name is free again after that long.
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret_version" "token" {
  for_each = local.tokens

  secret_id                = aws_secretsmanager_secret.token[each.key].id
  secret_string_wo         = ephemeral.random_password.token[each.key].result
  secret_string_wo_version = var.tokens_version
}

# Slack's address and PagerDuty's key are a person's: docs/deploy.md has the command that puts them in.
resource "aws_secretsmanager_secret" "alertmanager" {
  # checkov:skip=CKV_AWS_149:Secrets Manager's own key; who may read is the policies' matter
  # checkov:skip=CKV2_AWS_57:Slack and PagerDuty give these values, and no function can change them there
  name        = "${var.secret_prefix}alertmanager"
  description = "JSON with slack-url and pagerduty-key"

  # A name is free again after that long.
  recovery_window_in_days = 7
}

# The key that signs models, which a person makes and puts in (docs/deploy.md): it must outlast changes of the others, and
# is never in Terraform's hands. Its name is not of those that External Secrets may read.
resource "aws_secretsmanager_secret" "signing_key" {
  # checkov:skip=CKV_AWS_149:Secrets Manager's own key; who may read is the policies' matter
  # checkov:skip=CKV2_AWS_57:servers have to trust another key before it signs, which people have to see to
  name        = "${trimsuffix(var.secret_prefix, "/")}-signing-key"
  description = "The private key that signs models: Ed25519, PEM"

  # A name is free again after that long.
  recovery_window_in_days = 7
}
