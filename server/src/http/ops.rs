//! Health, metrics, status and the shadow's state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::State;
use super::error::Problem;
use crate::batch::Lane;
use crate::engine::Engine;
use crate::guard::GuardStatus;
use crate::metrics::{Loaded, Page};
use crate::model::Model;
use crate::model::check::Profile;
use crate::model::providers::Shown;
use crate::serving::ServingSet;
use crate::shadow::{self, ROLES};
use crate::source::Download;
use crate::swap::{Report, unix};

/// The process runs.
pub(super) async fn live() -> &'static str {
    "live\n"
}

/// The server takes traffic; for whoever sends requests.
pub(super) async fn ready(Shared(state): Shared<Arc<State>>) -> Response {
    tell_readiness(&state, false)
}

/// The server takes traffic; for whoever runs it.
pub(super) async fn ready_in_detail(Shared(state): Shared<Arc<State>>) -> Response {
    tell_readiness(&state, true)
}

fn tell_readiness(state: &State, in_detail: bool) -> Response {
    match state.readiness() {
        Ok(()) => ready_text(state, in_detail).into_response(),
        Err(reason) => {
            let why = if in_detail { why_not(&state.engine, reason) } else { reason.to_owned() };
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
        }
    }
}

/// A server that cannot read its repository stays ready, and says how old what it serves may be.
fn ready_text(state: &State, in_detail: bool) -> String {
    let reading = state.engine.reading();
    let Some(error) = reading.error else { return "ready\n".into() };
    let age = reading.read_at.and_then(|at| at.elapsed().ok());
    let age = age.map_or_else(|| "never".into(), |age| format!("{} s ago", age.as_secs()));
    let what = if reading.from_cache { "what serves is from the cache" } else { "what serves goes on" };
    let reason = if in_detail { format!(" ({error})") } else { String::new() };
    format!("ready, but the repository cannot be read{reason}; it was last read {age}; {what}\n")
}

/// Every model was tried once; from then on readiness tells the rest.
pub(super) async fn started(Shared(state): Shared<Arc<State>>) -> Response {
    if state.engine.has_looked() {
        "started\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response()
    }
}

fn roles(set: &ServingSet) -> impl Iterator<Item = (&'static str, &Model)> {
    let challengers = set.challengers.iter().zip(ROLES).map(|(challenger, role)| (role, &**challenger.model()));
    let previous = set.previous.iter().map(|model| ("previous", &**model));
    [("champion", &*set.champion)].into_iter().chain(challengers).chain(previous)
}

