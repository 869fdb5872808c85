//! `POST /predict` and `POST /models/{model}/predict`: named JSON in, named JSON out.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::error::Problem;
use super::{State, ndjson};
use crate::batch::{Lane, PredictError};
use crate::codec::{decode, encode};
use crate::serving::ServingSet;

const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// Whether a path asks for predictions, and of which model.
pub(super) fn target(path: &str) -> Option<Option<&str>> {
    if path == "/predict" {
        return Some(None);
    }
    let name = path.strip_prefix("/models/")?.strip_suffix("/predict")?;
    (!name.contains('/')).then_some(Some(name))
}

/// The two forms a body may have.
enum Format {
    Json,
    Ndjson,
}

/// Answers a request for which [`target`] gave a model.
pub(super) async fn predict(state: Arc<State>, request: http::Request<Incoming>) -> Result<Response, Problem> {
    if request.method() != Method::POST {
        return Err(Problem::wrong_method());
    }
    let format = format(request.headers())?;
    let lane = state.lane(target(request.uri().path()).flatten())?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    match format {
        Format::Json => json(&state, &lane, &set, request.into_body()).await,
        Format::Ndjson => ndjson::predict(state, lane, set, Body::new(request.into_body())).await,
    }
}

async fn json(state: &State, lane: &Lane, set: &Arc<ServingSet>, body: Incoming) -> Result<Response, Problem> {
    let call = state.engine.call("predict");
    let signature = &set.champion.signature;
    let mut received = false;
    let answer = async {
        let body = read(body, state.body_limit).await?;
        received = true;
        let request = decode::body(signature, &body, state.engine.options().max_rows)?;
        let answers = lane.predict(set, request.inputs, request.rows, call).await?;
        Ok::<_, Problem>(encode::answer(signature, &answers, request.form))
    };
    let answer = match tokio::time::timeout_at(call.deadline.into(), answer).await {
        Ok(answer) => answer?,
        Err(_) if received => return Err(PredictError::Deadline.into()),
        Err(_) => return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".into())),
    };
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    name_version(&mut response, set);
    Ok(response)
}

/// Says which version answered.
pub(super) fn name_version(response: &mut Response, set: &ServingSet) {
    if let Ok(version) = HeaderValue::from_str(&set.champion.id.version) {
        response.headers_mut().insert(MODEL_VERSION, version);
    }
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(e) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {e}"))),
    }
}

pub(super) fn too_large(limit: usize) -> Problem {
    let detail = format!("the body is larger than {limit} bytes: send the rows in several requests");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(Format::Json);
    }
    if ["application/x-ndjson", "application/ndjson", "application/jsonl"]
        .iter()
        .any(|t| essence.eq_ignore_ascii_case(t))
    {
        return Ok(Format::Ndjson);
    }
    let shown: String = essence.chars().take(64).collect();
    let what = if shown.is_empty() {
        "there is no Content-Type".to_owned()
    } else {
        format!("Content-Type {shown:?} is not taken")
    };
    Err(Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("{what}: send 'Content-Type: application/json', or application/x-ndjson for one row a line"),
    ))
}
