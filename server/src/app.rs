//! The server as a whole: engine, listeners, and an orderly end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::{oneshot, watch};

use crate::config::Config;
use crate::engine::Engine;
use crate::http::serve::Limits;
use crate::http::tls::Tls;
use crate::http::{self, Doors, State};
use crate::model::providers::listed;
use crate::process;
use crate::shutdown::{Reason, Signals};

/// Models that load for longer than this are never reported as late.
const LONGEST_START: Duration = Duration::from_secs(24 * 3600);
/// Blocking threads of a runtime at least: admin calls, of which 4 at a time are made, may wait for S3.
const BLOCKING: usize = 8;
/// Connections of the operations port.
const OPS_CONNECTIONS: usize = 256;
/// Files that are open beside connections: models, libraries, what is read from the repository, peers.
const OTHER_FILES: usize = 64;
/// Connections of a data port at least, however few files may be open.
const LEAST_CONNECTIONS: usize = 16;

/// Serves until a signal asks to end, and returns when every accepted request is answered.
///
/// # Errors
/// One sentence: what could not be started, or that the grace period was too short.
pub fn run(config: Config) -> Result<(), String> {
    let tls = config.tls.as_ref().map(Tls::open).transpose()?;
    let data = runtime(config.engine.threads.http, "http")?;
    // Health and metrics have a thread of their own: they answer however busy the requests keep theirs.
    let ops = runtime(1, "ops")?;
    let http_listener = data.block_on(bind("http", config.http))?;
    let grpc_listener = config.grpc.map(|address| data.block_on(bind("grpc", address))).transpose()?;
    let ops_listener = config.ops.map(|address| ops.block_on(bind("ops", address))).transpose()?;
    let signals = ops.block_on(async { Signals::listen() }).map_err(|e| format!("cannot listen for signals: {e}"))?;
    let engine = Engine::open(config.engine.clone())?;
    announce(&config, &engine, &http_listener, grpc_listener.as_ref(), ops_listener.as_ref())?;

    let state = State::new(
        engine,
        Doors {
            default_model: config.default_model.clone(),
            admin_token: config.admin_token_file.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            body_limit: config.body_limit,
            bodies_limit: config.bodies_limit,
            vertex: config.vertex.clone(),
        },
    );
    let (stop, stopped) = watch::channel(false);
    let (stop_ops, ops_stopped) = watch::channel(false);
    if let Some(listener) = ops_listener {
        let door = http::operations(Arc::clone(&state));
        let limits = Limits { connections: OPS_CONNECTIONS, unread: config.engine.request_timeout };
        ops.spawn(http::serve::serve(listener, None, door, limits, ops_stopped));
    }
    if let Some(tls) = &tls {
        ops.spawn(Arc::clone(tls).watch());
    }
    let (done, served) = oneshot::channel();
    let limits = Limits { connections: connections(&config), unread: config.engine.request_timeout };
    let (door, shared) = (http::data(Arc::clone(&state)), Arc::clone(&state));
    let serving = move || {
        let grpc = async {
            if let Some(listener) = grpc_listener {
                let door = http::grpc::door(shared, stopped.clone());
                http::serve::serve(listener, tls.clone(), door, limits, stopped.clone()).await;
            }
        };
        let http = http::serve::serve(http_listener, tls.clone(), door, limits, stopped.clone());
        data.block_on(async { tokio::join!(http, grpc) });
        // Nobody waits any more when the grace period has ended.
        let _ = done.send(());
    };
    thread::Builder::new().name("http".into()).spawn(serving).map_err(|e| format!("cannot start a thread: {e}"))?;
    let first = Arc::clone(&state);
    ops.spawn_blocking(move || {
        if let Err(reason) = first.engine.wait(LONGEST_START) {
            tracing::error!(reason, "no model serves yet; a change of the repository is tried at once");
        }
    });
    let outcome = ops.block_on(end(signals, &config, &state, stop, served));
    let _ = stop_ops.send(true);
    // Threads that still work (a probe, say) are left behind: the process ends now.
    ops.shutdown_background();
    std::mem::forget(state);
    outcome
}

