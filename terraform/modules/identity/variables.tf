variable "name" {
  description = "The cluster; the beginning of the roles' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "oidc_provider_arn" {
  description = "What trusts the cluster's service accounts."
  type        = string

  validation {
    condition     = can(regex(":oidc-provider/", var.oidc_provider_arn))
    error_message = "The ARN of an IAM identity provider."
  }
}

variable "oidc_host" {
  description = "The issuer without https://."
  type        = string

  validation {
    condition     = !startswith(var.oidc_host, "https://") && length(var.oidc_host) > 0
    error_message = "The issuer without https://."
  }
}

variable "bucket_arns" {
  description = "ARNs of the buckets."
  type        = object({ models = string, metrics = string, mlflow = string })

  validation {
    condition     = alltrue([for arn in values(var.bucket_arns) : can(regex("^arn:[a-z-]+:s3:::", arn))])
    error_message = "Each is the ARN of a bucket."
  }
}

variable "state_machine" {
  description = "Name of the state machine of retraining. It need not be there yet."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,80}$", var.state_machine))
    error_message = "A state machine's name has 1 to 80 letters, digits, hyphens and underscores."
  }
}

variable "zone_arn" {
  description = "The private DNS zone that external-dns writes."
  type        = string

  validation {
    condition     = can(regex(":hostedzone/", var.zone_arn))
    error_message = "The ARN of a hosted zone."
  }
}

variable "secret_prefix" {
  description = "The beginning of the names of secrets that External Secrets may read."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+/$", var.secret_prefix))
    error_message = "A prefix ends with /, such as ml-anomaly/."
  }
}

variable "tokens_version" {
  description = "Another number makes new tokens for admin calls and for Alertmanager's messages to the operator, and a new password of Grafana's admin."
  type        = number

  validation {
    condition     = var.tokens_version >= 1 && floor(var.tokens_version) == var.tokens_version
    error_message = "1, 2, 3 and so on."
  }
}
