//! What every request gets: an id, a count and a duration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderName, HeaderValue, Method, Version, header};
use axum::middleware::Next;
use axum::response::Response;

use super::State;
use crate::metrics::{Metrics, RouteMetrics};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;

/// Metrics of each route, and the ids of requests that bring none.
pub(super) struct Routes {
    known: Vec<(&'static str, RouteMetrics)>,
    other: RouteMetrics,
    /// Differs between processes, so that ids of several servers do not collide.
    seed: u64,
    next: AtomicU64,
}

impl Routes {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        let paths = [
            "/predict",
            "/models/{model}/predict",
            "/readyz",
            "/livez",
            "/startupz",
            "/metrics",
            "/status",
            "/models/{model}/shadow",
        ];
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed =
            mix(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0) ^ u64::from(std::process::id()));
        Self {
            known: paths.into_iter().map(|path| (path, RouteMetrics::new(metrics, path))).collect(),
            other: RouteMetrics::new(metrics, "other"),
            seed,
            next: AtomicU64::new(0),
        }
    }

    fn of(&self, path: Option<&MatchedPath>) -> &RouteMetrics {
        let path = path.map_or("", MatchedPath::as_str);
        self.known.iter().find(|(known, _)| *known == path).map_or(&self.other, |(_, metrics)| metrics)
    }

    fn id(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let n = mix(self.seed.wrapping_add(self.next.fetch_add(1, Ordering::Relaxed)));
        let digits: [u8; 16] = std::array::from_fn(|i| HEX[usize::try_from(n >> (60 - 4 * i) & 15).unwrap_or(0)]);
        HeaderValue::from_bytes(&digits).expect("hexadecimal digits are a header value")
    }
}

/// The finaliser of SplitMix64: neighbouring numbers become unlike ones, one to one.
const fn mix(mut n: u64) -> u64 {
    n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

pub(super) async fn observe(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let given = request.headers().get(REQUEST_ID).filter(|id| id.len() <= LONGEST_ID && !id.is_empty()).cloned();
    let method = known(request.method());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let version = request.version();
    let mut response = next.run(request).await;
    let id = given.unwrap_or_else(|| state.routes.id());
    if response.status().is_server_error() || tracing::enabled!(tracing::Level::DEBUG) {
        let (status, route) = (response.status().as_u16(), path.as_ref().map_or("other", MatchedPath::as_str));
        let id = id.to_str().unwrap_or_default();
        tracing::debug!(id, method, route, status, took_us = start.elapsed().as_micros(), "answered");
    }
    response.headers_mut().insert(REQUEST_ID, id);
    if state.is_draining() && version == Version::HTTP_11 {
        // Clients go elsewhere with their next request, before this connection is closed under it.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    state.routes.of(path.as_ref()).record(method, response.status().as_u16(), start.elapsed());
    response
}

/// Methods are a closed set in the metrics.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
