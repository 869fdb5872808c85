//! The two commands from settings to end: the parts are put together here, and stopped here.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use crate::endpoint::Endpoint;
use crate::live::Live;
use crate::metrics;
use crate::ops;
use crate::prometheus::Prometheus;
use crate::recording::Recording;
use crate::replay::{self, Summary};
use crate::rows::Rows;
use crate::settings::{Common, Ops, Replay, Run, size};
use crate::shown::Shown;
use crate::sources::Sources;

/// Time for rows to be written, and for labels to be sent, when all ends.
const END: Duration = Duration::from_secs(10);

/// Ticks until a signal comes.
///
/// # Errors
/// When a setting cannot be used, or the operations port is lost.
pub async fn run(settings: &Run, sources: Sources) -> Result<(), String> {
    let common = &settings.common;
    let step = common.step_seconds();
    let (shown, rows) = (Arc::new(Shown::new(common.step)), common.rows()?);
    let collector = common.collector(rows.clone(), Arc::clone(&shown))?;
    let endpoint = Endpoint::new(settings.prometheus.clone(), settings.prometheus_token_file.clone(), common.timeout)?;
    let name = endpoint.name();
    let prometheus = Prometheus::new(endpoint, sources, step, size(common.max_series));
    let mut live = Live::new(prometheus, collector, Arc::clone(&shown), step, settings.delay);
    tracing::info!(prometheus = name, server = %common.server, model = common.model, step, "begins");
    let ticks = async {
        live.run().await;
        Ok(())
    };
    let result = beside(common, shown, rows.as_ref(), ticks).await;
    finish(rows.as_deref()).await;
    result
}

/// Sends a file through. Gives the summary in words, and why the replay failed, if it did.
///
/// # Errors
/// When the file or a setting cannot be used.
pub async fn replay(settings: &Replay) -> Result<(String, Result<(), String>), String> {
    let common = &settings.common;
    let (shown, rows) = (Arc::new(Shown::new(common.step)), common.rows()?);
    let mut recording = Recording::open(&settings.file)?;
    let mut collector = common.collector(rows.clone(), Arc::clone(&shown))?;
    let mut summary = Summary::default();
    let ticks = replay::run(&mut recording, &mut collector, &shown, settings.speed, &mut summary);
    let result = beside(common, Arc::clone(&shown), rows.as_ref(), ticks).await;
    let _ = tokio::time::timeout(END, collector.finish()).await;
    finish(rows.as_deref()).await;
    let result = result.and_then(|()| summary.failure().map_or(Ok(()), Err));
    Ok((summary.text(), result))
}

/// Runs ticks, with the operations port and the rows' writer beside them, until they end or a signal comes.
async fn beside(
    common: &Common,
    shown: Arc<Shown>,
    rows: Option<&Arc<Rows>>,
    ticks: impl Future<Output = Result<(), String>>,
) -> Result<(), String> {
    let at = common.ops;
    let counted = metrics::start().map_err(|e| e.to_string())?;
    let failed = |e: std::io::Error| format!("signals cannot be heard: {e}");
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    if let Some(rows) = rows.cloned() {
        tokio::spawn(async move { rows.write().await });
    }
    // A task of its own: it answers while a tick computes.
    let ops = tokio::spawn(async move {
        match at {
            Ops::At(address) => ops::serve(address, shown, counted).await,
            Ops::Off => std::future::pending().await,
        }
    });
    let ended = tokio::select! {
        ended = ops => return ended.map_err(|e| e.to_string())?,
        ended = ticks => return ended,
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = ended, "ends");
    Ok(())
}

async fn finish(rows: Option<&Rows>) {
    if let Some(rows) = rows {
        rows.finish(END).await;
    }
}
