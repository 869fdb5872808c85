//! What every request gets: an id, a count and a duration.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Instant, SystemTime};

use axum::http::{self, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tower::Service;

use super::State;
use super::error::Problem;
use super::head::find;
use crate::metrics::{Metrics, RouteMetrics};
use crate::verdict::state::mix;

/// The request's name, its client's or ours.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;

/// The routes that metrics tell apart; `*` is the name of a model or of a version. The first that fits counts.
const PATHS: &[&str] = &[
    "/predict",
    "/",
    "/openapi.json",
    "/models/*/openapi.json",
    "/docs",
    "/docs/*",
    "/models/*/predict",
    "/feedback",
    "/models/*/feedback",
    "/v2/models/*/infer",
    "/v2/models/*/versions/*/infer",
    "/readyz",
    "/livez",
    "/startupz",
    "/metrics",
    "/status",
    "/models/*/shadow",
    "/models/*/labels",
    "/models/*/ledger",
    "/models/*/verdict",
    "/models/*/promote",
    "/models/*/rollback",
    "/models/*/reload",
    "/console/*",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models",
    "/v2/models/stats",
    "/v2/models/*",
    "/v2/models/*/ready",
    "/v2/models/*/config",
    "/v2/models/*/stats",
    "/v2/models/*/versions/*",
    "/v2/models/*/versions/*/ready",
    "/v2/models/*/versions/*/config",
    "/v2/models/*/versions/*/stats",
    "/v2/repository/index",
    "/v2/repository/models/*/load",
    "/v2/repository/models/*/unload",
    "/invocations",
    "/ping",
    "/health",
    "/version",
    "/v1/models/*:predict",
    "/v1/models/*/versions/*:predict",
    "/v1/models/*/labels/*:predict",
    "/v1/models",
    "/v1/models/*",
    "/v1/models/*/versions/*",
    "/v1/models/*/labels/*",
    "/v1/models/*/metadata",
    "/v1/models/*/versions/*/metadata",
    "/v1/models/*/labels/*/metadata",
    VERTEX,
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/ModelConfig",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ModelStatistics",
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/RepositoryModelLoad",
    "/inference.GRPCInferenceService/RepositoryModelUnload",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerMetadata",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// All paths that Vertex AI chose.
const VERTEX: &str = "vertex";

/// Which of [`PATHS`] a path is. The router knows as well, but counting inside of it would box every request twice.
fn route(state: &State, path: &str) -> Option<usize> {
    let path = if state.routes_of_vertex.has(path) { VERTEX } else { path };
    PATHS.iter().position(|pattern| *pattern == path).or_else(|| PATHS.iter().position(|pattern| fits(pattern, path)))
}

fn fits(pattern: &str, path: &str) -> bool {
    let mut parts = path.split('/');
    let all = pattern.split('/').all(|wanted| {
        parts.next().is_some_and(|part| match wanted.strip_prefix('*') {
            None => part == wanted,
            // `*:predict` is a name and a verb.
            Some(verb) => part.strip_suffix(verb).is_some_and(|name| !name.is_empty()),
        })
    });
    all && parts.next().is_none()
}

/// Metrics of each route, and the ids of requests that bring none.
pub(super) struct Routes {
    known: Vec<RouteMetrics>,
    other: RouteMetrics,
    /// Differs between processes, so that ids of several servers do not collide.
    seed: u64,
    next: AtomicU64,
}

impl Routes {
    pub(super) fn new(metrics: &Arc<Metrics>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed =
            mix(u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0) ^ u64::from(std::process::id()));
        Self {
            known: PATHS.iter().map(|path| RouteMetrics::new(metrics, path)).collect(),
            other: RouteMetrics::new(metrics, "other"),
            seed,
            next: AtomicU64::new(0),
        }
    }

    fn of(&self, route: Option<usize>) -> &RouteMetrics {
        route.and_then(|i| self.known.get(i)).unwrap_or(&self.other)
    }

    fn id(&self) -> RequestId {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let n = mix(self.seed.wrapping_add(self.next.fetch_add(1, Ordering::Relaxed)));
        RequestId::Made(std::array::from_fn(|i| HEX[usize::try_from(n >> (60 - 4 * i) & 15).unwrap_or(0)]))
    }
}

/// The request's name.
#[derive(Clone)]
pub(super) enum RequestId {
    /// By its client.
    Given(HeaderValue),
    /// By us: hexadecimal digits.
    Made([u8; 16]),
}

impl RequestId {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Given(value) => value.as_bytes(),
            Self::Made(digits) => digits,
        }
    }
}

