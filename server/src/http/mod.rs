//! The HTTP doors: data (predictions) and operations (health, metrics, status), each a router without a socket.

mod admin;
mod error;
mod ndjson;
mod observe;
mod ops;
mod predict;
pub mod serve;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower::Service;

use crate::batch::Lane;
use crate::engine::Engine;
use error::Problem;
use observe::{Observe, Routes};
use tower_http::set_header::SetResponseHeaderLayer;

/// Bodies are counted in pieces of this many bytes. One that is smaller costs less than its connection and is not counted.
const BODY_UNIT: usize = 16 << 10;

/// What the doors let in.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The model that answers `/predict`; without one, the only model of the repository does.
    pub default_model: Option<String>,
    /// The file of the token that opens the admin calls; without one they are refused.
    pub admin_token: Option<PathBuf>,
    /// Bytes of a body.
    pub body_limit: usize,
    /// Bytes of all bodies at a time.
    pub bodies_limit: usize,
}

/// What the handlers share.
pub struct State {
    /// The models.
    pub engine: Engine,
    /// The model behind `/predict`.
    default_model: OnceLock<String>,
    /// The file of the token that opens the admin calls.
    admin_token: Option<PathBuf>,
    body_limit: usize,
    /// Room for all bodies together, in units of [`BODY_UNIT`].
    bodies: Semaphore,
    draining: AtomicBool,
    routes: Routes,
}

impl State {
    /// Requests to an engine, as the settings say.
    #[must_use]
    pub fn new(engine: Engine, doors: Doors) -> Arc<Self> {
        let Doors { default_model, admin_token, body_limit, bodies_limit } = doors;
        let routes = Routes::new(engine.metrics());
        let default_model = default_model.map(OnceLock::from).unwrap_or_default();
        let bodies = Semaphore::new((bodies_limit / BODY_UNIT).clamp(1, Semaphore::MAX_PERMITS));
        Arc::new(Self {
            engine,
            default_model,
            admin_token,
            body_limit,
            bodies,
            draining: AtomicBool::new(false),
            routes,
        })
    }

    /// Makes the server not ready; requests are still answered.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether the server takes traffic, and why not.
    fn readiness(&self) -> Result<(), &'static str> {
        if self.is_draining() {
            return Err("shutting down");
        }
        if self.default_model.get().is_some_and(|name| self.engine.lane(name).is_none()) {
            return Err("the default model does not serve, see /status on the operations port");
        }
        if self.engine.is_ready() { Ok(()) } else { Err("no model serves yet, see /status on the operations port") }
    }

    fn lane(&self, name: Option<&str>) -> Result<Arc<Lane>, Problem> {
        let lanes = self.engine.lanes();
        let names = || lanes.keys().cloned().collect::<Vec<_>>().join(", ");
        let Some(name) = name.or(self.default_model.get().map(String::as_str)) else {
            return match lanes.values().next() {
                Some(lane) if lanes.len() == 1 => {
                    // It stays the default when others join it later.
                    if self.engine.has_looked() {
                        self.default_model.get_or_init(|| lane.name.clone());
                    }
                    Ok(Arc::clone(lane))
                }
                Some(_) => Err(Problem::new(
                    StatusCode::NOT_FOUND,
                    format!(
                        "several models are served ({}): post to /models/{{model}}/predict, or name one with \
                         --default-model",
                        names()
                    ),
                )),
                None => Err(Problem::not_ready()),
            };
        };
        lanes.get(name).cloned().ok_or_else(|| {
            let shown: String = name.chars().take(128).collect();
            Problem::new(StatusCode::NOT_FOUND, format!("there is no model {shown:?}; served are: {}", names()))
        })
    }
}

/// What answers the requests of a listener.
pub trait Door:
    Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Door for S where
    S: Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

/// Predictions and the health that a load balancer asks for.
///
/// Predictions do not go through the router, which boxes two futures and a body for each request: 1 us of about 10.
pub fn data(state: Arc<State>) -> impl Door {
    let router = Router::new().route("/livez", get(ops::live)).route("/readyz", get(ops::ready));
    let (router, shared) = (finish(router, &state), Arc::clone(&state));
    let predictions = tower::service_fn(move |request: Request<Incoming>| {
        let (mut router, state) = (router.clone(), Arc::clone(&shared));
        async move {
            if predict::target(request.uri().path()).is_some() {
                return Ok(predict::predict(state, request).await.into_response());
            }
            router.call(request).await
        }
    });
    Observe::new(predictions, state)
}

/// Health, metrics and status.
pub fn operations(state: Arc<State>) -> impl Door {
    let router = Router::new()
        .route("/livez", get(ops::live))
        .route("/readyz", get(ops::ready_in_detail))
        .route("/startupz", get(ops::started))
        .route("/metrics", get(ops::metrics))
        .route("/status", get(ops::status))
        .route("/models/{model}/shadow", get(ops::shadow))
        .route("/models/{model}/reload", post(admin::reload))
        .route("/models/{model}/promote", post(admin::promote))
        .route("/models/{model}/rollback", post(admin::roll_back))
        // People open this port in a browser.
        .layer(SetResponseHeaderLayer::if_not_present(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    Observe::new(finish(router, &state), state)
}

fn finish(router: Router<Arc<State>>, state: &Arc<State>) -> Router {
    router
        .fallback(|| async {
            let detail = "there is nothing at this path; see the README for the endpoints";
            Problem::new(StatusCode::NOT_FOUND, detail.into())
        })
        .method_not_allowed_fallback(|| async { Problem::wrong_method() })
        .with_state(Arc::clone(state))
}
