//! `POST /predict` and `POST /models/{model}/predict`: named JSON in, named JSON out.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;

use super::body::Incoming;
use super::dialect::{self, Dialect, Encoded};
use super::error::{Problem, Shape};
use super::media::{Media, is_lines};
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
    state: &Arc<State>,
    model: Option<&str>,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Response, Problem> {
    let format = format(headers)?;
    let lane = state.lane(model)?;
    match format {
        Format::Json => {
            dialect::answer(Named(wishes::classes(headers)?), Shape::Problem, state, &lane, headers, body).await
        }
        Format::Ndjson => {
            let state = Arc::clone(state);
            Box::pin(ndjson::predict(state, lane, Shape::Problem, "application/x-ndjson", headers, body)).await
        }
    }
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let media = Media::of(headers);
    if media.is("application/json") {
        return Ok(Format::Json);
    }
    match media.essence().as_str() {
        "application/json" => Ok(Format::Json),
        lines if is_lines(lines) => Ok(Format::Ndjson),
        _ => Err(media.refused("'Content-Type: application/json', or application/x-ndjson for one row a line")),
    }
}
