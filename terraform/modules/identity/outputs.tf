output "role_arns" {
  description = "Roles by what takes them."
  value       = { for name, role in aws_iam_role.this : name => role.arn }
}

output "secret_names" {
  description = "Secrets that External Secrets reads, without the database's."
  value       = sort(concat([for secret in aws_secretsmanager_secret.token : secret.name], [aws_secretsmanager_secret.alertmanager.name]))
}

output "signing_key_arn" {
  description = "The secret with the key that signs models."
  value       = aws_secretsmanager_secret.signing_key.arn
}
