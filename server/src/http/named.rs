//! `POST /predict` and `POST /models/{model}/predict`: named JSON in, named JSON out.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;

use super::body::Incoming;
use super::dialect::{self, Dialect, Encoded};
use super::error::{Problem, Shape};
use super::{State, ndjson, wishes};
use crate::codec::encode::{self, Classes};
use crate::codec::{DecodeError, Form, Request, decode};
use crate::model::{Answer, Model};

/// One object of named features, or several.
#[derive(Clone, Copy)]
struct Named(Classes);

impl Dialect for Named {
    type Form = Form;

    fn protocol(&self) -> &'static str {
        "predict"
    }

    fn decode(&self, model: &Model, body: &[u8], max_rows: usize) -> Result<Request, DecodeError> {
        decode::body(&model.signature, body, max_rows)
    }

    fn encode(&self, model: &Model, answers: &[Answer], form: Form) -> Encoded {
        Encoded::json(encode::answer(&model.signature, answers, form, self.0))
    }
}

/// The two forms a body may have.
enum Format {
    Json,
    Ndjson,
}

/// Answers a request for predictions of `model`, or of the default one.
pub(super) async fn predict(
    state: Arc<State>,
    model: Option<&str>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let format = format(headers)?;
    let lane = state.lane(model)?;
    match format {
        Format::Json => {
            dialect::answer(Named(wishes::classes(headers)?), Shape::Problem, &state, &lane, headers, body).await
        }
        Format::Ndjson => ndjson::predict(state, lane, Shape::Problem, "application/x-ndjson", headers, body).await,
    }
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