pub(super) async fn metrics(Shared(state): Shared<Arc<State>>) -> Response {
    let lanes = state.engine.lanes();
    let sets: Vec<_> = lanes.values().filter_map(|lane| Some((lane.name.as_str(), lane.serving.get()?))).collect();
    let loaded = sets.iter().flat_map(|(model, set)| {
        roles(set).map(move |(role, m)| Loaded {
            model,
            role,
            version: &m.id.version,
            sha256: &m.id.sha256,
            loaded_at: unix(m.loaded_at),
        })
    });
    let (onnxruntime, judgements) = (state.engine.runtime().version(), state.engine.judgements());
    let page = Page {
        ready: state.readiness().is_ok(),
        onnxruntime: &onnxruntime,
        loaded: loaded.collect(),
        source: (state.engine.source().kind(), state.engine.reading().read_at.map(unix)),
        queues: lanes.values().map(|lane| (lane.name.as_str(), lane.queued_rows())).collect(),
        passed: state.engine.passed(),
        judgements: &judgements,
    };
    let text = state.engine.metrics().render() + &page.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[derive(Serialize)]
struct Status {
    version: &'static str,
    onnxruntime: String,
    providers: Shown,
    ready: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<String>,
    source: SourceStatus,
    downloads: Vec<Download>,
    models: Vec<ModelStatus>,
}

/// Where models come from and how reading it goes.
#[derive(Serialize)]
struct SourceStatus {
    kind: &'static str,
    repository: String,
    /// Why it cannot be read at present.
    error: Option<String>,
    /// When it was last read without an error (Unix time), by this server or by one before it with the same cache.
    read_at: Option<f64>,
    /// Whether what serves was taken from the cache, without asking the repository.
    from_cache: bool,
    /// Whether the system tells of changes.
    watching: bool,
}

impl SourceStatus {
    fn of(engine: &Engine) -> Self {
        let reading = engine.reading();
        Self {
            kind: engine.source().kind(),
            repository: engine.options().source.repository.display().to_string(),
            error: reading.error,
            read_at: reading.read_at.map(unix),
            from_cache: reading.from_cache,
            watching: engine.is_watching(),
        }
    }
}

#[derive(Serialize)]
struct ModelStatus {
    name: String,
    epoch: u64,
    champion: Option<Member>,
    challengers: Vec<Member>,
    previous: Option<Member>,
    guard: Option<GuardStatus>,
    queued_rows: usize,
    #[serde(flatten)]
    report: Report,
}

impl ModelStatus {
    fn of(name: String, lanes: &BTreeMap<String, Arc<Lane>>, report: Report) -> Self {
        let lane = lanes.get(&name);
        let set = lane.and_then(|lane| lane.serving.get());
        let set = set.as_deref();
        Self {
            epoch: set.map_or(0, |s| s.epoch),
            champion: set.map(|s| Member::of(&s.champion)),
            challengers: set.iter().flat_map(|s| &s.challengers).map(|c| Member::of(c.model())).collect(),
            previous: set.and_then(|s| s.previous.as_ref()).map(|m| Member::of(m)),
            guard: set.and_then(|s| s.guard.as_ref()).and_then(|guard| guard.status()),
            queued_rows: lane.map_or(0, |lane| lane.queued_rows()),
            report,
            name,
        }
    }
}

/// The status of one model.
pub(super) fn model_status(state: &State, name: &str) -> impl Serialize + use<> {
    let report = state.engine.reports().remove(name).unwrap_or_default();
    ModelStatus::of(name.into(), &state.engine.lanes(), report)
}

#[derive(Serialize)]
struct Member {
    version: String,
    sha256: String,
    manifest_sha256: Option<String>,
    loaded_at: f64,
    signature: &'static str,
    profile: Profile,
}

impl Member {
    fn of(model: &Model) -> Self {
        Self {
            version: model.id.version.clone(),
            sha256: model.id.sha256.clone(),
            manifest_sha256: model.id.manifest_sha256.clone(),
            loaded_at: unix(model.loaded_at),
            signature: if model.signature.inferred { "inferred" } else { "manifest" },
            profile: model.profile.clone(),
        }
    }
}

pub(super) async fn status(Shared(state): Shared<Arc<State>>) -> Response {
    let mut reports = state.engine.reports();
    let lanes = state.engine.lanes();
    // What was never published has a report only, what lost its folder serves without one.
    let names: BTreeSet<String> = lanes.keys().chain(reports.keys()).cloned().collect();
    let models = names.into_iter().map(|name| {
        let report = reports.remove(&name).unwrap_or_default();
        ModelStatus::of(name, &lanes, report)
    });
    let (models, readiness) = (models.collect(), state.readiness());
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        onnxruntime: state.engine.runtime().version(),
        providers: state.engine.runtime().providers().shown(),
        ready: readiness.is_ok(),
        not_ready: readiness.err().map(|reason| why_not(&state.engine, reason)),
        source: SourceStatus::of(&state.engine),
        downloads: state.engine.source().downloads(),
        models,
    };
    Json(status).into_response()
}

/// Why the server takes no traffic, with what each model waits for.
fn why_not(engine: &Engine, reason: &str) -> String {
    let lanes = engine.lanes();
    let reports = engine.reports();
    let waits = reports.iter().filter(|(name, _)| !lanes.contains_key(*name)).map(|(name, report)| {
        let refused = report.rejected.iter().find(|refused| refused.role == "champion");
        let why = match (&report.error, refused) {
            (Some(error), _) => error.clone(),
            (None, Some(refused)) => {
                format!("version {} was refused at {}: {}", refused.version, refused.stage, refused.reason)
            }
            (None, None) if report.trying.is_empty() => "it is being downloaded".into(),
            (None, None) => format!("version {} is being tried out", report.trying.join(", ")),
        };
        format!("{name}: {why}")
    });
    let reading = engine.reading().error.map(|error| format!("the repository cannot be read: {error}"));
    let all: Vec<String> = [reason.to_owned()].into_iter().chain(reading).chain(waits).collect();
    all.join("; ")
}

/// What this server saw of a model's challengers.
pub(super) async fn shadow(Shared(state): Shared<Arc<State>>, Path(model): Path<String>) -> Result<Response, Problem> {
    Ok(Json(shadow_state(&state, &model).await?).into_response())
}

/// The same, for whoever judges.
pub(super) async fn shadow_state(state: &Arc<State>, model: &str) -> Result<shadow::state::State, Problem> {
    let name = state.lane(Some(model))?.name.clone();
    let shared = Arc::clone(state);
    // The shadow's threads, which get a CPU only when it is idle, may hold what they count.
    let told = tokio::task::spawn_blocking(move || shared.engine.shadow_state(&name)).await;
    told.map_err(|_| Problem::internal())?.ok_or_else(Problem::not_ready)
}
