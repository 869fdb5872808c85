//! `ModelInfer` and `ModelStreamInfer`: tensors in, tensors out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue, Request};
use axum::response::Response;
use bytes::Bytes;
use hyper::body::Incoming;
use prost::Message;
use prost::encoding::{DecodeContext, decode_key, skip_field};
use tokio::sync::watch;
use tonic::Status;

use super::proto::{ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use super::wire::{self, Messages};
use super::{tensors, version};
use crate::batch::{Call, Lane, PredictError};
use crate::codec;
use crate::codec::encode::weight;
use crate::codec::oip::Form;
use crate::http::body::{Received, until};
use crate::http::dialect::{self, LARGE_BODY, elsewhere};
use crate::http::head::find;
use crate::http::observe::REQUEST_ID;
use crate::http::{State, origin, wishes};
use crate::serving::ServingSet;
use crate::shadow::origin::Origin;

/// More inputs, or outputs, than any model has.
const TENSORS: usize = 4096;

/// The `protocol` label of metrics.
const PROTOCOL: &str = "v2_grpc";
/// An answer of more than this [`weight`] takes about a tenth of a millisecond to encode, and sixteen times that to compress.
const LIGHT: usize = 64 << 10;
/// Metadata that says which version answered, as HTTP's header does.
const VERSION: &str = "x-model-version";
/// What a stream may take when its client does not say: it ends when the client or the server does.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Answers `ModelInfer`.
pub(super) async fn one(state: Arc<State>, request: Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    answer(&state, &head.headers, body).await.unwrap_or_else(Status::into_http)
}

async fn answer(state: &Arc<State>, headers: &HeaderMap, body: Incoming) -> Result<Response, Status> {
    let call = wishes::narrow(state.engine.call(PROTOCOL), headers)?;
    let mut messages = Messages::new(headers, body)?;
    let receiving = async {
        let received = messages.next(state.body_limit, &state.bodies).await?;
        let received = received.ok_or_else(|| Status::invalid_argument("the request has no message"))?;
        if messages.begins().await? {
            return Err(Status::invalid_argument("ModelInfer takes one message: ModelStreamInfer takes many"));
        }
        Ok(received)
    };
    let received = until(call.deadline, receiving).await.unwrap_or_else(|| Err(late()))?;
    let compress = messages.compress;
    let encode = move |response: ModelInferResponse| wire::framed(&response, compress);
    let (answer, set) = predict(state, headers, received, call, &mut String::new(), compress, encode).await?;
    let mut response = wire::one(answer, compress);
    dialect::tell_version(&mut response, &set);
    Ok(response)
}

fn late() -> Status {
    Status::deadline_exceeded("the request did not arrive in time")
}

/// Answers `ModelStreamInfer`.
pub(super) fn many(state: Arc<State>, stopped: watch::Receiver<bool>, request: Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let start = Instant::now();
    // The deadline in the head is that of the stream; each request has the server's besides.
    let call = Call { deadline: start + FOREVER, ..state.engine.call(PROTOCOL) };
    let opened = wishes::narrow(call, &head.headers).map_err(Status::from);
    let opened = opened.and_then(|call| Ok((call, Messages::new(&head.headers, body)?)));
    match opened {
        Ok((call, messages)) => {
            let compress = messages.compress;
            wire::many(Stream { state, stopped, call, messages, headers: head.headers }, compress, Stream::next)
        }
        Err(status) => status.into_http(),
    }
}

struct Stream {
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
    call: Call,
    messages: Messages,
    headers: HeaderMap,
}

impl Stream {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Status> {
        Ok(self.answer().await?.map(|answer| (answer, self)))
    }

    /// The answer to the next request.
    async fn answer(&mut self) -> Result<Option<Bytes>, Status> {
        let Self { state, stopped, call, messages, headers } = self;
        let begins = tokio::select! {
            biased;
            // An error means that nobody can stop it any more.
            _ = stopped.wait_for(|stopped| *stopped) => return Err(wire::stopping()),
            begins = messages.begins() => begins?,
        };
        if !begins {
            return Ok(None);
        }
        // What has begun must come within the time that a request has.
        let now = state.engine.call(PROTOCOL);
        let call = Call { deadline: now.deadline.min(call.deadline), priority: call.priority, ..now };
        let receiving = messages.next(state.body_limit, &state.bodies);
        let received = until(call.deadline, receiving).await.unwrap_or_else(|| Err(late()))?;
        let Some(received) = received else { return Ok(None) };
        let compress = messages.compress;
        let encode = move |mut response: ModelInferResponse| {
            tensors::set_last(&mut response);
            let message = ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) };
            wire::framed(&message, compress)
        };
        let mut id = String::new();
        Ok(Some(match predict(state, headers, received, call, &mut id, compress, encode).await {
            Ok((answer, _)) => answer,
            Err(status) => {
                let infer_response = Some(ModelInferResponse { id, ..ModelInferResponse::default() });
                let error_message = status.message().to_owned();
                wire::framed(&ModelStreamInferResponse { error_message, infer_response }, false)
            }
        }))
    }
}

