output "buckets" {
  description = "Names of the buckets: models, metrics, mlflow."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.id }
}

output "arns" {
  description = "ARNs of the same buckets."
  value       = { for name, bucket in aws_s3_bucket.this : name => bucket.arn }
}
