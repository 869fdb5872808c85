variable "name" {
  description = "Name of the cluster."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes."
  type        = string

  validation {
    condition     = try(tonumber(split(".", var.kubernetes_version)[1]) >= 30, false) && can(regex("^1\\.[0-9]+$", var.kubernetes_version))
    error_message = "1.30 or newer, without a patch: the manifests need it."
  }
}

variable "subnet_ids" {
  description = "Private subnets of nodes and of the control plane's interfaces, in two zones at least."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "EKS wants subnets in two zones at least."
  }
}

variable "public_cidrs" {
  description = "Addresses from which the API may be reached over the internet; with none, from the VPC only."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.public_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Each is a block of addresses, such as 203.0.113.7/32."
  }
}

variable "instance_types" {
  description = "Types of the nodes, x86-64: the images are."
  type        = list(string)

  validation {
    condition     = length(var.instance_types) > 0 && alltrue([for type in var.instance_types : !can(regex("^[a-z]+[0-9]+[a-z]*g[a-z]*\\.", type))])
    error_message = "At least one, and none with Graviton (a g after the generation, as m7g.large): the images are for x86-64."
  }
}

variable "nodes" {
  description = "How many nodes: at least, at first, at most. Nothing here changes the number by itself."
  type        = object({ min = number, desired = number, max = number })

  validation {
    condition     = var.nodes.min >= 1 && var.nodes.min <= var.nodes.desired && var.nodes.desired <= var.nodes.max
    error_message = "min is 1 or more, desired not below it, max not below desired."
  }
}

variable "disk_gib" {
  description = "Disk of each node. The four images take 1.1 GB of it."
  type        = number

  validation {
    condition     = var.disk_gib >= 20
    error_message = "At least 20 GiB: the system, images and logs."
  }
}

variable "log_retention_days" {
  description = "How long the control plane's logs are kept."
  type        = number

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731 days."
  }
}
