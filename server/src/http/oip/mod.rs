//! The Open Inference Protocol v2 over REST, under `/v2`: inference here, what the server tells of its models beside it.
//!
//! Clients of Triton and of KServe speak it. Where these differ from each other or from the text, `docs/protocols.md` says
//! what is done. Inference does not come through the router; all else is one route, so that every answer, a wrong path's
//! too, has the protocol's form.

pub(super) mod metadata;
pub(super) mod repository;
pub(super) mod statistics;

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request as Asked, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::State;
use super::body::{self, Incoming};
use super::dialect::{self, Dialect, Encoded, LARGE_BODY};
use super::error::{Problem, Shape};
use super::head::find;
use crate::codec::oip::{self, Form, bare, read, write};
use crate::codec::{DecodeError, Request};
use crate::model::{Answer, Model};
use crate::serving::ServingSet;
use crate::text::shown;

/// How long the JSON of a binary body is.
const JSON_LENGTH: HeaderName = HeaderName::from_static(read::HEADER);
/// Raw bytes beyond this take about half a millisecond to decode and to bind.
const LARGE_RAW: usize = 2 << 20;

/// An inference request; the header says how much of its body is JSON.
#[derive(Clone, Copy)]
struct Infer {
    json: Option<usize>,
}

impl Dialect for Infer {
    type Form = Form;

    fn protocol(&self) -> &'static str {
        "v2_http"
    }

    /// Raw numbers are copied, raw text is read piece by piece.
    fn is_large(&self, body: &[u8]) -> bool {
        let is_light = |json: &[u8]| json.len() <= LARGE_BODY && body.len() <= LARGE_RAW && !may_have_text(json);
        body.len() > LARGE_BODY && !self.json.and_then(|json| body.get(..json)).is_some_and(is_light)
    }

    fn decode(&self, model: &Model, body: &[u8], max_rows: usize) -> Result<Request<Form>, DecodeError> {
        let infer = match self.json {
            Some(0) => bare::request(&model.signature, body)?,
            json => read::request(body, json)?,
        };
        oip::bind(&model.signature, infer, max_rows)
    }

    fn id<'f>(&self, form: &'f Form) -> &'f str {
        &form.id
    }

    fn encode(&self, model: &Model, answers: &[Answer], form: Form) -> Encoded {
        let (body, json) = write::answer(&model.id, &model.signature, answers, &form);
        match json {
            None => Encoded::json(body),
            Some(json) => Encoded {
                body,
                content_type: HeaderValue::from_static("application/octet-stream"),
                extra: Some((JSON_LENGTH, json.into())),
            },
        }
    }
}

/// Whether JSON may have a tensor of text: the name of that type could be written with escapes.
fn may_have_text(json: &[u8]) -> bool {
    json.contains(&b'\\') || json.split(|byte| *byte == b'"').any(|word| word == b"BYTES")
}

/// Answers an inference request. Whatever its `Content-Type` is: clients send all kinds, the header alone tells.
pub(super) async fn infer(
    state: Arc<State>,
    model: &str,
    version: Option<&str>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let dialect = Infer { json: json_length(headers)? };
    let (lane, set) = state.find(model, version)?;
    Ok(dialect::answer_with(dialect, Shape::Plain, &state, &lane, &set, headers, body).await)
}

fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Problem> {
    let Some(value) = find(headers, JSON_LENGTH.as_str()) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        let shown = shown(&String::from_utf8_lossy(value.as_bytes()));
        let detail = format!("{JSON_LENGTH} is {shown:?}: send how many bytes of the body are JSON");
        Problem::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// What a path under `/v2` other than inference asks for.
enum Ask<'a> {
    Server,
    Live,
    Ready,
    Models,
    Metadata(&'a str, Option<&'a str>),
    ModelReady(&'a str, Option<&'a str>),
    Config(&'a str, Option<&'a str>),
    Statistics(Option<&'a str>, Option<&'a str>),
    Index,
    Load(&'a str),
    Unload(&'a str),
}

impl<'a> Ask<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').skip(1).take(8).collect();
        Some(match parts.as_slice() {
            ["v2"] => Self::Server,
            ["v2", "health", "live"] => Self::Live,
            ["v2", "health", "ready"] => Self::Ready,
            ["v2", "models"] => Self::Models,
            ["v2", "models", "stats"] => Self::Statistics(None, None),
            ["v2", "models", model, rest @ ..] => {
                let (version, rest) = match rest {
                    ["versions", version, rest @ ..] => (Some(*version), rest),
                    rest => (None, rest),
                };
                match rest {
                    [] => Self::Metadata(model, version),
                    ["ready"] => Self::ModelReady(model, version),
                    ["config"] => Self::Config(model, version),
                    ["stats"] => Self::Statistics(Some(model), version),
                    _ => return None,
                }
            }
            ["v2", "repository", "index"] => Self::Index,
            ["v2", "repository", "models", model, "load"] => Self::Load(model),
            ["v2", "repository", "models", model, "unload"] => Self::Unload(model),
            _ => return None,
        })
    }

    const fn is_post(&self) -> bool {
        matches!(self, Self::Index | Self::Load(_) | Self::Unload(_))
    }
}

