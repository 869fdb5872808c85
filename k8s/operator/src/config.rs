//! Flags and environment.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Reschedules pods that fail or that the model finds anomalous, within a budget, and starts retraining.
///
/// What it may do is said by RemediationPolicy resources: try `remediation-operator crd | kubectl apply -f -` and the example in
/// k8s/operator/policy.yaml, with `dryRun: true` first. docs/operator.md explains it.
#[derive(Debug, Parser)]
#[command(name = "remediation-operator", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry out policies, until SIGTERM.
    ///
    /// The API server is that of the pod's service account, else that of $KUBECONFIG or ~/.kube/config. It needs the rights in
    /// k8s/operator/rbac.yaml. Several replicas may run: one leads, the others wait.
    Run(Box<Run>),
    /// Print the custom resource definition, for `kubectl apply -f -`.
    Crd,
}

/// How to run.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Where to serve /metrics, /livez, /readyz and POST /alerts. Port 0 takes a free one, which the log names.
    #[arg(long, env = "REMEDIATION_OPS", default_value = "127.0.0.1:8084")]
    pub ops: SocketAddr,
    /// Carry out the policies of this namespace only, so that several operators can share a cluster [default: of all namespaces]
    #[arg(long, env = "REMEDIATION_NAMESPACE")]
    pub namespace: Option<String>,
    /// File with the token that Alertmanager sends (`authorization: {credentials_file: ..}` in its receiver's http_config).
    /// Without it, no alerts are taken.
    #[arg(long, env = "REMEDIATION_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// An alert that is not repeated for so long is over. Must be longer than the route's repeat_interval.
    #[arg(long, env = "REMEDIATION_ALERT_TTL", default_value = "15m", value_parser = humantime::parse_duration)]
    pub alert_ttl: Duration,
    /// Another server than AWS Step Functions, such as http://localhost:5000.
    #[arg(long, env = "REMEDIATION_SFN_ENDPOINT")]
    pub sfn_endpoint: Option<String>,
    /// Namespace of the Lease by which replicas elect their leader [default: that of the pod, else ml]
    #[arg(long, env = "REMEDIATION_LEASE_NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// How long a leader that does not answer is waited for, in whole seconds, at least 3s.
    #[arg(long, env = "REMEDIATION_LEASE_DURATION", default_value = "15s", value_parser = lease_duration)]
    pub lease_duration: Duration,
    /// What is logged: error, warn, info, debug, or by module.
    #[arg(long, env = "REMEDIATION_LOG", default_value = "info")]
    pub log: String,
    /// Name of the pod that it runs in, which it never touches (metadata.name by the downward API).
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
    /// Namespace of the pod that it runs in (metadata.namespace by the downward API).
    #[arg(long, env = "POD_NAMESPACE", hide = true)]
    pub pod_namespace: Option<String>,
}

impl Run {
    /// Namespace and name of its own pod.
    pub fn pod(&self) -> Option<(String, String)> {
        self.pod_namespace.clone().zip(self.pod_name.clone())
    }
}

fn lease_duration(text: &str) -> Result<Duration, String> {
    let read = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let whole = read.subsec_nanos() == 0 && read.as_secs() >= 3 && read.as_secs() <= 3600;
    if whole { Ok(read) } else { Err("write whole seconds, from 3s to 1h".into()) }
}
