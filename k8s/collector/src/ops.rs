//! The operations port: `/metrics`, `/livez`, `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

use crate::shown::Shown;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until it is dropped. The address is told to the log once it listens.
///
/// # Errors
/// When the address cannot be had.
pub(crate) async fn serve(address: SocketAddr, shown: Arc<Shown>, counted: PrometheusHandle) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("ops {address}: {e}: choose another with --ops");
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    tracing::info!(ops = %bound, "serving metrics and health");
    let ready = Arc::clone(&shown);
    let page = move || async move { page(&shown, &counted) };
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(|| async move { readiness(&ready) }));
    axum::serve(listener, router).await.map_err(failed)
}

fn page(shown: &Shown, counted: &PrometheusHandle) -> Response {
    let page = shown.render() + &counted.render();
    ([(header::CONTENT_TYPE, TEXT)], page).into_response()
}

fn readiness(shown: &Shown) -> Response {
    match shown.is_ready() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}
