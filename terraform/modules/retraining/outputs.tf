output "state_machine_arn" {
  description = "The state machine, to start it by hand."
  value       = aws_sfn_state_machine.this.arn
}

output "function_names" {
  description = "The functions, to read their logs."
  value       = { for name, function in aws_lambda_function.this : name => function.function_name }
}

output "failed_alarm_name" {
  description = "The alarm that rings when an execution failed."
  value       = aws_cloudwatch_metric_alarm.failed["failed"].alarm_name
}