impl From<RequestId> for HeaderValue {
    fn from(id: RequestId) -> Self {
        match id {
            RequestId::Given(value) => value,
            RequestId::Made(digits) => Self::from_bytes(&digits).expect("hexadecimal digits are a header value"),
        }
    }
}

/// In an answer's extensions: what is counted in the place of its status, which gRPC tells otherwise.
#[derive(Clone, Copy)]
pub(super) struct Counted(pub(super) StatusCode);

/// Stands around all handlers: counts and times each request, names it, and turns a panic into an answer.
///
/// A service of its own rather than `axum::middleware::from_fn` and `tower_http`'s `CatchPanic`, which would box a future
/// and a body each, for every prediction.
#[derive(Clone)]
pub(super) struct Observe<A> {
    /// Answers a request of a name.
    answer: A,
    state: Arc<State>,
}

impl<A> Observe<A> {
    pub(super) const fn new(answer: A, state: Arc<State>) -> Self {
        Self { answer, state }
    }
}

impl<A, F> Service<http::Request<Incoming>> for Observe<A>
where
    A: Fn(http::Request<Incoming>, RequestId) -> F,
    F: Future<Output = Result<Response, Infallible>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Observed<F>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Incoming>) -> Observed<F> {
        let start = Instant::now();
        let given = find(request.headers(), REQUEST_ID.as_str()).filter(|id| (1..=LONGEST_ID).contains(&id.len()));
        let id = given.map_or_else(|| self.state.routes.id(), |id| RequestId::Given(id.clone()));
        let about = About {
            start,
            id: id.clone(),
            method: known(request.method()),
            version: request.version(),
            route: route(&self.state, request.uri().path()),
        };
        Observed {
            inner: AssertUnwindSafe((self.answer)(request, id)).catch_unwind(),
            state: Arc::clone(&self.state),
            about,
        }
    }
}

/// What is remembered of a request until its answer.
struct About {
    start: Instant,
    id: RequestId,
    method: &'static str,
    version: Version,
    route: Option<usize>,
}

pin_project! {
    /// The answer to come.
    pub(super) struct Observed<F> {
        #[pin]
        inner: CatchUnwind<AssertUnwindSafe<F>>,
        state: Arc<State>,
        about: About,
    }
}

impl<F: Future<Output = Result<Response, Infallible>>> Future for Observed<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(context));
        let mut response = match result {
            Ok(Ok(response)) => response,
            // The panic itself was written to the log by the panic hook.
            Err(_) => Problem::internal().into_response(),
        };
        this.about.finish(this.state, &mut response);
        Poll::Ready(Ok(response))
    }
}

impl About {
    fn finish(&mut self, state: &State, response: &mut Response) {
        let id = std::mem::replace(&mut self.id, RequestId::Made([0; 16]));
        let status = response.extensions().get().map_or(response.status(), |Counted(status)| *status).as_u16();
        let took = self.start.elapsed();
        tracing::debug!(
            id = str::from_utf8(id.as_bytes()).unwrap_or_default(),
            method = self.method,
            route = self.route.map_or("other", |i| PATHS[i]),
            status,
            took_us = took.as_micros(),
            "answered"
        );
        response.headers_mut().insert(REQUEST_ID, id.into());
        if state.is_draining() && self.version == Version::HTTP_11 {
            // Clients go elsewhere with their next request, before this connection is closed under it.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        state.routes.of(self.route).record(self.method, status, took);
    }
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
