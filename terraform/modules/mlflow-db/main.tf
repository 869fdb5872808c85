# MLflow's database. Its password is made during the apply, written to the secret, and read from there for the database:
# neither plan nor state holds it, and an apply that breaks between the two goes on with the same one.

ephemeral "random_password" "this" {
  length  = 40
  special = false
}

resource "aws_secretsmanager_secret" "this" {
  # checkov:skip=CKV_AWS_149:Secrets Manager's own key; who may read is the policies' matter
  # checkov:skip=CKV2_AWS_57:changed by password_version, since MLflow has to start anew to take it
  name        = var.secret_name
  description = "MLflow's database: username, password, host"

  # A name is free again after that long.
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret_version" "this" {
  secret_id = aws_secretsmanager_secret.this.id
  secret_string_wo = jsonencode({
    username = "mlflow"
    password = ephemeral.random_password.this.result
    host     = var.host
  })
  secret_string_wo_version = var.password_version
}

# What time it is is not known before the apply. So a plan does not open the secret, and who only plans need not be able to read it.
ephemeral "aws_secretsmanager_secret_version" "this" {
  secret_id = timestamp() == "" ? "" : aws_secretsmanager_secret_version.this.secret_id
}

resource "aws_security_group" "this" {
  name        = "${var.name}-mlflow-database"
  description = "MLflow's database"
  vpc_id      = var.vpc_id
  tags        = { Name = "${var.name}-mlflow-database" }
}

resource "aws_vpc_security_group_ingress_rule" "this" {
  description                  = "PostgreSQL from pods"
  security_group_id            = aws_security_group.this.id
  referenced_security_group_id = var.client_security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 5432
  to_port                      = 5432
}

resource "aws_db_subnet_group" "this" {
  name       = "${var.name}-mlflow"
  subnet_ids = var.subnet_ids
}

resource "aws_db_parameter_group" "this" {
  name   = "${var.name}-mlflow"
  family = "postgres17"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  # Statements that take a second or more: enough to see what is slow, too few to fill the log.
  parameter {
    name  = "log_min_duration_statement"
    value = "1000"
  }

  parameter {
    name  = "log_statement"
    value = "ddl"
  }
}

resource "aws_db_instance" "this" {
  # checkov:skip=CKV_AWS_157:multi_az is a variable: nothing that serves waits for MLflow
  # checkov:skip=CKV_AWS_293:deletion_protection is a variable, on by default; teardown turns it off
  # checkov:skip=CKV_AWS_161:MLflow knows passwords only
  # checkov:skip=CKV_AWS_118:the metrics of a minute are enough for a database nobody waits for
  # checkov:skip=CKV_AWS_353:the same
  identifier     = "${var.name}-mlflow"
  engine         = "postgres"
  engine_version = "17"
  instance_class = var.instance_class
  db_name        = "mlflow"
  username       = "mlflow"

  password_wo         = jsondecode(ephemeral.aws_secretsmanager_secret_version.this.secret_string)["password"]
  password_wo_version = var.password_version

  storage_type          = "gp3"
  allocated_storage     = 20
  max_allocated_storage = 100
  storage_encrypted     = true

  multi_az               = var.multi_az
  db_subnet_group_name   = aws_db_subnet_group.this.name
  vpc_security_group_ids = [aws_security_group.this.id]
  parameter_group_name   = aws_db_parameter_group.this.name
  publicly_accessible    = false

  auto_minor_version_upgrade      = true
  enabled_cloudwatch_logs_exports = ["postgresql", "upgrade"]
  backup_retention_period         = 14
  backup_window                   = "02:00-03:00"
  maintenance_window              = "sun:03:30-sun:04:30"
  copy_tags_to_snapshot           = true
  deletion_protection             = var.deletion_protection
  skip_final_snapshot             = false
  final_snapshot_identifier       = "${var.name}-mlflow-final"
}

resource "aws_route53_record" "this" {
  zone_id = var.zone_id
  name    = var.host
  type    = "CNAME"
  ttl     = 60
  records = [aws_db_instance.this.address]
}
