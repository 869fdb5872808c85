//! What all dialects share: receive the body, decode it, run the rows, encode the answers.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::body::{self, Incoming, Received};
use super::error::{Problem, Shape};
use super::{State, origin, wishes};
use crate::batch::{Lane, PredictError};
use crate::codec::encode::weight;
use crate::codec::{DecodeError, Request};
use crate::model::{Answer, Model};
use crate::serving::ServingSet;

pub(super) const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");

/// A body beyond this takes more than about half a millisecond to decode: 100 bytes a row, 0.5 us a row.
pub(super) const LARGE_BODY: usize = 128 << 10;

/// An answer of more than this [`weight`] takes as long to encode as JSON.
pub(super) const LARGE_ANSWER: usize = 8 << 10;

/// One way to ask for predictions: bytes to tensors, and answers to bytes. Made from a request's head.
pub(super) trait Dialect: Copy + Send + Sync + 'static {
    /// What the answer's form depends on.
    type Form: Send + 'static;

    /// The `protocol` label of metrics.
    fn protocol(&self) -> &'static str;

    /// Whether a body takes more than about half a millisecond to decode.
    fn is_large(&self, body: &[u8]) -> bool {
        body.len() > LARGE_BODY
    }

    /// Decodes a body of at most `max_rows` rows.
    fn decode(&self, model: &Model, body: &[u8], max_rows: usize) -> Result<Request<Self::Form>, DecodeError>;

    /// The id that the body itself gives the request; empty when it gives none.
    fn id<'f>(&self, _form: &'f Self::Form) -> &'f str {
        ""
    }

    /// Encodes the answers to all rows, which are in order.
    fn encode(&self, model: &Model, answers: &[Answer], form: Self::Form) -> Encoded;
}

/// An answer's body and the headers that say what it is.
pub(super) struct Encoded {
    pub(super) body: Vec<u8>,
    pub(super) content_type: HeaderValue,
    /// One more header, for formats that need it.
    pub(super) extra: Option<(HeaderName, HeaderValue)>,
}

impl Encoded {
    pub(super) const fn json(body: Vec<u8>) -> Self {
        Self { body, content_type: HeaderValue::from_static("application/json"), extra: None }
    }
}

/// Answers a request for predictions of one model. What is wrong once its set is found is told in `shape`, beside the
/// version; what is wrong before is left to the caller.
pub(super) async fn answer<D: Dialect>(
    dialect: D,
    shape: Shape,
    state: &State,
    lane: &Lane,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
    Ok(answer_with(dialect, shape, state, lane, &set, headers, body).await)
}

/// Answers a request for predictions of the set that was found for it.
pub(super) async fn answer_with<D: Dialect>(
    dialect: D,
    shape: Shape,
    state: &State,
    lane: &Lane,
    set: &Arc<ServingSet>,
    headers: &HeaderMap,
    body: Incoming,
) -> Response {
    let answer = run(dialect, state, lane, set, headers, body).await;
    let mut response = answer.unwrap_or_else(|problem| problem.told(shape).into_response());
    tell_version(&mut response, set);
    response
}

/// Says which version answered.
pub(super) fn tell_version(response: &mut Response, set: &ServingSet) {
    if let Ok(version) = HeaderValue::from_str(&set.champion.id.version) {
        response.headers_mut().insert(MODEL_VERSION, version);
    }
}

async fn run<D: Dialect>(
    dialect: D,
    state: &State,
    lane: &Lane,
    set: &Arc<ServingSet>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let call = wishes::narrow(state.engine.call(dialect.protocol()), headers)?;
    let id = body.id.clone();
    let Received { bytes: body, _room } = body::whole(state, headers, body, call.deadline).await?;
    let max_rows = state.engine.options().max_rows;
    let large = dialect.is_large(&body);
    let request = if large {
        let set = Arc::clone(set);
        elsewhere(move || dialect.decode(&set.champion, &body, max_rows)).await?
    } else {
        // The body must not live on: its connection could not use its read buffer again and would allocate another.
        dialect.decode(&set.champion, &{ body }, max_rows)?
    };
    let call = wishes::apply(call, request.wishes);
    if call.deadline <= Instant::now() {
        return Err(PredictError::Deadline.into());
    }
    let Request { inputs, rows, form, marks, .. } = request;
    let own = dialect.id(&form).as_bytes();
    let id = if own.is_empty() { id.as_bytes() } else { own };
    let origin = origin::of(state, lane, set, headers, id, marks)?;
    let answers = lane.predict(set, inputs, rows, call, origin).await?;
    let heavy = large || answers.iter().map(weight).sum::<usize>() > LARGE_ANSWER;
    let encode = {
        let set = Arc::clone(set);
        move || dialect.encode(&set.champion, &answers, form)
    };
    let encoded = if heavy { elsewhere(encode).await } else { encode() };
    let mut response = Response::new(Body::from(encoded.body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, encoded.content_type);
    if let Some((name, value)) = encoded.extra {
        headers.insert(name, value);
    }
    Ok(response)
}

/// Does what takes milliseconds where it does not keep other connections waiting.
pub(super) async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
