variable "name" {
  description = "The beginning of the resources' names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,38}$", var.name))
    error_message = "A name begins with a letter and has 2 to 39 lower-case letters, digits and hyphens."
  }
}

variable "secret_name" {
  description = "Name of the secret with username, password and host."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9/_+=.@-]+$", var.secret_name))
    error_message = "A secret's name has letters, digits and / _ + = . @ -."
  }
}

variable "host" {
  description = "The database's name in the private zone. It is known before the database is, and stays when another one takes its place."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.host))
    error_message = "A name in the zone, such as mlflow-database.ml-anomaly.internal."
  }
}

variable "zone_id" {
  description = "The private zone."
  type        = string

  validation {
    condition     = length(var.zone_id) > 0
    error_message = "The zone's id is missing."
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
  description = "Private subnets, in two zones at least."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "RDS wants subnets in two zones at least."
  }
}

variable "client_security_group_id" {
  description = "Who may connect: the cluster's group."
  type        = string

  validation {
    condition     = startswith(var.client_security_group_id, "sg-")
    error_message = "A security group's id begins with sg-."
  }
}

variable "instance_class" {
  description = "The size. MLflow's database is small, and idle most of the time."
  type        = string

  validation {
    condition     = startswith(var.instance_class, "db.")
    error_message = "A class begins with db., such as db.t4g.small."
  }
}

variable "multi_az" {
  description = "A second instance in another zone, which takes over. Nothing that serves waits for MLflow."
  type        = bool
  nullable    = false
}

variable "deletion_protection" {
  description = "Whether AWS refuses to delete it."
  type        = bool
  nullable    = false
}

variable "password_version" {
  description = "Another number makes another password, in the secret and in the database."
  type        = number

  validation {
    condition     = var.password_version >= 1 && floor(var.password_version) == var.password_version
    error_message = "1, 2, 3 and so on."
  }
}
