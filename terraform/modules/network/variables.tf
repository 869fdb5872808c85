variable "name" {
  description = "What the network belongs to; the beginning of its resources' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "cidr" {
  description = "Addresses of the VPC."
  type        = string

  validation {
    condition     = can(cidrsubnet(var.cidr, 8, 255)) && try(tonumber(split("/", var.cidr)[1]) >= 16, false)
    error_message = "The VPC's addresses are a block of IPv4 from /16 to /20, such as 10.0.0.0/16: it is divided into /20 and /24, or smaller ones."
  }
}

variable "zones" {
  description = "In how many availability zones there are subnets."
  type        = number

  validation {
    condition     = contains([2, 3], var.zones)
    error_message = "2 or 3 zones: EKS wants two, and no region has to have more than three."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone; otherwise all share one, and are without way out when its zone fails."
  type        = bool
  nullable    = false
}

variable "private_zone" {
  description = "Name of the private DNS zone by which the retraining functions find pods and MLflow finds its database."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.private_zone))
    error_message = "A zone is a domain of at least two lower-case labels, such as ml-anomaly.internal."
  }
}

variable "log_retention_days" {
  description = "How long flow logs are kept."
  type        = number

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731 days."
  }
}
