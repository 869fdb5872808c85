//! What a client sees when something is wrong, in the shape of the dialect that it speaks.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::batch::PredictError;
use crate::codec::DecodeError;
use crate::promotion::ChangeError;
use crate::text::{SENTENCE, cut};

/// How a dialect tells its errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// RFC 9457 problem details, with `error` as a plain string besides.
    #[default]
    Problem,
    /// `{"error": ".."}`; whatever is wrong with a body is a 400: the Open Inference Protocol, TensorFlow Serving.
    Plain,
    /// `{"error_code": "..", "message": ".."}`; whatever is wrong with a body is a 400.
    Mlflow,
}

/// An error answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    field: Option<String>,
    shape: Shape,
}

#[derive(Serialize)]
struct Details<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

impl Problem {
    /// What the detail repeats of a request may be of any length: it is cut.
    pub(super) fn new(status: StatusCode, detail: String) -> Self {
        Self { status, detail: Cow::Owned(cut(detail, SENTENCE)), field: None, shape: Shape::Problem }
    }

    /// Our fault; the log tells more.
    pub(super) const fn internal() -> Self {
        let detail = Cow::Borrowed("internal error");
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, detail, field: None, shape: Shape::Problem }
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    pub(super) const fn wrong_method() -> Self {
        let detail =
            Cow::Borrowed("this path takes another method: predictions and admin calls are POST, the rest is GET");
        Self { status: StatusCode::METHOD_NOT_ALLOWED, detail, field: None, shape: Shape::Problem }
    }

    pub(super) const fn not_ready() -> Self {
        let detail = Cow::Borrowed("no model serves yet");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, detail, field: None, shape: Shape::Problem }
    }

    /// The same, as another dialect tells it.
    #[must_use]
    pub(super) fn told(self, shape: Shape) -> Self {
        let status = match self.status {
            StatusCode::UNPROCESSABLE_ENTITY if shape != Shape::Problem => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self { status, shape, ..self }
    }

    /// The body; in NDJSON, the line in the place of the answer.
    pub(super) fn json(&self) -> Vec<u8> {
        let told = match self.shape {
            Shape::Problem => self.details(),
            Shape::Plain => serde_json::to_vec(&json!({"error": self.detail})),
            Shape::Mlflow => serde_json::to_vec(&json!({"error_code": self.error_code(), "message": self.detail})),
        };
        told.expect("strings and numbers can always be written")
    }

    /// MLflow's name for the kind of error.
    fn error_code(&self) -> &'static str {
        match self.status.as_u16() {
            404 => "RESOURCE_DOES_NOT_EXIST",
            401 | 403 => "PERMISSION_DENIED",
            503 => "TEMPORARILY_UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            500..=599 => "INTERNAL_ERROR",
            _ => "BAD_REQUEST",
        }
    }

    fn details(&self) -> serde_json::Result<Vec<u8>> {
        let details = Details {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            error: &self.detail,
            field: self.field.as_deref(),
        };
        serde_json::to_vec(&details)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let content_type = if self.shape == Shape::Problem { "application/problem+json" } else { "application/json" };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Syntax(_) => Self::new(StatusCode::BAD_REQUEST, error.to_string()),
            DecodeError::Features { field, message } => {
                let field = Some(cut(field, SENTENCE)).filter(|f| !f.is_empty());
                Self { field, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, message) }
            }
        }
    }
}

impl From<PredictError> for Problem {
    fn from(error: PredictError) -> Self {
        let status = match error {
            PredictError::NotReady | PredictError::Overloaded | PredictError::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            PredictError::Deadline => StatusCode::GATEWAY_TIMEOUT,
            PredictError::Model(_) | PredictError::NonFinite(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        let status = match error {
            ChangeError::Lost(_) => StatusCode::CONFLICT,
            ChangeError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ChangeError::Failed(_) => StatusCode::BAD_GATEWAY,
        };
        Self::new(status, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_repeated_of_a_request_is_cut() {
        let long = "é".repeat(1 << 20);
        let field = DecodeError::Features { field: long.clone(), message: long.clone() };
        for mut problem in [
            Problem::new(StatusCode::NOT_FOUND, long.clone()),
            Problem::from(field),
            Problem::from(DecodeError::Syntax(long)),
        ] {
            for shape in [Shape::Problem, Shape::Plain, Shape::Mlflow] {
                problem.shape = shape;
                let json = String::from_utf8(problem.json()).expect("UTF-8");
                assert!(json.len() < 3500 && json.contains("…\""), "{shape:?} {}", json.len());
            }
        }
    }
}
