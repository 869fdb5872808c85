# A repository for each image. A tag is written once: what 0.1.0 is today, it is tomorrow.

resource "aws_ecr_repository" "this" {
  # checkov:skip=CKV_AWS_136:AES256 by ECR's own key; a key of ours would protect from nobody who may pull
  for_each = var.repositories

  name                 = each.key
  image_tag_mutability = "IMMUTABLE"

  image_scanning_configuration {
    scan_on_push = true
  }
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each = aws_ecr_repository.this

  repository = each.value.name
  policy = jsonencode({
    rules = [
      {
        rulePriority = 1
        description  = "without a tag"
        selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 14 }
        action       = { type = "expire" }
      },
      {
        rulePriority = 2
        description  = "the oldest of more than 50"
        selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 50 }
        action       = { type = "expire" }
      },
    ]
  })
}

locals {
  here = data.aws_caller_identity.current.account_id
  # Lambda pulls the image of the functions by itself, and not by their roles.
  lambda = {
    Sid       = "LambdaPulls"
    Effect    = "Allow"
    Principal = { Service = "lambda.amazonaws.com" }
    Action    = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
    Condition = { ArnLike = { "aws:SourceArn" = "arn:${data.aws_partition.current.partition}:lambda:${data.aws_region.current.region}:${local.here}:function:*" } }
  }
  others = {
    Sid       = "OtherAccountsPull"
    Effect    = "Allow"
    Principal = { AWS = [for account in sort(var.pull_accounts) : "arn:${data.aws_partition.current.partition}:iam::${account}:root"] }
    Action    = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
  }
  # A repository has one policy at most.
  statements = {
    for name in var.repositories : name => concat(
      [for statement in [local.lambda] : statement if name == "onnxd-training"],
      [for statement in [local.others] : statement if length(var.pull_accounts) > 0],
    )
  }
}

resource "aws_ecr_repository_policy" "this" {
  for_each = { for name, statements in local.statements : name => statements if length(statements) > 0 }

  repository = aws_ecr_repository.this[each.key].name
  policy     = jsonencode({ Version = "2012-10-17", Statement = each.value })
}

data "aws_caller_identity" "current" {}

data "aws_partition" "current" {}

data "aws_region" "current" {}
