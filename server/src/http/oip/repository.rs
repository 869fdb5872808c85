//! The model repository as Triton's clients see it: which versions there are and what they do, and loading and unloading.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::State;
use super::super::admin::{PATIENCE, RELOADS, admit, permit};
use super::super::body;
use super::super::error::Problem;
use super::super::token::Action;
use crate::serving::ServingSet;
use crate::swap::{Rejected, Report};

/// A version of a model.
#[derive(Serialize)]
pub(in crate::http) struct Entry {
    pub(in crate::http) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::http) version: Option<String>,
    pub(in crate::http) state: &'static str,
    pub(in crate::http) reason: String,
}

const READY: &str = "READY";
const UNAVAILABLE: &str = "UNAVAILABLE";
const LOADING: &str = "LOADING";

#[derive(Default, Deserialize)]
struct Wish {
    /// Whether only what answers is wanted.
    ready: Option<bool>,
}

/// `POST /v2/repository/index`.
pub(super) fn index(state: &State, body: &[u8]) -> Result<Vec<Entry>, Problem> {
    let wish: Wish = parse(body)?.map(serde_json::from_value).transpose().map_err(unreadable)?.unwrap_or_default();
    Ok(entries(state, wish.ready == Some(true)))
}

/// All versions that are known, or those that answer.
pub(in crate::http) fn entries(state: &State, ready: bool) -> Vec<Entry> {
    let (lanes, mut reports) = (state.engine.lanes(), state.engine.reports());
    let mut names: Vec<String> = lanes.keys().chain(reports.keys()).cloned().collect();
    names.sort_unstable();
    names.dedup();
    let mut entries = vec![];
    for name in names {
        let set = lanes.get(&name).and_then(|lane| lane.serving.get());
        let report = reports.remove(&name).unwrap_or_default();
        versions(&mut entries, &name, set.as_deref(), report);
    }
    if ready {
        entries.retain(|entry| entry.state == READY);
    }
    entries
}

fn versions(entries: &mut Vec<Entry>, name: &str, set: Option<&ServingSet>, report: Report) {
    let first = entries.len();
    let mut add = |version: Option<&str>, state: &'static str, reason: String| {
        // What a version is told as first counts: a champion that was the one before is the champion.
        if !entries[first..].iter().any(|entry| entry.version.as_deref() == version) {
            entries.push(Entry { name: name.into(), version: version.map(str::to_owned), state, reason });
        }
    };
    if let Some(set) = set {
        add(Some(&set.champion.id.version), READY, String::new());
        for challenger in &set.challengers {
            let reason = "a challenger: it scores the champion's rows in the shadow and answers nobody";
            add(Some(&challenger.model().id.version), UNAVAILABLE, reason.into());
        }
        if let Some(previous) = &set.previous {
            let reason = "the champion before: it is kept in memory for a rollback";
            add(Some(&previous.id.version), UNAVAILABLE, reason.into());
        }
    }
    for Rejected { version, stage, reason, .. } in &report.rejected {
        add(Some(version), UNAVAILABLE, format!("{}: {reason}", stage.name()));
    }
    let wanted = report.wanted.as_ref().map(|wanted| wanted.champion.version.as_str());
    match (report.error, wanted) {
        (Some(error), wanted) => add(wanted, UNAVAILABLE, error),
        (None, Some(wanted)) => add(Some(wanted), LOADING, "it is being fetched".into()),
        (None, None) => {}
    }
}

/// `POST /v2/repository/models/{model}/load`: reads the repository now and serves what it asks for.
pub(super) async fn load(
    state: &Arc<State>,
    model: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    admit(state, headers, Action::Load, model)?;
    let order = body::order(state, headers, body).await?;
    load_model(state, model, parameters(&order.bytes)?.keys()).await?;
    Ok(axum::Json(json!({"name": model, "load": true})).into_response())
}

/// The same for whoever was let in.
pub(in crate::http) async fn load_model(
    state: &Arc<State>,
    model: &str,
    parameters: impl Iterator<Item = &String>,
) -> Result<(), Problem> {
    for name in parameters {
        if name == "config" || name.starts_with("file:") {
            let detail = format!(
                "parameters.{name}: models and their configuration come from the repository alone: put the version there \
                 (onnxd push), then load"
            );
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    }
    wait(state, model, |state, model| state.engine.load(model, PATIENCE)).await?;
    let report = state.engine.reports().remove(model);
    let serves = state.engine.lane(model).and_then(|lane| lane.serving.get());
    let refused = report.as_ref().and_then(|report| {
        let champion = report.rejected.iter().find(|rejected| rejected.role == "champion");
        let told = champion.map(|r| format!("version {}: {}: {}", r.version, r.stage.name(), r.reason));
        told.or_else(|| report.error.clone())
    });
    let goes_on = serves.as_ref().map(|set| format!("; version {} goes on", set.champion.id.version));
    match (refused, serves, report) {
        (Some(reason), ..) => {
            let detail = format!("failed to load {model:?}: {reason}{}", goes_on.unwrap_or_default());
            Err(Problem::new(StatusCode::BAD_REQUEST, detail))
        }
        (None, Some(_), _) => Ok(()),
        (None, None, Some(_)) => {
            let detail = format!("{model:?} is being fetched: POST /v2/repository/index says when it is ready");
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
        }
        (None, None, None) => Err(unknown(model)),
    }
}

/// `POST /v2/repository/models/{model}/unload`: serves a model no more, until it is loaded or the server starts anew.
pub(super) async fn unload(
    state: &Arc<State>,
    model: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    admit(state, headers, Action::Unload, model)?;
    let order = body::order(state, headers, body).await?;
    // `unload_dependents` is for ensembles, which there are none of.
    parameters(&order.bytes)?;
    unload_model(state, model).await?;
    Ok(axum::Json(json!({"name": model, "unload": true})).into_response())
}

/// The same for whoever was let in.
pub(in crate::http) async fn unload_model(state: &Arc<State>, model: &str) -> Result<(), Problem> {
    if state.engine.lane(model).is_none() && !state.engine.reports().contains_key(model) {
        return Err(unknown(model));
    }
    wait(state, model, |state, model| state.engine.unload(model, PATIENCE)).await
}

/// Waits where it keeps no requests waiting.
async fn wait(state: &Arc<State>, model: &str, call: fn(&State, &str) -> bool) -> Result<(), Problem> {
    let (shared, name, permit) = (Arc::clone(state), model.to_owned(), permit(&RELOADS)?);
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        call(&shared, &name)
    });
    if done.await.map_err(|_| Problem::internal())? {
        return Ok(());
    }
    let detail = format!("it was not done within {} s, and is done when the repository was read", PATIENCE.as_secs());
    Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, detail))
}

fn unknown(model: &str) -> Problem {
    let shown: String = model.chars().take(128).collect();
    Problem::new(StatusCode::NOT_FOUND, format!("the repository has no model {shown:?}"))
}

/// The body's `parameters`.
fn parameters(body: &[u8]) -> Result<serde_json::Map<String, Value>, Problem> {
    #[derive(Default, Deserialize)]
    struct Order {
        parameters: Option<serde_json::Map<String, Value>>,
    }
    let order: Order = parse(body)?.map(serde_json::from_value).transpose().map_err(unreadable)?.unwrap_or_default();
    Ok(order.parameters.unwrap_or_default())
}

/// A body that may be left out.
fn parse(body: &[u8]) -> Result<Option<Value>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(body).map(Some).map_err(unreadable)
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn unreadable(error: serde_json::Error) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
}
