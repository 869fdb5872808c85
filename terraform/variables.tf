variable "region" {
  description = "Region of everything. Another one is also to be put into k8s/overlays/production (docs/kubernetes.md)."
  type        = string
  default     = "eu-west-1"

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "A region's name, such as eu-west-1."
  }
}

variable "api_cidrs" {
  description = "Addresses from which the Kubernetes API may be reached over the internet, beside the VPC. Yours is among them when this is applied from outside of the VPC, since Argo CD is installed by that API; [] for none."
  type        = list(string)

  validation {
    condition     = alltrue([for cidr in var.api_cidrs : can(cidrhost(cidr, 0))])
    error_message = "Each is a block of addresses: [\"203.0.113.7/32\"], with your address as `curl https://checkip.amazonaws.com` tells it."
  }
}

variable "vpc_cidr" {
  description = "Addresses of the VPC. Others are also to be put into k8s/overlays/production (docs/kubernetes.md)."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrsubnet(var.vpc_cidr, 8, 255)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16, false)
    error_message = "A block of IPv4 from /16 to /20, such as 10.0.0.0/16."
  }
}

variable "zones" {
  description = "In how many availability zones: nodes are spread over them, and three replicas of anomaly-api over the nodes."
  type        = number
  default     = 3

  validation {
    condition     = contains([2, 3], var.zones)
    error_message = "2 or 3."
  }
}

variable "nat_per_zone" {
  description = "A NAT gateway in each zone: about 37 USD a month more each, and no zone waits for another one's."
  type        = bool
  default     = false
  nullable    = false
}

variable "kubernetes_version" {
  description = "Minor version of Kubernetes. EKS goes up one at a time."
  type        = string
  default     = "1.36"

  validation {
    condition     = can(regex("^1\\.[0-9]+$", var.kubernetes_version)) && try(tonumber(split(".", var.kubernetes_version)[1]) >= 30, false)
    error_message = "1.30 or newer, without a patch."
  }
}

variable "instance_types" {
  description = "Types of the nodes, x86-64."
  type        = list(string)
  default     = ["m7i.large"]

  validation {
    condition     = length(var.instance_types) > 0
    error_message = "At least one type."
  }
}

variable "nodes" {
  description = "How many nodes: at least, at first, at most. Three replicas of anomaly-api want three hosts."
  type        = object({ min = number, desired = number, max = number })
  default     = { min = 3, desired = 3, max = 6 }

  validation {
    condition     = var.nodes.min >= 1 && var.nodes.min <= var.nodes.desired && var.nodes.desired <= var.nodes.max
    error_message = "min is 1 or more, desired not below it, max not below desired."
  }
}

variable "disk_gib" {
  description = "Disk of each node."
  type        = number
  default     = 50

  validation {
    condition     = var.disk_gib >= 20
    error_message = "At least 20 GiB."
  }
}

variable "database_class" {
  description = "Size of MLflow's database."
  type        = string
  default     = "db.t4g.small"

  validation {
    condition     = startswith(var.database_class, "db.")
    error_message = "A class begins with db., such as db.t4g.small."
  }
}

variable "database_multi_az" {
  description = "A second instance of MLflow's database in another zone, at twice the price. Nothing that serves waits for MLflow."
  type        = bool
  default     = false
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete MLflow's database. Turned off before a teardown."
  type        = bool
  default     = true
  nullable    = false
}

variable "secrets_version" {
  description = "Another number makes new secrets: the passwords of the database and of Grafana's admin, and both tokens."
  type        = number
  default     = 1

  validation {
    condition     = var.secrets_version >= 1 && floor(var.secrets_version) == var.secrets_version
    error_message = "1, 2, 3 and so on."
  }
}

variable "training_image_tag" {
  description = "Tag of onnxd-training in ECR, which the functions of retraining run: of an image for x86-64 alone, since Lambda takes none of several machines. That is 0.1.0 where you pushed it, and 0.1.0-amd64 of a release. Without it there is no retraining in AWS: the first apply comes before the image can be pushed."
  type        = string
  default     = null

  validation {
    condition     = var.training_image_tag == null || can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$", var.training_image_tag)) && try(!endswith(var.training_image_tag, "-arm64"), false)
    error_message = "A tag of an image for x86-64, such as 0.1.0; of a release, 0.1.0-amd64."
  }
}

variable "retraining_schedule" {
  description = "When retraining is tried, as EventBridge writes it, in UTC."
  type        = string
  default     = "rate(7 days)"

  validation {
    condition     = can(regex("^(rate|cron)\\(.+\\)$", var.retraining_schedule))
    error_message = "rate(7 days), or cron(0 3 ? * SUN *)."
  }
}

variable "retraining_days" {
  description = "How many days of feature rows a retraining reads."
  type        = number
  default     = 14

  validation {
    condition     = var.retraining_days >= 1 && var.retraining_days <= var.rows_days
    error_message = "At least 1, and no more than are kept (rows_days)."
  }
}

variable "retraining_environment" {
  description = "Further variables of the functions, such as { TRAINING_COOL_DOWN = \"172800\" }: docs/training.md has all."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.retraining_environment) : can(regex("^[A-Z][A-Z0-9_]*$", name))])
    error_message = "Names of variables have capitals, digits and underscores."
  }
}

variable "pull_accounts" {
  description = "Other accounts that may pull images, such as that of a dev cluster, which runs production's."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for account in var.pull_accounts : can(regex("^[0-9]{12}$", account))])
    error_message = "An account is 12 digits."
  }
}

variable "github_repository" {
  description = "OWNER/NAME on GitHub, whose pull requests may plan and whose releases may push images; OWNER@ID/NAME@ID of one made since July 2026 (docs/deploy.md#github). Without it no workflow may do anything here."
  type        = string
  default     = null

  validation {
    condition     = var.github_repository == null || can(regex("^([A-Za-z0-9_-]+/[A-Za-z0-9._-]+|[A-Za-z0-9_-]+@[0-9]+/[A-Za-z0-9._-]+@[0-9]+)$", var.github_repository))
    error_message = "OWNER/NAME, such as octocat/onnxd; or octocat@1/onnxd@2, with GitHub's numbers of both."
  }
}

variable "rows_days" {
  description = "How long feature rows and the files of retraining runs are kept."
  type        = number
  default     = 90

  validation {
    condition     = var.rows_days >= 30
    error_message = "At least 30 days."
  }
}

variable "noncurrent_days" {
  description = "How long an object that was overwritten or deleted can be had back."
  type        = number
  default     = 90

  validation {
    condition     = var.noncurrent_days >= 7
    error_message = "At least 7 days."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept in CloudWatch."
  type        = number
  default     = 365

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], var.log_retention_days)
    error_message = "1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545 or 731."
  }
}

variable "alarm_email" {
  description = "Who gets a mail when a retraining fails. AWS asks the address first whether it agrees. Without one, subscribe to the topic of the output alarm_topic_arn by other means."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null || can(regex("^[^@\\s]+@[^@\\s]+$", var.alarm_email))
    error_message = "An address, such as oncall@example.com."
  }
}

variable "tags" {
  description = "Further tags of everything."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in keys(var.tags) : !startswith(key, "aws:")])
    error_message = "Tags that begin with aws: are AWS' own."
  }
}