/// Connections of each data port: what is configured, unless the files that may be open would be used up by them. Then nobody
/// could ask how the server is.
fn connections(config: &Config) -> usize {
    let wanted = config.max_connections;
    let Some(files) = process::allow_open_files().and_then(|files| usize::try_from(files).ok()) else { return wanted };
    let ports = 1 + usize::from(config.grpc.is_some());
    let most = (files.saturating_sub(OPS_CONNECTIONS + OTHER_FILES) / ports).max(LEAST_CONNECTIONS);
    if most < wanted {
        tracing::warn!(
            files,
            connections = most,
            "fewer connections than --max-connections are served at a time: this process may not open more files (ulimit -Hn)"
        );
    }
    wanted.min(most)
}

/// A single thread needs none of the locks with which several share their tasks.
fn runtime(threads: usize, name: &'static str) -> Result<Runtime, String> {
    let mut builder =
        if threads == 1 { runtime::Builder::new_current_thread() } else { runtime::Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    // The blocking threads decode large bodies and make admin calls.
    builder
        .thread_name(name)
        .max_blocking_threads(threads.max(BLOCKING))
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start threads: {e}"))
}

async fn bind(name: &str, address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|e| format!("cannot listen on {address}: {e}: choose another address with --{name}"))
}

/// Tells where the server listens and what was chosen for it, and why.
fn announce(
    config: &Config,
    engine: &Engine,
    http: &TcpListener,
    grpc: Option<&TcpListener>,
    ops: Option<&TcpListener>,
) -> Result<(), String> {
    let address = |listener: &TcpListener| listener.local_addr().map(|a| a.to_string()).map_err(|e| e.to_string());
    let http = address(http)?;
    let grpc = grpc.map(address).transpose()?;
    let ops = ops.map(address).transpose()?;
    let threads = config.engine.threads;
    tracing::info!(
        http,
        grpc,
        ops,
        tls = config.tls.is_some(),
        repository = %config.engine.source.repository.display(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    tracing::info!(
        cpus = config.cpus,
        http_threads = threads.http,
        workers = threads.workers,
        onnxruntime = engine.runtime().version(),
        library = %engine.runtime().path().display(),
        providers = listed(&config.engine.providers),
        "cpus are what affinity and cgroup allow; each session runs on one thread without spinning"
    );
    if let Some(file) = &config.ports_file {
        let ports = serde_json::json!({ "http": http, "grpc": grpc, "ops": ops });
        let temporary = file.with_extension("tmp");
        std::fs::write(&temporary, format!("{ports}\n"))
            .and_then(|()| std::fs::rename(&temporary, file))
            .map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    }
    Ok(())
}

/// Waits for a signal, then: not ready, drain delay, no new connections, all requests answered, all jobs run.
async fn end(
    mut signals: Signals,
    config: &Config,
    state: &Arc<State>,
    stop: watch::Sender<bool>,
    served: oneshot::Receiver<()>,
) -> Result<(), String> {
    let reason = signals.next().await;
    state.drain();
    let delay = if reason == Reason::Terminate { config.drain_delay } else { Duration::ZERO };
    tracing::info!(?delay, grace_period = ?config.grace_period, "shutting down: not ready, then no new connections");
    let orderly = async {
        tokio::time::sleep(delay).await;
        // The receiver lives in the serving task.
        let _ = stop.send(true);
        // An error means that its thread panicked, which the panic itself reported.
        let _ = served.await;
        let closing = Arc::clone(state);
        let _ = tokio::task::spawn_blocking(move || closing.engine.close()).await;
    };
    tokio::select! {
        () = orderly => {
            tracing::info!("every accepted request was answered");
            Ok(())
        }
        () = tokio::time::sleep(config.grace_period) => Err("the grace period ended with requests unanswered".into()),
        _ = signals.next() => Err("a second signal ended the server with requests unanswered".into()),
    }
}
