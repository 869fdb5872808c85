output "name" {
  description = "The cluster's name."
  value       = aws_eks_cluster.this.name
}

output "endpoint" {
  description = "The address of the API."
  value       = aws_eks_cluster.this.endpoint
}

output "certificate_authority" {
  description = "The certificate of the API's authority, in base64."
  value       = aws_eks_cluster.this.certificate_authority[0].data
}

output "oidc_provider_arn" {
  description = "What trusts the cluster's service accounts."
  value       = aws_iam_openid_connect_provider.this.arn
}

output "oidc_host" {
  description = "The issuer without https://, as conditions of trust name it."
  value       = local.host
}

output "security_group_id" {
  description = "The group of nodes, pods and the control plane."
  value       = aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
}

output "autoscaling_group" {
  description = "The group of the nodes."
  value       = aws_eks_node_group.this.resources[0].autoscaling_groups[0].name

  # Whoever uses the cluster waits until it can run pods.
  depends_on = [aws_eks_addon.coredns, aws_eks_addon.kube_proxy, aws_eks_addon.ebs_csi]
}
