variable "name" {
  description = "The cluster whose nodes experiments may disturb."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "autoscaling_group" {
  description = "The group of the nodes, whose health ends an experiment."
  type        = string

  validation {
    condition     = length(var.autoscaling_group) > 0
    error_message = "The group's name is missing."
  }
}

variable "log_retention_days" {
  description = "How long experiments' logs are kept."
  type        = number

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731 days."
  }
}
