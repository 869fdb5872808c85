//! Looking into a request's head.

use axum::http::{HeaderMap, HeaderValue};

/// The first header of a name in small letters. A head has a few headers and is asked for a dozen that it mostly lacks: to
/// compare the names is a tenth of the work of hashing one.
pub(super) fn find<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    headers.iter().find(|(other, _)| other.as_str() == name).map(|(_, value)| value)
}
