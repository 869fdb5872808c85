variable "repositories" {
  description = "Names of the images."
  type        = set(string)

  validation {
    condition     = alltrue([for name in var.repositories : can(regex("^[a-z0-9]+([._/-][a-z0-9]+)*$", name))])
    error_message = "A repository's name has lower-case letters and digits, with . _ / - between them."
  }
}

variable "pull_accounts" {
  description = "Other accounts that may pull images, such as that of a dev cluster, which runs production's."
  type        = set(string)

  validation {
    condition     = alltrue([for account in var.pull_accounts : can(regex("^[0-9]{12}$", account))])
    error_message = "An account is 12 digits."
  }
}