/// A request for a model's prediction, decoded.
struct Decoded {
    lane: Arc<Lane>,
    set: Arc<ServingSet>,
    request: codec::Request<Form>,
}

/// Decodes one request, runs it and encodes its answer; `id` is set to the request's.
async fn predict(
    state: &Arc<State>,
    headers: &HeaderMap,
    received: Received<'_>,
    call: Call,
    id: &mut String,
    compress: bool,
    encode: impl FnOnce(ModelInferResponse) -> Bytes + Send + 'static,
) -> Result<(Bytes, Arc<ServingSet>), Status> {
    let Received { bytes, _room } = received;
    let large = bytes.len() > LARGE_BODY;
    let decoded = if large {
        let state = Arc::clone(state);
        elsewhere(move || decode(&state, bytes)).await
    } else {
        decode(state, bytes)
    };
    let (named, decoded) = decoded?;
    *id = named;
    let Decoded { lane, set, request } = decoded?;
    drop(_room);
    let light = if large {
        0
    } else if compress {
        LIGHT / 16
    } else {
        LIGHT
    };
    let id = if request.form.id.is_empty() { find(headers, REQUEST_ID.as_str()) } else { None };
    let id = id.map_or(request.form.id.as_bytes(), HeaderValue::as_bytes);
    let origin = origin::of(state, &lane, &set, headers, id, vec![])?;
    let result = run(&lane, &set, request, call, origin, light, encode).await;
    let answer = result.map_err(|mut status| {
        if let Ok(version) = set.champion.id.version.parse() {
            status.metadata_mut().insert(VERSION, version);
        }
        status
    })?;
    Ok((answer, set))
}

/// The request's id, and what it asks for.
fn decode(state: &State, bytes: Bytes) -> Result<(String, Result<Decoded, Status>), Status> {
    if !is_modest(&bytes) {
        return Err(Status::invalid_argument(format!("the message has more than {TENSORS} inputs or outputs")));
    }
    let message = ModelInferRequest::decode(bytes)
        .map_err(|e| Status::invalid_argument(format!("the message is no ModelInferRequest: {e}")))?;
    let id = message.id.clone();
    let max_rows = state.engine.options().max_rows;
    let decoded = (|| {
        let (lane, set) = state.find(&message.model_name, version(&message.model_version))?;
        let request = tensors::decode(&set.champion.signature, message, max_rows)?;
        Ok(Decoded { lane, set, request })
    })();
    Ok((id, decoded))
}

/// Whether a message has no more inputs, outputs and raw contents than a model may have. An empty one takes two bytes of the
/// message and hundreds of memory when it is decoded, so they are counted before.
fn is_modest(mut bytes: &[u8]) -> bool {
    let mut left = 3 * TENSORS;
    while !bytes.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut bytes) else { return true };
        if (5..=7).contains(&tag) {
            let Some(rest) = left.checked_sub(1) else { return false };
            left = rest;
        }
        // What is malformed is told when it is decoded.
        if skip_field(wire_type, tag, &mut bytes, DecodeContext::default()).is_err() {
            return true;
        }
    }
    true
}

async fn run(
    lane: &Lane,
    set: &Arc<ServingSet>,
    request: codec::Request<Form>,
    call: Call,
    origin: Option<Origin>,
    light: usize,
    encode: impl FnOnce(ModelInferResponse) -> Bytes + Send + 'static,
) -> Result<Bytes, Status> {
    let call = wishes::apply(call, request.wishes);
    if call.deadline <= Instant::now() {
        return Err(PredictError::Deadline.into());
    }
    let codec::Request { inputs, rows, form, .. } = request;
    let answers = lane.predict(set, inputs, rows, call, origin).await?;
    let heavy = answers.iter().map(weight).sum::<usize>() > light;
    let encode = {
        let set = Arc::clone(set);
        move || encode(tensors::encode(&set.champion, &answers, &form))
    };
    Ok(if heavy { elsewhere(encode).await } else { encode() })
}
