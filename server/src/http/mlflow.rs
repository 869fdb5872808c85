//! `/invocations` and `/ping` as MLflow's scoring server and SageMaker have them.
//!
//! Bodies and errors are MLflow's. A JSON body with none of MLflow's keys is named JSON and is answered as `/predict` would,
//! since SageMaker leaves bodies to the container.

use std::sync::Arc;

use axum::extract::State as Shared;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::body::Incoming;
use super::dialect::{self, Dialect, Encoded};
use super::error::{Problem, Shape};
use super::media::{Media, is_lines};
use super::{State, ndjson, wishes};
use crate::codec::encode::{self, Classes};
use crate::codec::envelope::{self, Envelope, Layout};
use crate::codec::{DecodeError, Form, Request, columns, csv};
use crate::model::{Answer, Model};
use crate::text::shown;

/// Which of several models a SageMaker endpoint asks.
const TARGET_MODEL: HeaderName = HeaderName::from_static("x-amzn-sagemaker-target-model");

/// What a body is.
#[derive(Clone, Copy)]
enum Format {
    Json,
    Csv,
    /// Named JSON, one row a line; with the name of the type that was sent.
    Lines(&'static str),
}

#[derive(Clone, Copy)]
struct Invocation {
    csv: bool,
    classes: Classes,
}

impl Dialect for Invocation {
    type Form = Layout;

    fn protocol(&self) -> &'static str {
        "mlflow"
    }

    fn decode(&self, model: &Model, body: &[u8], max_rows: usize) -> Result<Request<Layout>, DecodeError> {
        if self.csv {
            csv::body(&model.signature, body, max_rows)
        } else {
            envelope::body(Envelope::Mlflow, &model.signature, body, max_rows)
        }
    }

    fn encode(&self, model: &Model, answers: &[Answer], form: Layout) -> Encoded {
        let signature = &model.signature;
        Encoded::json(match form {
            Layout::Named(form) => encode::answer(signature, answers, form, self.classes),
            // A DataFrame gets a DataFrame, which MLflow writes as records.
            Layout::Table | Layout::Rows { features: true } | Layout::Columns { features: true } => {
                encode::answer(signature, answers, Form::Instances, self.classes)
            }
            Layout::Rows { .. } | Layout::Columns { .. } => columns::encode(signature, answers, "predictions", false),
        })
    }
}

/// Answers a request for predictions of the default model, or of the one that SageMaker names.
pub(super) async fn predict(state: Arc<State>, headers: &HeaderMap, body: Incoming) -> Result<Response, Problem> {
    let format = format(headers)?;
    let target = headers.get(TARGET_MODEL).map(|value| value.to_str().unwrap_or("?"));
    let target = target.map(|name| name.trim_start_matches('/').trim_end_matches(".tar.gz"));
    let lane = state.lane(target)?;
    let csv = match format {
        Format::Json => false,
        Format::Csv => true,
        Format::Lines(name) => return ndjson::predict(state, lane, Shape::Mlflow, name, headers, body).await,
    };
    dialect::answer(Invocation { csv, classes: wishes::classes(headers)? }, Shape::Mlflow, &state, &lane, headers, body)
        .await
}

/// MLflow's rule: one of its types, and no parameter but `charset=utf-8`.
fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let media = Media::of(headers);
    for (name, value) in media.parameters() {
        if !name.trim().eq_ignore_ascii_case("charset") {
            let why = format!("has a parameter that is not taken: leave {:?} out", shown(name));
            return Err(media.refused_for(&why));
        }
        if !value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") {
            return Err(media.refused_for("has another charset: only UTF-8 is taken"));
        }
    }
    match media.essence().as_str() {
        "application/json" => Ok(Format::Json),
        "text/csv" => Ok(Format::Csv),
        "application/jsonlines" => Ok(Format::Lines("application/jsonlines")),
        lines if is_lines(lines) => Ok(Format::Lines("application/x-ndjson")),
        _ => Err(media.refused(
            "application/json, text/csv with a line of names first, or application/jsonlines for one row a line",
        )),
    }
}

/// Whether the server takes traffic, for MLflow's client, SageMaker and, at a path of its own, Vertex AI.
pub(super) async fn ping(Shared(state): Shared<Arc<State>>) -> Response {
    match state.readiness() {
        Ok(()) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], "\n").into_response(),
        Err(reason) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason.into()).told(Shape::Mlflow).into_response(),
    }
}

/// The version of this server; MLflow's scoring server tells that of MLflow.
pub(super) async fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