/// Answers everything under `/v2` but inference.
pub(super) async fn ask(Shared(state): Shared<Arc<State>>, request: Asked) -> Response {
    let (head, body) = request.into_parts();
    let Some(ask) = Ask::of(head.uri.path()) else {
        let detail = "there is nothing at this path; GET /v2 says what is offered, docs/protocols.md has the paths";
        return Problem::new(StatusCode::NOT_FOUND, detail.into()).told(Shape::Plain).into_response();
    };
    let fits =
        if ask.is_post() { head.method == Method::POST } else { matches!(head.method, Method::GET | Method::HEAD) };
    if !fits {
        let mut response = Problem::wrong_method().told(Shape::Plain).into_response();
        let allow = HeaderValue::from_static(if ask.is_post() { "POST" } else { "GET, HEAD" });
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let answer = dispatch(&state, ask, &head.headers, body).await;
    answer.unwrap_or_else(|problem| problem.told(Shape::Plain).into_response())
}

async fn dispatch(state: &Arc<State>, ask: Ask<'_>, headers: &HeaderMap, body: Body) -> Result<Response, Problem> {
    Ok(match ask {
        Ask::Server => json(StatusCode::OK, &metadata::Server::of()),
        Ask::Live => json(StatusCode::OK, &serde_json::json!({"live": true})),
        Ask::Ready => json(status(state.readiness().is_ok()), &serde_json::json!({"ready": state.readiness().is_ok()})),
        Ask::Models => {
            let models: Vec<String> = state.engine.lanes().keys().cloned().collect();
            json(StatusCode::OK, &serde_json::json!({"models": models}))
        }
        Ask::Metadata(model, version) => {
            let (_, set) = state.find(model, version)?;
            with_version(json(StatusCode::OK, &metadata::Metadata::of(model, &set.champion)), &set)
        }
        Ask::ModelReady(model, version) => {
            let (_, set) = state.find(model, version)?;
            // As long as the server takes requests, a model that it has is ready.
            let ready = !state.is_draining();
            with_version(json(status(ready), &serde_json::json!({"name": model, "ready": ready})), &set)
        }
        Ask::Config(model, version) => {
            let (_, set) = state.find(model, version)?;
            let config = metadata::Config::of(model, &set.champion, state.engine.options());
            with_version(json(StatusCode::OK, &config), &set)
        }
        Ask::Statistics(model, version) => json(StatusCode::OK, &statistics::of(state, model, version)?),
        Ask::Index => {
            let order = body::order(state, headers, body).await?;
            json(StatusCode::OK, &repository::index(state, &order.bytes)?)
        }
        Ask::Load(model) => repository::load(state, model, headers, body).await?,
        Ask::Unload(model) => repository::unload(state, model, headers, body).await?,
    })
}

const fn status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    (status, axum::Json(value)).into_response()
}

fn with_version(mut response: Response, set: &ServingSet) -> Response {
    dialect::tell_version(&mut response, set);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_numbers_are_light_and_raw_text_is_not() {
        let is_large = |json: &str, raw: usize| {
            let body = [json.as_bytes(), &vec![0; raw]].concat();
            Infer { json: Some(json.len()) }.is_large(&body)
        };
        let numbers = r#"{"inputs":[{"datatype":"FP32"}]}"#;
        assert!(!is_large(numbers, 1 << 20) && is_large(numbers, 2 << 20));
        for text in [r#"{"inputs":[{"datatype":"BYTES"}]}"#, r#"{"inputs":[{"datatype":"\u0042YTES"}]}"#] {
            assert!(!is_large(text, 1 << 10) && is_large(text, 1 << 20), "{text}");
        }
        assert!(is_large(&" ".repeat(LARGE_BODY + 1), 0));
        assert!(!is_large("", 1 << 20));
        let body = vec![b' '; LARGE_BODY + 1];
        assert!(Infer { json: None }.is_large(&body) && Infer { json: Some(usize::MAX) }.is_large(&body));
    }
}
