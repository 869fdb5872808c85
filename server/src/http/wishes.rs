//! What a request's head asks for: how long its answer is of use, what it may overtake, and how it writes classes.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};

use super::error::Problem;
use super::head::find;
use crate::batch::{Call, Priority};
use crate::codec::Wishes;
use crate::codec::encode::Classes;
use crate::text::shown;

/// Milliseconds, by whoever calls.
const TIMEOUT: &str = "x-request-timeout-ms";
/// Milliseconds, by an Envoy in between.
const ENVOY: &str = "x-envoy-expected-rq-timeout-ms";
/// A number and a unit, by gRPC's clients.
const GRPC: &str = "grpc-timeout";
/// `high`, `normal` or `low`.
const PRIORITY: &str = "x-request-priority";
/// `array` or `map`.
const CLASSES: &str = "x-classes";

/// A call within the deadlines that the head gives.
///
/// # Errors
/// The header that cannot be read.
pub(super) fn narrow(call: Call, headers: &HeaderMap) -> Result<Call, Problem> {
    let mut call = call;
    for (name, value) in headers {
        let (name, parse) = match name.as_str() {
            TIMEOUT => (TIMEOUT, milliseconds as fn(&str) -> Option<Duration>),
            ENVOY => (ENVOY, milliseconds as fn(&str) -> Option<Duration>),
            GRPC => (GRPC, grpc as fn(&str) -> Option<Duration>),
            PRIORITY => {
                call.priority = match value.as_bytes() {
                    b"high" => Priority::High,
                    b"normal" => Priority::Normal,
                    b"low" => Priority::Low,
                    _ => return Err(unreadable(PRIORITY, value, "high, normal or low")),
                };
                continue;
            }
            _ => continue,
        };
        let timeout = value.to_str().ok().and_then(|text| parse(text.trim()));
        let timeout = timeout.ok_or_else(|| unreadable(name, value, "a whole number of milliseconds, such as 250"))?;
        call.deadline = call.deadline.min(call.start + timeout);
    }
    Ok(call)
}

/// How the answer writes probabilities of labelled classes.
///
/// # Errors
/// When the header cannot be read.
pub(super) fn classes(headers: &HeaderMap) -> Result<Classes, Problem> {
    match find(headers, CLASSES) {
        None => Ok(Classes::Array),
        Some(value) => match value.as_bytes() {
            b"array" => Ok(Classes::Array),
            b"map" => Ok(Classes::Map),
            _ => Err(unreadable(CLASSES, value, "array or map")),
        },
    }
}

/// A call as its body wishes it besides.
pub(super) fn apply(call: Call, wishes: Wishes) -> Call {
    let deadline = wishes.timeout.map_or(call.deadline, |timeout| call.deadline.min(call.start + timeout));
    let priority = if wishes.priority == 0 { call.priority } else { Priority::from_number(wishes.priority) };
    Call { deadline, priority, ..call }
}

fn unreadable(name: &str, value: &axum::http::HeaderValue, takes: &str) -> Problem {
    let shown = shown(&String::from_utf8_lossy(value.as_bytes()));
    let takes = if name == GRPC { "a whole number and a unit, such as 250m" } else { takes };
    Problem::new(StatusCode::BAD_REQUEST, format!("{name} is {shown:?}: send {takes}"))
}

fn milliseconds(text: &str) -> Option<Duration> {
    // As gRPC, at most eight digits: a day is enough for anybody.
    text.parse::<u32>().ok().filter(|_| text.len() <= 8).map(|ms| Duration::from_millis(ms.into()))
}

fn grpc(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount = u64::from(digits.parse::<u32>().ok().filter(|_| digits.len() <= 8)?);
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}
