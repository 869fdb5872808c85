//! The `remediation-operator` program: arguments, log, exit code.

use std::io::Write;

use anyhow::Context;
use clap::Parser;
use kube::CustomResourceExt;
use remediation_operator::config::{Cli, Command};
use remediation_operator::{app, policy};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Run(config) => {
            let filter = EnvFilter::try_new(&config.log).with_context(|| format!("--log {:?}", config.log))?;
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_target(false)
                .with_writer(std::io::stderr)
                .json()
                .flatten_event(true)
                .init();
            // One that is linked in, so that TLS never has to choose.
            rustls::crypto::ring::default_provider()
                .install_default()
                .ok()
                .context("a TLS provider was chosen already")?;
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let outcome = runtime.block_on(app::run(*config));
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            outcome
        }
        Command::Crd => {
            let text = serde_saphyr::to_string(&policy::RemediationPolicy::crd())?;
            Ok(std::io::stdout().write_all(text.as_bytes())?)
        }
    }
}
