# What workflows on GitHub may do here, by its identity and without a key: pull requests plan (.github/workflows/terraform.yml), releases
# push images (release.yml).

data "aws_partition" "current" {}

locals {
  host  = "token.actions.githubusercontent.com"
  state = "arn:${data.aws_partition.current.partition}:s3:::${var.state.bucket}"

  roles = {
    # Whoever may push a branch decides what runs with this one. It reads the state, in which no secret is, and no secret. The workflow plans
    # with -refresh=false, so that it need not read all that there is, and without a lock.
    plan = {
      subject = "pull_request"
      statements = [
        { Sid = "State", Action = ["s3:GetObject"], Resource = ["${local.state}/${var.state.key}"] },
        { Sid = "Workspaces", Action = ["s3:ListBucket"], Resource = [local.state] },
        # Data sources are read, and a state machine that changes is checked, in each plan.
        { Sid = "Check", Action = ["ec2:DescribeAvailabilityZones", "states:ValidateStateMachineDefinition"], Resource = ["*"] },
      ]
    }
    # The environment, which an administrator protects, and not the tag: reviewers approve before GitHub gives such an identity.
    push = {
      subject = "environment:release"
      statements = [
        { Sid = "LogIn", Action = ["ecr:GetAuthorizationToken"], Resource = ["*"] },
        {
          # Signing and the index of machines read what was pushed.
          Sid      = "Push"
          Action   = ["ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload", "ecr:PutImage", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
          Resource = sort(var.image_repository_arns)
        },
      ]
    }
  }
}

resource "aws_iam_openid_connect_provider" "this" {
  url            = "https://${local.host}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_role" "this" {
  for_each = local.roles

  name = "${var.name}-github-${each.key}"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Action    = "sts:AssumeRoleWithWebIdentity"
      Principal = { Federated = aws_iam_openid_connect_provider.this.arn }
      Condition = {
        StringEquals = {
          "${local.host}:aud" = "sts.amazonaws.com"
          "${local.host}:sub" = "repo:${var.repository}:${each.value.subject}"
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
