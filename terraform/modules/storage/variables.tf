variable "prefix" {
  description = "The beginning of the buckets' names; the account's number is the end, since names are the whole world's."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,40}$", var.prefix))
    error_message = "A prefix has 2 to 41 lower-case letters, digits and hyphens."
  }
}

variable "noncurrent_days" {
  description = "How long a version of an object is kept after another one took its place, or after it was deleted."
  type        = number

  validation {
    condition     = var.noncurrent_days >= 7
    error_message = "At least 7 days: a mistake is seen in a week."
  }
}

variable "rows_days" {
  description = "How long feature rows and the files of retraining runs are kept."
  type        = number

  validation {
    condition     = var.rows_days >= 30
    error_message = "At least 30 days: retraining reads 14 of them, and a person may want the 14 before."
  }
}
