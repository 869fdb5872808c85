//! `GET /` on the operations port: the console, a page on which people see how a challenger does, and promote it.
//!
//! The page is in the program, asks for nothing from anywhere else and is made of what the other paths of this port tell;
//! the only path of its own is the ledger.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, RawQuery, State as Shared};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::State;
use super::error::Problem;
use crate::promotion::{self, Record};
use crate::source::is_model_name;

/// Records of an answer, when the request does not say.
const RECORDS: usize = 20;
/// Records of an answer, at most: each is one read of the repository.
const MOST_RECORDS: usize = 100;
/// Ledgers that are read at a time. Each blocks a thread of the operations port for as long as an S3 server hangs.
static READS: Semaphore = Semaphore::const_new(2);

/// What browsers may do with the page: nothing that would leave this server, and no script that is not one of its files.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page.
pub(super) async fn page() -> Response {
    asset("text/html; charset=utf-8", include_str!("console/page.html"))
}

/// A file that the page asks for.
pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let script = "text/javascript; charset=utf-8";
    let (content_type, text) = match name.as_str() {
        "page.js" => (script, include_str!("console/page.js")),
        "parts.js" => (script, include_str!("console/parts.js")),
        "charts.js" => (script, include_str!("console/charts.js")),
        "change.js" => (script, include_str!("console/change.js")),
        "kit.js" => (script, include_str!("console/kit.js")),
        "words.js" => (script, include_str!("console/words.js")),
        "page.css" => ("text/css; charset=utf-8", include_str!("console/page.css")),
        "icon.svg" => ("image/svg+xml", include_str!("console/icon.svg")),
        _ => {
            let detail = "the console has no such file: open / on this port";
            return Err(Problem::new(StatusCode::NOT_FOUND, detail.into()));
        }
    };
    Ok(asset(content_type, text))
}

fn asset(content_type: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 4] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text).into_response()
}

/// Who changed what is served, the latest first.
#[derive(Serialize)]
struct Ledger {
    model: String,
    records: Vec<Record>,
}

/// The last records of a model's ledger, `?most=20` of them.
pub(super) async fn ledger(
    Shared(state): Shared<Arc<State>>,
    Path(model): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let most = most(query.as_deref()).map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let is_served = state.engine.lane(&model).is_some() || state.engine.reports().contains_key(&model);
    if !is_model_name(&model) || !is_served {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the repository has no such model".into()));
    }
    let permit = READS.try_acquire().map_err(|_| {
        let detail = "too many ledgers are read already: try again when the repository answers";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail.into())
    })?;
    let name = model.clone();
    let records = tokio::task::spawn_blocking(move || {
        // Reading goes on when whoever asked does not wait any more.
        let _permit = permit;
        read(&state, &name, most)
    });
    let records = records.await.map_err(|_| Problem::internal())?;
    let records = records.map_err(|error| {
        Problem::new(StatusCode::BAD_GATEWAY, format!("the ledger of {model} cannot be read: {error}"))
    })?;
    Ok(Json(Ledger { model, records }).into_response())
}

/// Repositories without an `aliases.json` have no ledger.
fn read(state: &State, model: &str, most: usize) -> Result<Vec<Record>, String> {
    let source = state.engine.source();
    let Some((aliases, _)) = promotion::present(source, model).map_err(|error| error.to_string())? else {
        return Ok(vec![]);
    };
    promotion::history(source, model, &aliases, most)
}

/// How many records a query asks for.
fn most(query: Option<&str>) -> Result<usize, String> {
    let mut most = RECORDS;
    for (name, value) in query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('=')) {
        if name == "most" {
            let number = value.parse().ok().filter(|number| (1..=MOST_RECORDS).contains(number));
            most = number.ok_or_else(|| format!("most must be a whole number from 1 to {MOST_RECORDS}"))?;
        }
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_how_many_records() {
        assert_eq!((most(None), most(Some("")), most(Some("more=7"))), (Ok(20), Ok(20), Ok(20)));
        assert_eq!((most(Some("most=1")), most(Some("a=b&most=100"))), (Ok(1), Ok(100)));
        for wrong in ["most=0", "most=101", "most=-1", "most=", "most=ten"] {
            assert!(most(Some(wrong)).is_err_and(|told| told.contains("1 to 100")), "{wrong}");
        }
    }

    /// Users wait for it on slow lines; and what is small can be read.
    #[test]
    fn the_page_is_small() {
        let files = [
            include_str!("console/page.html"),
            include_str!("console/page.js"),
            include_str!("console/parts.js"),
            include_str!("console/charts.js"),
            include_str!("console/change.js"),
            include_str!("console/kit.js"),
            include_str!("console/words.js"),
            include_str!("console/page.css"),
            include_str!("console/icon.svg"),
        ];
        let bytes: usize = files.iter().map(|file| file.len()).sum();
        assert!(bytes < 65 << 10, "{bytes} bytes");
    }
}
