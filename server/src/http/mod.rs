//! The HTTP doors: data (predictions), gRPC and operations (health, metrics, status), each a service without a socket.

mod admin;
mod body;
mod caller;
mod compress;
mod connection;
mod console;
mod dialect;
mod error;
mod feedback;
pub mod grpc;
mod head;
mod kserve;
mod media;
mod mlflow;
mod named;
mod ndjson;
mod observe;
mod oip;
mod openapi;
mod ops;
mod origin;
pub mod serve;
mod target;
pub mod tls;
mod token;
mod unread;
mod verdict;
mod wishes;

use std::convert::Infallible;
use std::future::ready;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::http::header::X_CONTENT_TYPE_OPTIONS;
use axum::http::{HeaderValue, Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use futures_util::future::Either;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tower::{Service, ServiceExt};

use crate::batch::Lane;
use crate::engine::Engine;
use crate::model::Model;
use crate::serving::ServingSet;
use caller::Hosts;
use error::{Problem, Shape};
use observe::{Observe, Routes};
use tower_http::set_header::SetResponseHeaderLayer;

/// Bodies are counted in pieces of this many bytes. One that is smaller costs less than its connection and is not counted.
const BODY_UNIT: usize = 16 << 10;

/// What the doors let in.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The model that answers `/predict`; without one, the only model of the repository does.
    pub default_model: Option<String>,
    /// The file of the tokens that open the admin calls; without one they are refused.
    pub admin_token: Option<PathBuf>,
    /// Hosts by which the operations port may be asked, and whose pages may send what changes anything.
    pub allowed_hosts: Vec<String>,
    /// Bytes of a body.
    pub body_limit: usize,
    /// Bytes of all bodies at a time.
    pub bodies_limit: usize,
    /// Paths that Vertex AI asks for.
    pub vertex: Vertex,
}

/// Paths that Vertex AI chooses.
#[derive(Clone, Debug, Default)]
pub struct Vertex {
    /// Where predictions are asked for.
    pub predict: Option<String>,
    /// Where readiness is asked for.
    pub health: Option<String>,
}

impl Vertex {
    fn has(&self, path: &str) -> bool {
        [&self.predict, &self.health].into_iter().flatten().any(|route| route == path)
    }
}

/// What the handlers share.
pub struct State {
    /// The models.
    pub engine: Engine,
    /// The model behind `/predict`.
    default_model: OnceLock<String>,
    /// The file of the tokens that open the admin calls.
    admin_token: Option<PathBuf>,
    hosts: Hosts,
    body_limit: usize,
    /// Room for all bodies together, in units of [`BODY_UNIT`].
    bodies: Semaphore,
    draining: AtomicBool,
    routes: Routes,
    routes_of_vertex: Vertex,
}

