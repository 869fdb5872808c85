//! Puts the parts together, and ends them in order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::alerts::Alerts;
use crate::config::Run;
use crate::facts::{Node, Pod};
use crate::lease::{Election, Leadership, Settings};
use crate::metrics::Metrics;
use crate::ops::{self, Doors};
use crate::reconcile::{Operator, World};
use crate::report::Report;
use crate::retrain::Retrain;
use crate::watch as watches;

const LEASE: &str = "remediation-operator";
const CONNECT: Duration = Duration::from_secs(5);
/// A look begins at the latest so long after the last one: cool-downs and patience end without any news.
const IDLE: Duration = Duration::from_secs(5);
/// And at the earliest, however much changes.
const BREATH: Duration = Duration::from_millis(500);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When the API server is not configured, or the port is taken. That the server does not answer is no error: it is asked again.
pub async fn run(config: Run) -> anyhow::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut api = Config::infer().await.context("no API server: run in a pod, or set KUBECONFIG")?;
    api.connect_timeout = Some(CONNECT);
    // The 429 of a PodDisruptionBudget is an answer; and the next look is the next try.
    api.default_retry = false;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), server = %api.cluster_url, "starts");
    let client = Client::try_from(api).context("the API server's configuration cannot be used")?;
    let listener =
        TcpListener::bind(config.ops).await.with_context(|| format!("--ops {} cannot be used", config.ops))?;
    tracing::info!(address = %listener.local_addr()?, "operations");
    if config.token_file.is_none() {
        tracing::warn!("no alerts are taken: run with --token-file to act upon anomalies");
    }

    let lease = lease_settings(&config);
    let (patience, identity) = (lease.patience(), lease.identity.clone());
    let (leadership, changed, stop) = (Leadership::default(), Arc::new(Notify::new()), CancellationToken::new());
    let (metrics, alerts) = (Arc::new(Metrics::default()), Arc::new(Alerts::new(config.alert_ttl)));
    let world = Arc::new(World::default());
    let mut watching = tokio::task::JoinSet::new();
    let read_pod = |pod, known: Option<&Pod>| {
        let mut pod = Pod::read(&pod)?;
        if let Some(known) = known {
            pod.remember(known);
        }
        Some(pod)
    };
    let (pods, policies) = (scoped(&client, &config), scoped(&client, &config));
    watching.spawn(watches::keep(pods, Arc::clone(&world.pods), Arc::clone(&changed), read_pod));
    watching
        .spawn(watches::keep(policies, Arc::clone(&world.policies), Arc::clone(&changed), |policy, _| Some(policy)));
    let nodes = Api::all(client.clone());
    watching.spawn(watches::keep(nodes, Arc::clone(&world.nodes), Arc::clone(&changed), |node, _| Node::read(&node)));

    let (looked_tx, looked) = watch::channel(Instant::now());
    let doors = Doors {
        alerts: Arc::clone(&alerts),
        token_file: config.token_file.clone(),
        leadership: leadership.clone(),
        world: Arc::clone(&world),
        metrics: Arc::clone(&metrics),
        looked,
        changed: Arc::clone(&changed),
    };
    let serving = tokio::spawn(axum::serve(listener, ops::router(doors)).into_future());

    let leases: Api<Lease> = Api::namespaced(client.clone(), &lease_namespace(&config));
    let mut election = Election::new(leases, lease, leadership.clone());
    let (ending, news) = (stop.clone(), Arc::clone(&changed));
    let electing = tokio::spawn(async move {
        tokio::select! {
            () = election.run(&news) => {}
            () = ending.cancelled() => {}
        }
        election
    });

    let mut operator = Operator {
        report: Report::new(client.clone(), identity, Arc::clone(&metrics), patience),
        client,
        world,
        alerts,
        leadership,
        stop: stop.clone(),
        metrics,
        retrain: Retrain::new(config.sfn_endpoint.clone()),
        pod: config.pod(),
        patience,
    };
    let looking = tokio::spawn(async move {
        while !operator.stop.is_cancelled() {
            operator.look().await;
            looked_tx.send_replace(Instant::now());
            tokio::select! {
                () = operator.stop.cancelled() => {}
                () = tokio::time::sleep(BREATH) => {
                    let _ = tokio::time::timeout(IDLE, changed.notified()).await;
                }
            }
        }
    });

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ends"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ends"),
    }
    stop.cancel();
    // The action that is under way is finished, and told, before another replica may lead.
    looking.await.context("the looks at policies have ended early")?;
    electing.await.context("the election has ended early")?.release().await;
    serving.abort();
    watching.shutdown().await;
    Ok(())
}

fn scoped<K>(client: &Client, config: &Run) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType: Default>,
{
    match &config.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn lease_namespace(config: &Run) -> String {
    config.lease_namespace.clone().or_else(|| config.pod_namespace.clone()).unwrap_or_else(|| "ml".into())
}

/// A pod's name is its own. Elsewhere, two processes must not take each other for themselves.
fn lease_settings(config: &Run) -> Settings {
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let identity = config.pod_name.clone().unwrap_or_else(|| format!("{}-{}", host(), std::process::id()));
    Settings { name: LEASE.into(), identity, duration: config.lease_duration }
}
