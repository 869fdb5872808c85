output "role_arn" {
  description = "What experiments run as."
  value       = aws_iam_role.this.arn

  depends_on = [aws_iam_role_policy.this]
}

output "stop_alarm_arn" {
  description = "The alarm that ends an experiment."
  value       = aws_cloudwatch_metric_alarm.stop.arn
}

output "log_group_arn" {
  description = "Where experiments write what they did."
  value       = aws_cloudwatch_log_group.this.arn
}

output "document_arn" {
  description = "The SSM document that stresses the CPU."
  value       = local.document
}
