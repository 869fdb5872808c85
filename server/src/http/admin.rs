//! Calls that change something, on the operations port, for whoever has the token.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::{self, Received};
use super::error::Problem;
use super::token::{self, Action};
use super::{State, ops};
use crate::promotion::{self, Author, Change, ChangeError, Changed};
use crate::source::is_model_name;

/// How long a call waits for the repository to be read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// Changes and reloads at a time. Each blocks a thread of the operations port for as long as an S3 server hangs; the others
/// are left for whoever asks how the server is.
static CHANGES: Semaphore = Semaphore::const_new(4);
pub(super) static RELOADS: Semaphore = Semaphore::const_new(2);

/// The body of a call; all of it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Order {
    version: Option<Version>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    by: String,
    /// The change is made only if this is still the epoch.
    epoch: Option<u64>,
}

/// A version as text, as `aliases.json` has it, or as a number, as people write it.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "version must be a positive whole number, with or without quotes")]
enum Version {
    Text(String),
    Number(u64),
}

/// Reads the repository now, and answers with what became of the model.
pub(super) async fn reload(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    admit(&state, &headers, Action::Reload, &model)?;
    look(&state, &model).await
}

/// Makes the challenger, or `version`, the champion.
pub(super) async fn promote(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(state, model, &headers, body, Action::Promote, Change::Promote).await
}

/// Makes the champion before, or `version`, the champion again.
pub(super) async fn roll_back(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    change(state, model, &headers, body, Action::RollBack, Change::RollBack).await
}

async fn change(
    state: Arc<State>,
    model: String,
    headers: &HeaderMap,
    body: Body,
    action: Action,
    change: impl FnOnce(Option<String>) -> Change,
) -> Result<Response, Problem> {
    let token = admit(&state, headers, action, &model)?;
    let Received { bytes, _room } = body::order(&state, headers, body).await?;
    let order: Order = if bytes.is_empty() {
        Order::default()
    } else {
        serde_json::from_slice(&bytes).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, e.to_string()))?
    };
    if !is_model_name(&model) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "that is not a model's name".into()));
    }
    let call = format!("token {token} at {}", promotion::host());
    let by = if order.by.is_empty() { call } else { format!("{}, {call}", order.by) };
    let author = Author { by, reason: order.reason, evidence: Value::Null };
    let version = order.version.map(|version| match version {
        Version::Text(text) => text,
        Version::Number(number) => number.to_string(),
    });
    let wanted = change(version);
    let permit = permit(&CHANGES)?;
    let (shared, name) = (Arc::clone(&state), model.clone());
    // It waits for an S3 server, perhaps.
    let result = tokio::task::spawn_blocking(move || {
        // It goes on when whoever called does not wait any more.
        let _permit = permit;
        promotion::change(shared.engine.source(), &name, &wanted, &author, order.epoch, false)
    });
    let result: Result<Changed, ChangeError> = result.await.map_err(|_| Problem::internal())?;
    let outcome = match &result {
        Ok(changed) => changed.changed.then_some(if action == Action::Promote { "promoted" } else { "rolled_back" }),
        Err(ChangeError::Lost(_)) => Some("lost"),
        Err(ChangeError::Refused(_) | ChangeError::Failed(_)) => Some("failed"),
    };
    // Names come from a closed set: those that the repository has.
    if let Some(outcome) = outcome.filter(|_| result.is_ok() || state.engine.lane(&model).is_some()) {
        state.engine.metrics().promotion(&model, outcome);
    }
    let changed = result.inspect_err(|error| {
        tracing::warn!(model, token, action = action.name(), %error, "an admin call changed nothing");
    })?;
    if let Some(warning) = &changed.warning {
        tracing::warn!(model, warning, "a promotion is incomplete");
    }
    if let Some(record) = changed.record.as_ref().filter(|_| changed.changed) {
        tracing::info!(
            model,
            action = record.action,
            champion = record.champion,
            by = record.by,
            token,
            "aliases.json was changed by an admin call"
        );
    }
    state.engine.look();
    Ok(Json(changed).into_response())
}

pub(super) fn permit(room: &'static Semaphore) -> Result<SemaphorePermit<'static>, Problem> {
    room.try_acquire().map_err(|_| {
        let detail = "too many admin calls wait for the repository already: try again when it answers";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into())
    })
}

pub(super) async fn look(state: &Arc<State>, model: &str) -> Result<Response, Problem> {
    let (shared, name) = (Arc::clone(state), model.to_owned());
    let permit = permit(&RELOADS)?;
    let looked = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        shared.engine.look_and_wait(&name, PATIENCE)
    });
    let looked = looked.await;
    if !looked.map_err(|_| Problem::internal())? {
        let seconds = PATIENCE.as_secs();
        let detail = format!(
            "the repository was not read, or a model not tried out, within {seconds} s; it goes on: GET /status on the \
             operations port tells how it ends"
        );
        return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail));
    }
    if let Some(error) = state.engine.reading().error {
        return Err(Problem::new(StatusCode::BAD_GATEWAY, format!("the repository cannot be read: {error}")));
    }
    if state.engine.lane(model).is_none() && !state.engine.reports().contains_key(model) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the repository has no such model".into()));
    }
    Ok(Json(ops::model_status(state, model)).into_response())
}

/// Lets in whoever has a token for it, and gives its name.
pub(super) fn admit(state: &State, headers: &HeaderMap, action: Action, model: &str) -> Result<String, Problem> {
    token::admit(state.admin_token.as_deref(), headers, action, model)
}
