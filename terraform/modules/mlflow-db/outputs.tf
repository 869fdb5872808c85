output "identifier" {
  description = "The instance, for snapshots."
  value       = aws_db_instance.this.identifier
}

output "secret_arn" {
  description = "The secret with username, password and host."
  value       = aws_secretsmanager_secret.this.arn
}
