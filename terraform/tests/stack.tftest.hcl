# What is made without an image of the functions, and with one; and what a user may type wrong, and that Terraform says so:
# `terraform -chdir=terraform init`, then `test`.

# Nothing is asked of AWS: the provider's checks of values are made, and plans, but nothing else.
provider "aws" {
  region                      = "eu-west-1"
  access_key                  = "none"
  secret_key                  = "none"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}

mock_provider "helm" {}

override_data {
  target = data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.network.data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.storage.data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.registry.data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.identity.data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.chaos.data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.retraining[0].data.aws_caller_identity.current
  values = { account_id = "111122223333" }
}

override_data {
  target = module.network.data.aws_availability_zones.available
  values = { names = ["eu-west-1a", "eu-west-1b", "eu-west-1c"] }
}

variables {
  api_cidrs = []
}

run "without_an_image_there_is_no_retraining" {
  command = plan

  assert {
    condition     = output.state_machine_arn == null && length(module.retraining) == 0
    error_message = "The first apply comes before any image can be pushed, and must not need one."
  }

  assert {
    condition     = output.plan_role_arn == null && output.push_role_arn == null && length(module.github) == 0
    error_message = "Nobody on GitHub was named, and somebody may do something."
  }

  assert {
    condition     = output.cluster_name == "ml-anomaly-eks"
    error_message = "The runbook names it."
  }
}

run "with_an_image_there_is" {
  command = plan

  variables {
    training_image_tag = "0.1.0"
  }

  assert {
    condition     = length(module.retraining) == 1
    error_message = "An image was named, and there is no retraining."
  }
}

run "a_workflow_may_something_where_its_repository_is_named" {
  command = plan

  variables {
    github_repository = "octocat/onnxd"
  }

  assert {
    condition     = length(module.github) == 1
    error_message = "A repository was named, and there are no roles for it."
  }
}

run "two_zones_with_a_gateway_each" {
  command = plan

  variables {
    zones        = 2
    nat_per_zone = true
  }

  assert {
    condition     = length(module.network.private_subnet_ids) == 2
    error_message = "Two zones were asked for."
  }
}

run "an_address_is_no_block" {
  command = plan

  variables {
    api_cidrs = ["203.0.113.7"]
  }

  expect_failures = [var.api_cidrs]
}

run "a_vpc_is_too_small" {
  command = plan

  variables {
    vpc_cidr = "10.0.0.0/26"
  }

  expect_failures = [var.vpc_cidr]
}

run "kubernetes_is_too_old" {
  command = plan

  variables {
    kubernetes_version = "1.29"
  }

  expect_failures = [var.kubernetes_version]
}

run "fewer_nodes_than_at_least" {
  command = plan

  variables {
    nodes = { min = 3, desired = 2, max = 6 }
  }

  expect_failures = [var.nodes]
}

run "a_schedule_of_cron" {
  command = plan

  variables {
    retraining_schedule = "0 3 * * *"
  }

  expect_failures = [var.retraining_schedule]
}

run "more_days_than_are_kept" {
  command = plan

  variables {
    retraining_days = 100
  }

  expect_failures = [var.retraining_days]
}

run "a_time_that_logs_cannot_be_kept" {
  command = plan

  variables {
    log_retention_days = 100
  }

  expect_failures = [var.log_retention_days]
}

run "a_repository_is_no_pattern" {
  command = plan

  variables {
    github_repository = "octocat/*"
  }

  expect_failures = [var.github_repository]
}

run "an_image_that_the_functions_cannot_run" {
  command = plan

  variables {
    training_image_tag = "0.1.0-arm64"
  }

  expect_failures = [var.training_image_tag]
}
