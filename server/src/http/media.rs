//! What a body is, by its `Content-Type`.

use axum::http::{HeaderMap, StatusCode};

use super::error::Problem;
use super::head::find;
use crate::text::shown;

/// The value of a `Content-Type`; empty when there is none.
pub(super) struct Media<'a>(&'a str);

impl<'a> Media<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> Self {
        Self(find(headers, "content-type").and_then(|value| value.to_str().ok()).unwrap_or_default())
    }

    /// Whether it is exactly this, as most clients write it.
    pub(super) fn is(&self, value: &str) -> bool {
        self.0 == value
    }

    /// The type without its parameters, in small letters.
    pub(super) fn essence(&self) -> String {
        self.0.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// Names and values.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let parameters = self.0.split(';').skip(1).map(str::trim).filter(|parameter| !parameter.is_empty());
        parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
    }

    /// It is none of those that are taken here.
    pub(super) fn refused(&self, send: &str) -> Problem {
        let what = if self.essence().is_empty() {
            "there is no Content-Type".to_owned()
        } else {
            format!("Content-Type {:?} is not taken", shown(self.0))
        };
        unsupported(format!("{what}: send {send}"))
    }

    /// It has a parameter that is not taken.
    pub(super) fn refused_for(&self, parameter: &str) -> Problem {
        unsupported(format!("Content-Type {:?} {parameter}", shown(self.0)))
    }
}

fn unsupported(detail: String) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
}

/// Whether a type is that of one JSON object a line.
pub(super) fn is_lines(essence: &str) -> bool {
    ["application/x-ndjson", "application/ndjson", "application/jsonl"].contains(&essence)
}