impl State {
    /// Requests to an engine, as the settings say.
    #[must_use]
    pub fn new(engine: Engine, doors: Doors) -> Arc<Self> {
        let Doors { default_model, admin_token, allowed_hosts, body_limit, bodies_limit, vertex } = doors;
        let routes = Routes::new(engine.metrics());
        let default_model = default_model.map(OnceLock::from).unwrap_or_default();
        let bodies = Semaphore::new((bodies_limit / BODY_UNIT).clamp(1, Semaphore::MAX_PERMITS));
        Arc::new(Self {
            engine,
            default_model,
            admin_token,
            hosts: Hosts::of(&allowed_hosts),
            body_limit,
            bodies,
            draining: AtomicBool::new(false),
            routes,
            routes_of_vertex: vertex,
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

    /// The set that answers for a model, if it answers as the version that is asked for.
    fn find(&self, model: &str, version: Option<&str>) -> Result<(Arc<Lane>, Arc<ServingSet>), Problem> {
        let lane = self.lane(Some(model)).map_err(|problem| {
            if !self.engine.is_unloaded(model) {
                return problem;
            }
            let detail =
                format!("model {model:?} is unloaded: POST /v2/repository/models/{model}/load serves it again");
            Problem::new(StatusCode::NOT_FOUND, detail)
        })?;
        let set = lane.serving.get().ok_or_else(Problem::not_ready)?;
        if let Some(version) = version
            && version != set.champion.id.version
        {
            return Err(Problem::new(StatusCode::NOT_FOUND, other_version(&set, version)));
        }
        Ok((lane, set))
    }
}

fn other_version(set: &ServingSet, version: &str) -> String {
    let shown: String = version.chars().take(64).collect();
    let is = |model: &Model| model.id.version == version;
    let what = if set.challengers.iter().any(|challenger| is(challenger.model())) {
        "is a challenger, which scores in the shadow"
    } else if set.previous.as_ref().is_some_and(|previous| is(previous)) {
        "is the champion before it, which is kept for a rollback"
    } else {
        "is not in memory"
    };
    format!("version {} of the model answers; version {shown:?} {what}", set.champion.id.version)
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
    let mut router = Router::new()
        .route("/", get(kserve::root))
        .route("/livez", get(ops::live))
        .route("/readyz", get(ops::ready))
        .route("/openapi.json", get(openapi::all))
        .route("/models/{model}/openapi.json", get(openapi::one))
        .route("/docs", get(openapi::page))
        .route("/docs/page.js", get(openapi::script))
        .route("/docs/page.css", get(openapi::style))
        .route("/v2", any(oip::ask))
        .route("/v2/{*rest}", any(oip::ask))
        .route("/v2/", any(oip::ask))
        .route("/feedback", post(feedback::of_default))
        .route("/models/{model}/feedback", post(feedback::of_model))
        .route("/ping", get(mlflow::ping))
        .route("/health", get(mlflow::ping))
        .route("/version", get(mlflow::version))
        .route("/v1/models", get(kserve::list));
    for of in ["/v1/models/{model}", "/v1/models/{model}/versions/{version}", "/v1/models/{model}/labels/{label}"] {
        router = router.route(of, get(kserve::status)).route(&format!("{of}/metadata"), get(kserve::metadata));
    }
    let (router, shared) = (finish(router, &state), Arc::clone(&state));
    let answer = move |request: Request<Incoming>, id| {
        let (router, state) = (router.clone(), Arc::clone(&shared));
        let request = body::Incoming::of(request, id);
        // In a box: on its way through its wrappers it is moved several times.
        Box::pin(async move {
            let accepted = compress::accepted(request.headers());
            let path = request.uri().path();
            let response = if let Some(problem) = state.hosts.refuse(&request) {
                problem.told(shape_of(path)).into_response()
            } else if target::Target::of(&state, path).is_some() {
                target::predict(&state, request).await
            } else if state.routes_of_vertex.health.as_deref() == Some(path) && *request.method() == Method::GET {
                mlflow::ping(axum::extract::State(state)).await
            } else {
                // In a box of its own, so that predictions do not take its room as well.
                Box::pin(router.oneshot(request)).await?
            };
            Ok(compress::answer(accepted.as_ref(), response))
        })
    };
    Observe::new(answer, state)
}

/// Health, metrics and status.
pub fn operations(state: Arc<State>) -> impl Door {
    let router = Router::new()
        .route("/livez", get(ops::live))
        .route("/readyz", get(ops::ready_in_detail))
        .route("/startupz", get(ops::started))
        .route("/metrics", get(ops::metrics))
        .route("/status", get(ops::status))
        .route("/", get(console::page))
        .route("/console/{file}", get(console::file))
        .route("/models/{model}/ledger", get(console::ledger))
        .route("/models/{model}/shadow", get(ops::shadow))
        .route("/models/{model}/labels", post(feedback::passed_on))
        .route("/models/{model}/verdict", get(verdict::verdict))
        .route("/models/{model}/reload", post(admin::reload))
        .route("/models/{model}/promote", post(admin::promote))
        .route("/models/{model}/rollback", post(admin::roll_back))
        // People open this port in a browser.
        .layer(SetResponseHeaderLayer::if_not_present(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    let router = finish(router, &state);
    let shared = Arc::clone(&state);
    let answer = move |request: Request<Incoming>, id| match shared.hosts.refuse_operations(&request) {
        Some(problem) => Either::Left(ready(Ok(problem.into_response()))),
        None => Either::Right(router.clone().oneshot(body::Incoming::of(request, id))),
    };
    Observe::new(answer, state)
}

/// How errors are told under a path that no dialect has.
fn shape_of(path: &str) -> Shape {
    if path.starts_with("/v1/") { Shape::Plain } else { Shape::Problem }
}

fn finish(router: Router<Arc<State>>, state: &Arc<State>) -> Router {
    router
        .fallback(|uri: Uri| async move {
            let detail = "there is nothing at this path; see docs/protocols.md, or GET /docs on the data port";
            Problem::new(StatusCode::NOT_FOUND, detail.into()).told(shape_of(uri.path()))
        })
        .method_not_allowed_fallback(|uri: Uri| async move { Problem::wrong_method().told(shape_of(uri.path())) })
        .with_state(Arc::clone(state))
}
