output "account_id" {
  description = "The account: in the place of 111122223333 in k8s/overlays/production."
  value       = data.aws_caller_identity.current.account_id
}

output "region" {
  description = "The region."
  value       = var.region
}

output "services_cidr" {
  description = "Addresses of the functions and the database: in the place of 10.0.244.0/22 in k8s/overlays/production."
  value       = module.network.services_cidr
}

output "cluster_name" {
  description = "For aws eks update-kubeconfig --name."
  value       = module.eks.name
}

output "private_zone" {
  description = "The zone that external-dns writes."
  value       = local.zone
}

output "image_repositories" {
  description = "Where images are pushed to, without the tag."
  value       = module.registry.urls
}

output "buckets" {
  description = "Names of the buckets: models, metrics, mlflow."
  value       = module.storage.buckets
}

output "model_repository" {
  description = "For onnxd --repository."
  value       = "s3://${module.storage.buckets.models}/models"
}

output "role_arns" {
  description = "Roles of the service accounts."
  value       = module.identity.role_arns
}

output "plan_role_arn" {
  description = "AWS_PLAN_ROLE_ARN of the repository on GitHub; null without github_repository."
  value       = one(module.github[*].role_arns.plan)
}

output "push_role_arn" {
  description = "AWS_PUSH_ROLE_ARN of the repository on GitHub; null without github_repository."
  value       = one(module.github[*].role_arns.push)
}

output "secret_names" {
  description = "Secrets that External Secrets reads. ml-anomaly/alertmanager is empty until you put Slack's and PagerDuty's values in."
  value       = sort(concat(module.identity.secret_names, ["${local.secret_prefix}mlflow-database"]))
}

output "database_identifier" {
  description = "MLflow's database, for snapshots."
  value       = module.mlflow_db.identifier
}

output "alarm_topic_arn" {
  description = "Where alarms are told."
  value       = aws_sns_topic.alarms.arn
}

output "state_machine_arn" {
  description = "The state machine of retraining; null without training_image_tag."
  value       = one(module.retraining[*].state_machine_arn)
}

output "experiment_template_id" {
  description = "For aws fis start-experiment --experiment-template-id."
  value       = aws_fis_experiment_template.cpu_stress.id
}
