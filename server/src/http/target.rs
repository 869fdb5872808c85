//! Which paths ask for predictions, in which dialect and of which model.

use std::sync::Arc;

use axum::http::{self, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};

use super::body::Incoming;
use super::error::{Problem, Shape};
use super::{State, kserve, mlflow, named, oip};

/// What a path asks for.
pub(super) enum Target<'a> {
    /// Named JSON of a model, or of the default one.
    Named(Option<&'a str>),
    /// Tensors of a model, perhaps of one of its versions, by the Open Inference Protocol.
    Infer(&'a str, Option<&'a str>),
    /// A model in KServe's protocol v1 and TensorFlow Serving's.
    V1(kserve::Target<'a>),
    /// The default model, or one that a header names, as MLflow and SageMaker ask.
    Invocations,
    /// The default model at Vertex AI's path.
    Vertex,
}

impl<'a> Target<'a> {
    /// `None` when the path does not ask for predictions.
    pub(super) fn of(state: &State, path: &'a str) -> Option<Self> {
        if state.routes_of_vertex.predict.as_deref() == Some(path) {
            return Some(Self::Vertex);
        }
        match path {
            "/predict" => return Some(Self::Named(None)),
            "/invocations" => return Some(Self::Invocations),
            _ if path.starts_with("/v1/") => return kserve::Target::of(path).map(Self::V1),
            _ => {}
        }
        if let Some(rest) = path.strip_prefix("/v2/models/") {
            let rest = rest.strip_suffix("/infer")?;
            let Some((name, version)) = rest.split_once('/') else { return Some(Self::Infer(rest, None)) };
            let version = version.strip_prefix("versions/").filter(|version| !version.contains('/'))?;
            return Some(Self::Infer(name, Some(version)));
        }
        let name = path.strip_prefix("/models/")?.strip_suffix("/predict")?;
        (!name.contains('/')).then_some(Self::Named(Some(name)))
    }

    /// How its errors are told.
    const fn shape(&self) -> Shape {
        match self {
            Self::Named(_) => Shape::Problem,
            Self::Infer(..) | Self::V1(_) | Self::Vertex => Shape::Plain,
            Self::Invocations => Shape::Mlflow,
        }
    }
}

/// Answers a request for which [`Target::of`] gave a target.
pub(super) async fn predict(state: &Arc<State>, request: http::Request<Incoming>) -> Response {
    let (head, body) = request.into_parts();
    let Some(target) = Target::of(state, head.uri.path()) else { return Problem::internal().into_response() };
    let shape = target.shape();
    if head.method != Method::POST {
        let mut response = Problem::wrong_method().told(shape).into_response();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let shared = || Arc::clone(state);
    // In boxes, so that the first, which is the smallest, does not take their room as well.
    let answer = match target {
        Target::Named(model) => named::predict(state, model, &head.headers, body).await,
        Target::Infer(model, version) => Box::pin(oip::infer(shared(), model, version, &head.headers, body)).await,
        Target::V1(target) => Box::pin(kserve::predict(shared(), target, &head.headers, body)).await,
        Target::Invocations => Box::pin(mlflow::predict(shared(), &head.headers, body)).await,
        Target::Vertex => Box::pin(kserve::predict_for_vertex(shared(), &head.headers, body)).await,
    };
    answer.unwrap_or_else(|problem| problem.told(shape).into_response())
}
