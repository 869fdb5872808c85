//! `POST /predict` and `POST /models/{model}/predict`: named JSON in, named JSON out.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::error::Problem;
use super::{BODY_UNIT, State, ndjson};
use crate::batch::Lane;
use crate::codec::{decode, encode};
use crate::serving::ServingSet;

const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// A body beyond this takes more than about half a millisecond to decode: 100 bytes a row, 0.5 us a row.
pub(super) const LARGE_BODY: usize = 128 << 10;

/// Rows beyond this take as long to encode.
const LARGE_ANSWER: usize = 2048;

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
        let mut response = Problem::wrong_method().into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Ok(response);
    }
    let format = format(request.headers())?;
    let lane = state.lane(target(request.uri().path()).flatten())?;
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    let answer = match format {
        Format::Json => json(&state, &lane, &set, request.into_body()).await,
        Format::Ndjson => ndjson::predict(state, lane, Arc::clone(&set), Body::new(request.into_body())).await,
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    if let Ok(version) = HeaderValue::from_str(&set.champion.id.version) {
        response.headers_mut().insert(MODEL_VERSION, version);
    }
    Ok(response)
}

async fn json(state: &State, lane: &Lane, set: &Arc<ServingSet>, body: Incoming) -> Result<Response, Problem> {
    let call = state.engine.call("predict");
    let received = tokio::time::timeout_at(call.deadline.into(), read(body, state.body_limit, &state.bodies)).await;
    let Ok(body) = received else {
        return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".into()));
    };
    let Received { bytes: body, _room } = body?;
    let max_rows = state.engine.options().max_rows;
    let large = body.len() > LARGE_BODY;
    let request = if large {
        let set = Arc::clone(set);
        elsewhere(move || decode::body(&set.champion.signature, &body, max_rows)).await?
    } else {
        // The body must not live on: its connection could not use its read buffer again and would allocate another.
        decode::body(&set.champion.signature, &{ body }, max_rows)?
    };
    let answers = lane.predict(set, request.inputs, request.rows, call).await?;
    let encode = {
        let set = Arc::clone(set);
        move || encode::answer(&set.champion.signature, &answers, request.form)
    };
    let answer = if large || request.rows > LARGE_ANSWER { elsewhere(encode).await } else { encode() };
    let mut response = Response::new(Body::from(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Does what takes milliseconds where it does not keep other connections waiting.
pub(super) async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// A whole body, and its share of the room for all bodies.
struct Received<'a> {
    bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

/// Receives a body. Most have one frame, which is taken as it is.
async fn read<'a>(mut body: Incoming, limit: usize, room: &'a Semaphore) -> Result<Received<'a>, Problem> {
    let mut all = Bytes::new();
    let mut many = BytesMut::new();
    let mut taken: Option<SemaphorePermit<'a>> = None;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|e| Problem::new(StatusCode::BAD_REQUEST, format!("the body could not be read: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let size = all.len() + many.len() + data.len();
        if size > limit {
            return Err(too_large(limit));
        }
        let units = size / BODY_UNIT - taken.as_ref().map_or(0, SemaphorePermit::num_permits);
        if units > 0 {
            let more = u32::try_from(units).ok().and_then(|units| room.try_acquire_many(units).ok());
            let more = more.ok_or_else(|| {
                let detail =
                    "too many large bodies are being received: try again, or send the rows in several requests";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into())
            })?;
            match &mut taken {
                Some(taken) => taken.merge(more),
                None => taken = Some(more),
            }
        }
        if all.is_empty() && many.is_empty() {
            all = data;
        } else {
            many.extend_from_slice(&std::mem::take(&mut all));
            many.extend_from_slice(&data);
        }
    }
    Ok(Received { bytes: if many.is_empty() { all } else { many.freeze() }, _room: taken })
}

pub(super) fn too_large(limit: usize) -> Problem {
    let detail = format!("the body is larger than {limit} bytes: send the rows in several requests");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let detail = "a compressed body is not taken: send it without Content-Encoding";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail.into()));
    }
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
