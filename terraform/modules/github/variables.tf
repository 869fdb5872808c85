variable "name" {
  description = "The cluster; the beginning of the roles' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "repository" {
  description = "The repository, as GitHub's identities name it."
  type        = string

  validation {
    condition     = can(regex("^[^/:*]+/[^/:*]+$", var.repository))
    error_message = "OWNER/NAME, or OWNER@ID/NAME@ID."
  }
}

variable "state" {
  description = "Where Terraform's state is."
  type        = object({ bucket = string, key = string })

  validation {
    condition     = can(regex("^[a-z0-9.-]{3,63}$", var.state.bucket)) && !strcontains(var.state.key, "*")
    error_message = "A bucket's name, and the key of one object."
  }
}

variable "image_repository_arns" {
  description = "Repositories that a release pushes to."
  type        = list(string)

  validation {
    condition     = alltrue([for arn in var.image_repository_arns : can(regex("^arn:[a-z-]+:ecr:[^*]+:repository/[^*]+$", arn))])
    error_message = "Each is the ARN of one repository."
  }
}
