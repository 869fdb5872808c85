//! Operations by HTTP: `/metrics`, `/livez`, `/readyz`, and Alertmanager's webhook `POST /alerts`.
//!
//! Only the leader takes alerts. A follower refuses them with 503 and closes the connection: Alertmanager tries again, through the
//! Service, until it meets the leader. Were they kept by whoever gets them, a resolved one could reach the wrong replica.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use crate::alerts::{Alerts, Webhook};
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::reconcile::World;

/// A message of Alertmanager with some thousand alerts.
const BODY: usize = 4 << 20;
const TOKEN: usize = 4096;
/// The longest that one look may take before the process counts as stuck.
const STUCK: Duration = Duration::from_secs(300);

/// What the routes tell of, and change.
pub struct Doors {
    /// What fires.
    pub alerts: Arc<Alerts>,
    /// The file with the token that `POST /alerts` takes. It is read at each call, so that it can be changed.
    pub token_file: Option<PathBuf>,
    /// Whether this replica acts.
    pub leadership: Leadership,
    /// What watches tell.
    pub world: Arc<World>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// When the last look ended.
    pub looked: watch::Receiver<Instant>,
    /// Told when alerts came.
    pub changed: Arc<Notify>,
}

/// The routes.
pub fn router(doors: Doors) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/alerts", post(alerts).layer(DefaultBodyLimit::max(BODY)))
        .with_state(Arc::new(doors))
}

async fn metrics(State(doors): State<Arc<Doors>>) -> Response {
    let page = doors.metrics.page(doors.leadership.holds(), doors.alerts.now().len());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn livez(State(doors): State<Arc<Doors>>) -> Response {
    let stuck = doors.looked.borrow().elapsed() >= STUCK;
    if stuck { (StatusCode::SERVICE_UNAVAILABLE, "stuck\n").into_response() } else { "ok\n".into_response() }
}

/// A follower is ready as well: it could lead.
async fn readyz(State(doors): State<Arc<Doors>>) -> Response {
    if doors.world.complete() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "pods, nodes and policies were not listed yet\n").into_response()
}

async fn alerts(State(doors): State<Arc<Doors>>, headers: HeaderMap, body: Bytes) -> Response {
    match take(&doors, &headers, &body).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err((status, why)) => {
            doors.metrics.alerts("refused", 1);
            tracing::warn!(status = status.as_u16(), why, "alerts are refused");
            (status, [(header::CONNECTION, "close")], format!("{why}\n")).into_response()
        }
    }
}

async fn take(doors: &Doors, headers: &HeaderMap, body: &[u8]) -> Result<(), (StatusCode, String)> {
    admit(doors, headers).await.map_err(|(status, why)| (status, why.to_owned()))?;
    if !doors.leadership.holds() {
        return Err((
            StatusCode::SERVICE_UNAVAILABLE,
            "this replica does not lead: try again, another one does".into(),
        ));
    }
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let webhook: Webhook =
        serde_json::from_slice(body).map_err(|e| bad(format!("not a webhook message of Alertmanager: {e}")))?;
    if webhook.version != "4" {
        return Err(bad(format!("the message has version {:?}, 4 is known", webhook.version)));
    }
    let taken = doors.alerts.take(webhook);
    doors.metrics.alerts("accepted", taken.accepted);
    doors.metrics.alerts("unknown", taken.unknown);
    doors.metrics.alerts("refused", taken.refused);
    if taken.refused > 0 {
        tracing::warn!(alerts = taken.refused, most = crate::alerts::MOST, "alerts are refused, too many fire");
    }
    doors.changed.notify_one();
    Ok(())
}

async fn admit(doors: &Doors, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    let Some(file) = &doors.token_file else {
        return Err((StatusCode::FORBIDDEN, "alerts are off: run with --token-file to take them"));
    };
    let expected = match tokio::fs::read(file).await {
        Ok(text) if text.len() <= TOKEN && !text.trim_ascii().is_empty() => text,
        Ok(_) => return Err((StatusCode::FORBIDDEN, "the file of --token-file is empty or too long to be a token")),
        Err(error) => {
            tracing::error!(%error, file = %file.display(), "the token cannot be read");
            return Err((StatusCode::FORBIDDEN, "the file of --token-file cannot be read, see the log"));
        }
    };
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()).unwrap_or_default();
    let token = given.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "));
    // Hashes are compared, so that the time tells nothing of the token.
    if token.is_some_and(|(_, token)| Sha256::digest(token.trim_ascii()) == Sha256::digest(expected.trim_ascii())) {
        return Ok(());
    }
    let why = "this call needs the header Authorization: Bearer TOKEN, with the text of the file that the operator's --token-file names";
    Err((StatusCode::UNAUTHORIZED, why))
}
