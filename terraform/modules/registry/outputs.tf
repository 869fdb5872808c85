output "urls" {
  description = "Where each image is pushed to, without the tag."
  value       = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}
