variable "name" {
  description = "The cluster; the beginning of the resources' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "state_machine" {
  description = "Name of the state machine."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9_-]{1,80}$", var.state_machine))
    error_message = "A state machine's name has 1 to 80 letters, digits, hyphens and underscores."
  }
}

variable "definition" {
  description = "The state machine in the Amazon States Language, with the placeholders pipeline_function_arn and release_function_arn: a file."
  type        = string

  validation {
    condition     = fileexists(var.definition)
    error_message = "There is no such file."
  }
}

variable "image" {
  description = "Image of both functions, with its tag."
  type        = string

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.amazonaws\\.com(\\.cn)?/[^:@]+(:|@sha256:).+$", var.image))
    error_message = "An image in ECR with a tag or a digest: Lambda takes none from elsewhere."
  }
}

variable "vpc_id" {
  description = "The VPC."
  type        = string

  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "A VPC's id begins with vpc-."
  }
}

variable "subnet_ids" {
  description = "Private subnets of the functions."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) > 0
    error_message = "At least one subnet."
  }
}

variable "cluster_security_group_id" {
  description = "The group of the pods that the functions ask."
  type        = string

  validation {
    condition     = startswith(var.cluster_security_group_id, "sg-")
    error_message = "A security group's id begins with sg-."
  }
}

variable "buckets" {
  description = "Names of the buckets."
  type        = object({ models = string, metrics = string })

  validation {
    condition     = alltrue([for name in values(var.buckets) : length(name) > 2])
    error_message = "A bucket's name is missing."
  }
}

variable "bucket_arns" {
  description = "Their ARNs."
  type        = object({ models = string, metrics = string })

  validation {
    condition     = alltrue([for arn in values(var.bucket_arns) : can(regex("^arn:[a-z-]+:s3:::", arn))])
    error_message = "Each is the ARN of a bucket."
  }
}

variable "signing_key_arn" {
  description = "The secret with the key that signs models. Only the function that releases them may read it."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^*]+$", var.signing_key_arn))
    error_message = "The ARN of one secret of Secrets Manager."
  }
}

variable "private_zone" {
  description = "The zone in which external-dns keeps the addresses of MLflow and of all servers."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.private_zone))
    error_message = "A zone is a domain of at least two lower-case labels, such as ml-anomaly.internal."
  }
}

variable "autoscaling_group" {
  description = "The group of the nodes, whose CPU the alarm watches."
  type        = string

  validation {
    condition     = length(var.autoscaling_group) > 0
    error_message = "The group's name is missing."
  }
}

variable "schedule" {
  description = "When retraining is tried, as EventBridge writes it. It ends at once where nothing is to be done."
  type        = string

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.schedule))
    error_message = "rate(7 days), or cron(0 3 ? * SUN *)."
  }
}

variable "source_days" {
  description = "How many days of feature rows are read."
  type        = number

  validation {
    condition     = var.source_days >= 1
    error_message = "At least 1 day."
  }
}

variable "environment" {
  description = "Further variables of both functions: docs/training.md has all."
  type        = map(string)

  validation {
    condition     = length(setintersection(keys(var.environment), ["TRAINING_SOURCE", "TRAINING_WORK", "ONNXD_REPOSITORY", "ONNXD_PEERS", "MLFLOW_TRACKING_URI"])) == 0
    error_message = "TRAINING_SOURCE, TRAINING_WORK, ONNXD_REPOSITORY, ONNXD_PEERS and MLFLOW_TRACKING_URI follow from the other variables."
  }
}

variable "alarm_topic_arn" {
  description = "Where alarms are told."
  type        = string

  validation {
    condition     = can(regex("^arn:[a-z-]+:sns:", var.alarm_topic_arn))
    error_message = "The ARN of an SNS topic."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "CloudWatch keeps logs for 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731 days."
  }
}
