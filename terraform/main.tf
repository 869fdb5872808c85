# Everything that exists before the cluster's applications: docs/deploy.md is the way through it.

provider "aws" {
  region = var.region

  default_tags {
    tags = merge({ Project = "ml-anomaly", ManagedBy = "terraform" }, var.tags)
  }
}

# By the AWS CLI, since a token that the plan asks for is too old when the cluster is there.
provider "helm" {
  kubernetes = {
    host                   = module.eks.endpoint
    cluster_ca_certificate = base64decode(module.eks.certificate_authority)
    exec = {
      api_version = "client.authentication.k8s.io/v1beta1"
      command     = "aws"
      args        = ["eks", "get-token", "--cluster-name", local.name, "--region", var.region]
    }
  }
}

data "aws_caller_identity" "current" {}

locals {
  # The manifests in k8s/ and gitops/ name these; terraform/tests/test_names.py holds them to it.
  name          = "ml-anomaly-eks"
  zone          = "ml-anomaly.internal"
  state_machine = "ml-anomaly-eks-retraining"
  secret_prefix = "ml-anomaly/"
  # As in backend.tf.example.
  state = { bucket = "ml-anomaly-terraform-${data.aws_caller_identity.current.account_id}", key = "ml-anomaly-eks/terraform.tfstate" }
}

module "network" {
  source = "./modules/network"

  name               = local.name
  cidr               = var.vpc_cidr
  zones              = var.zones
  nat_per_zone       = var.nat_per_zone
  private_zone       = local.zone
  log_retention_days = var.log_retention_days
}

module "registry" {
  source = "./modules/registry"

  repositories  = ["onnxd", "collector", "remediation-operator", "onnxd-training"]
  pull_accounts = var.pull_accounts
}

module "storage" {
  source = "./modules/storage"

  prefix          = "ml-anomaly"
  noncurrent_days = var.noncurrent_days
  rows_days       = var.rows_days
}

module "eks" {
  source = "./modules/eks"

  name               = local.name
  kubernetes_version = var.kubernetes_version
  subnet_ids         = module.network.private_subnet_ids
  public_cidrs       = var.api_cidrs
  instance_types     = var.instance_types
  nodes              = var.nodes
  disk_gib           = var.disk_gib
  log_retention_days = var.log_retention_days
}

module "mlflow_db" {
  source = "./modules/mlflow-db"

  name                     = local.name
  secret_name              = "${local.secret_prefix}mlflow-database"
  host                     = "mlflow-database.${local.zone}"
  zone_id                  = module.network.zone_id
  vpc_id                   = module.network.vpc_id
  subnet_ids               = module.network.services_subnet_ids
  client_security_group_id = module.eks.security_group_id
  instance_class           = var.database_class
  multi_az                 = var.database_multi_az
  deletion_protection      = var.deletion_protection
  password_version         = var.secrets_version
}

module "identity" {
  source = "./modules/identity"

  name              = local.name
  oidc_provider_arn = module.eks.oidc_provider_arn
  oidc_host         = module.eks.oidc_host
  bucket_arns       = module.storage.arns
  state_machine     = local.state_machine
  zone_arn          = module.network.zone_arn
  secret_prefix     = local.secret_prefix
  tokens_version    = var.secrets_version
}

module "github" {
  source = "./modules/github"
  count  = var.github_repository == null ? 0 : 1

  name                  = local.name
  repository            = var.github_repository
  state                 = local.state
  image_repository_arns = module.registry.arns
}

module "retraining" {
  source = "./modules/retraining"
  count  = var.training_image_tag == null ? 0 : 1

  name                      = local.name
  state_machine             = local.state_machine
  definition                = "${path.module}/../training/statemachine/retraining.asl.json"
  image                     = "${module.registry.urls["onnxd-training"]}:${var.training_image_tag}"
  vpc_id                    = module.network.vpc_id
  subnet_ids                = module.network.services_subnet_ids
  cluster_security_group_id = module.eks.security_group_id
  buckets                   = module.storage.buckets
  bucket_arns               = module.storage.arns
  signing_key_arn           = module.identity.signing_key_arn
  private_zone              = local.zone
  autoscaling_group         = module.eks.autoscaling_group
  schedule                  = var.retraining_schedule
  source_days               = var.retraining_days
  environment               = var.retraining_environment
  alarm_topic_arn           = aws_sns_topic.alarms.arn
  log_retention_days        = var.log_retention_days
}

module "chaos" {
  source = "./modules/chaos"

  name               = local.name
  autoscaling_group  = module.eks.autoscaling_group
  log_retention_days = var.log_retention_days
}

# Here and not in the module, so that `terraform apply -target=aws_fis_experiment_template.cpu_stress` means it.
resource "aws_fis_experiment_template" "cpu_stress" {
  description = "All CPUs of half of the nodes for 2 minutes"
  role_arn    = module.chaos.role_arn

  stop_condition {
    source = "aws:cloudwatch:alarm"
    value  = module.chaos.stop_alarm_arn
  }

  action {
    name      = "cpu-stress"
    action_id = "aws:ssm:send-command"

    parameter {
      key   = "documentArn"
      value = module.chaos.document_arn
    }

    parameter {
      key   = "documentParameters"
      value = jsonencode({ DurationSeconds = "120", LoadPercent = "100", InstallDependencies = "True" })
    }

    # What is installed before the two minutes takes some of the third.
    parameter {
      key   = "duration"
      value = "PT3M"
    }

    target {
      key   = "Instances"
      value = "nodes"
    }
  }

  # EKS puts this tag on the nodes of its groups.
  target {
    name           = "nodes"
    resource_type  = "aws:ec2:instance"
    selection_mode = "PERCENT(50)"

    resource_tag {
      key   = "eks:cluster-name"
      value = local.name
    }

    filter {
      path   = "State.Name"
      values = ["running"]
    }
  }

  log_configuration {
    log_schema_version = 2

    cloudwatch_logs_configuration {
      log_group_arn = "${module.chaos.log_group_arn}:*"
    }
  }

  tags = { Name = "cpu-stress" }
}

resource "aws_sns_topic" "alarms" {
  # checkov:skip=CKV_AWS_26:names of alarms and numbers; with AWS' own key CloudWatch could not publish to it
  name = "${local.name}-alarms"
}

resource "aws_sns_topic_subscription" "alarms" {
  count = var.alarm_email == null ? 0 : 1

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = var.alarm_email
}

# Argo CD, which installs all the rest from gitops/.
resource "helm_release" "argocd" {
  name             = "argocd"
  namespace        = "argocd"
  create_namespace = true
  repository       = "https://argoproj.github.io/argo-helm"
  chart            = "argo-cd"
  version          = "10.9.6"
  timeout          = 900
  values           = [file("${path.module}/../gitops/argocd/values.yaml")]

  # Nodes and DNS are up.
  depends_on = [module.eks]
}
