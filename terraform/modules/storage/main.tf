# Buckets for models, for metrics (feature rows, and what the steps of retraining hand to each other), for MLflow's files.

data "aws_caller_identity" "current" {}

locals {
  # Objects under these prefixes go by themselves. Models and MLflow's files stay: rollback and audit need them.
  buckets = {
    models  = {}
    metrics = { "rows/" = var.rows_days, "training/" = var.rows_days }
    mlflow  = {}
  }
}

resource "aws_s3_bucket" "this" {
  # checkov:skip=CKV_AWS_145:SSE-S3; with a key of ours every reader would need rights on it too, and lose all with it
  # checkov:skip=CKV_AWS_144:one region; losing it is not what this guards against
  # checkov:skip=CKV_AWS_18:who wrote which model is in the repository's ledger; CloudTrail data events are the account's decision
  # checkov:skip=CKV_AWS_21:versioned below, by for_each, which checkov does not follow
  # checkov:skip=CKV2_AWS_6:blocked below, the same
  # checkov:skip=CKV2_AWS_62:readers poll one key with a conditional GET
  for_each = local.buckets

  bucket = "${var.prefix}-${each.key}-${data.aws_caller_identity.current.account_id}"
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id

  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_policy" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [each.value.arn, "${each.value.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })

  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  for_each = local.buckets

  bucket = aws_s3_bucket.this[each.key].id

  rule {
    id     = "versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.noncurrent_days
    }

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }

  dynamic "rule" {
    for_each = each.value

    content {
      id     = trimsuffix(rule.key, "/")
      status = "Enabled"

      filter {
        prefix = rule.key
      }

      expiration {
        days = rule.value
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}
