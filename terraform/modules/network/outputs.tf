output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "private_subnet_ids" {
  description = "Subnets of nodes and pods, without addresses of their own on the internet, one a zone."
  value       = [for subnet in aws_subnet.private : subnet.id]
}

output "services_subnet_ids" {
  description = "Subnets of functions and the database, one a zone."
  value       = [for subnet in aws_subnet.services : subnet.id]
}

output "services_cidr" {
  description = "Their addresses, which the NetworkPolicies name."
  value       = local.services_cidr
}

output "public_subnet_ids" {
  description = "Subnets for load balancers, one a zone."
  value       = [for subnet in aws_subnet.public : subnet.id]
}

output "zone_id" {
  description = "The private DNS zone."
  value       = aws_route53_zone.private.zone_id
}

output "zone_arn" {
  description = "The private DNS zone, for policies."
  value       = aws_route53_zone.private.arn
}
