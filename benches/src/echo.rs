//! The floor: axum reading the same JSON and writing the same answer, with no model between.
//!
//! No server on this stack can be faster than it; how near one comes is the figure that outlives a machine's mood.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::{
    Json, Router,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// What the anomaly model takes, without the optional baselines.
#[derive(Deserialize)]
#[expect(dead_code, reason = "parsing them is what is measured")]
struct Features {
    cpu_zscore: f64,
    memory_zscore: f64,
    disk_io_zscore: Option<f64>,
}

#[derive(Serialize)]
struct Prediction {
    anomaly: bool,
    score: f64,
    forecast: f64,
}

/// Serves on `address` with that many async threads, until the process ends. `ready` is told the bound address.
pub(crate) fn serve(address: SocketAddr, threads: usize, ready: impl FnOnce(SocketAddr) -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        ready(listener.local_addr()?)?;
        let router = Router::new().route("/predict", post(predict)).route("/readyz", get(|| async {}));
        axum::serve(listener, router).await?;
        Ok(())
    })
}

/// An echo in a thread of this process, for tests.
#[cfg(test)]
pub(crate) fn in_thread() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || serve(([127, 0, 0, 1], 0).into(), 1, |address| Ok(tell.send(address)?)));
    told.recv().expect("the echo listens")
}

async fn predict(Json(_): Json<Features>) -> Json<Prediction> {
    Json(Prediction { anomaly: false, score: 0.04, forecast: 6.4 })
}
