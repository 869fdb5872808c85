//! `POST /feedback`: what was true, for rows that were answered before.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::State;
use super::body::{self, Received};
use super::dialect::{LARGE_BODY, elsewhere};
use super::error::Problem;
use crate::batch::Lane;
use crate::codec::DecodeError;
use crate::codec::marks::SERIES_BYTES;
use crate::serving::ServingSet;
use crate::shadow::origin::row_id;
use crate::shadow::state::Passed;
use crate::verdict::state::{Label, Source, Target, hash};

/// One label as people send it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    request_id: Option<String>,
    #[serde(default)]
    row: usize,
    series: Option<String>,
    ts: Option<f64>,
    from: Option<f64>,
    to: Option<f64>,
    anomaly: Option<bool>,
    value: Option<f64>,
    source: Source,
}

/// What the answer says.
#[derive(Serialize)]
struct Accepted {
    /// Labels that are being joined; the metric `onnxd_feedback_total` says what became of them.
    accepted: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
}

/// Labels of the default model.
pub(super) async fn of_default(
    Shared(state): Shared<Arc<State>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = state.lane(None)?;
    take(&state, &lane, &headers, body).await
}

/// Labels of a model.
pub(super) async fn of_model(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = state.lane(Some(&model))?;
    take(&state, &lane, &headers, body).await
}

async fn take(state: &State, lane: &Lane, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    let Received { bytes, _room } = body::order(state, headers, body).await?;
    let most = state.engine.options().max_rows;
    let labels =
        if bytes.len() > LARGE_BODY { elsewhere(move || labels(&bytes, most)).await } else { labels(&bytes, most) }?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    answer(state, lane, &set, labels)
}

fn answer(state: &State, lane: &Lane, set: &ServingSet, labels: Vec<Label>) -> Result<Response, Problem> {
    let accepted = labels.len();
    if set.compared().next().is_none() {
        let detail = Some("no challenger is compared at present, so that nothing waits for labels");
        return Ok((StatusCode::ACCEPTED, Json(Accepted { accepted: 0, detail })).into_response());
    }
    if !state.engine.tell(lane, set, labels) {
        let detail = "the shadow has no room for labels: send them again, each is counted once";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into()));
    }
    Ok((StatusCode::ACCEPTED, Json(Accepted { accepted, detail: None })).into_response())
}

/// One label, or an array of them.
fn labels(bytes: &[u8], most: usize) -> Result<Vec<Label>, DecodeError> {
    let syntax = |e: serde_json::Error| DecodeError::Syntax(e.to_string());
    if bytes.trim_ascii_start().first() != Some(&b'[') {
        let item: &RawValue = serde_json::from_slice(bytes).map_err(syntax)?;
        return Ok(vec![label(item, "")?]);
    }
    let items: Vec<&RawValue> = serde_json::from_slice(bytes).map_err(syntax)?;
    if items.len() > most {
        let message = format!("there are more than {most} labels: send them in several requests");
        return Err(DecodeError::Features { field: String::new(), message });
    }
    items.iter().enumerate().map(|(i, item)| label(item, &format!("[{i}]"))).collect()
}

fn label(item: &RawValue, place: &str) -> Result<Label, DecodeError> {
    let refuse = |key: &str, message: &str| {
        let dot = if place.is_empty() || key.is_empty() { "" } else { "." };
        let colon = if place.is_empty() { "" } else { ": " };
        DecodeError::Features { field: format!("{place}{dot}{key}"), message: format!("{place}{colon}{message}") }
    };
    let item: Item = serde_json::from_str(item.get()).map_err(|e| {
        let text = e.to_string();
        // The position is that in the item, which says nothing where there are several.
        refuse("", text.split(" at line ").next().unwrap_or_default())
    })?;
    let seconds = |key: &str, value: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
        if (0.0..1e11).contains(&value) {
            Ok(value as u64)
        } else {
            Err(refuse(key, &format!("{key} must be seconds of Unix time")))
        }
    };
    let series = item.series.as_ref().map(|series| {
        let fits = (1..=SERIES_BYTES).contains(&series.len());
        if fits { Ok(hash(series.as_bytes())) } else { Err(refuse("series", "series is empty or too long")) }
    });
    let target = match (&item.request_id, series.transpose()?, item.ts, item.from, item.to) {
        (Some(id), None, None, None, None) => Target::Row(row_id(hash(id.as_bytes()), item.row)),
        (None, Some(series), Some(ts), None, None) => Target::At { series, at: seconds("ts", ts)? },
        (None, Some(series), None, Some(from), Some(to)) => {
            let (from, to) = (seconds("from", from)?, seconds("to", to)?);
            if from > to {
                return Err(refuse("to", "to lies before from"));
            }
            Target::Window { series, from, to }
        }
        _ => {
            let message = "a label is of a request_id (with row, counted from 0), of a series at ts, or of a series from .. to ..";
            return Err(refuse("", message));
        }
    };
    match (target, item.anomaly, item.value) {
        (_, None, None) => Err(refuse("anomaly", "neither anomaly nor value is there: say what was true")),
        (_, Some(_), _) if item.source == Source::Metric => {
            Err(refuse("anomaly", "anomaly is nothing that a metric tells: name another source"))
        }
        (Target::Window { .. }, _, Some(_)) => Err(refuse("value", "a value is of one time, not of a window: send ts")),
        (target, anomaly, value) => Ok(Label { target, anomaly, value, source: item.source }),
    }
}

/// Labels that another server passes on, on the operations port.
pub(super) async fn passed_on(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let lane = state.lane(Some(&model))?;
    let Received { bytes, _room } = body::order(&state, &headers, body).await?;
    let Passed { server, labels } =
        serde_json::from_slice(&bytes).map_err(|e| Problem::new(StatusCode::BAD_REQUEST, e.to_string()))?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    // A server may be among its own peers.
    if server != state.engine.id() && !set.tell(labels) {
        let detail = "the shadow has no room for labels";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into()));
    }
    Ok(StatusCode::ACCEPTED.into_response())
}
