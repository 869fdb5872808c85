//! The gRPC door: the Open Inference Protocol with Triton's additions, health and reflection, over HTTP/2.
//!
//! Predictions do not go through tonic's services: their messages are received as HTTP bodies are, within the same limits
//! and the same room for all of them, and large ones are decoded where they keep nobody waiting. Everything else does.

mod health;
mod infer;
mod model;
mod repository;
mod status;
pub mod tensors;
mod wire;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use self::proto::grpc_inference_service_server::GrpcInferenceServiceServer;
use super::error::Problem;
use super::head::find;
use super::observe::{Counted, Observe, REQUEST_ID};
use super::{Door, State};

/// The messages and the service, as they are generated from `proto/inference.proto`.
pub mod proto {
    #![allow(missing_docs, unreachable_pub, clippy::derive_partial_eq_without_eq, reason = "generated")]
    tonic::include_proto!("inference");

    /// The description that reflection gives to clients.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/inference.bin"));
}

/// The service's full name.
pub const SERVICE: &str = "inference.GRPCInferenceService";

/// The calls that predict.
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";
const STREAM_INFER: &str = "/inference.GRPCInferenceService/ModelStreamInfer";
/// Messages that are no predictions are small.
const SMALL_MESSAGE: usize = 64 << 10;
/// How long a call that is no prediction may take until its answer begins; the longest reads the repository.
const LONGEST_CALL: Duration = Duration::from_secs(60);

/// The Open Inference Protocol over gRPC. `stopped` becomes true when calls that stay open have to end.
pub fn door(state: Arc<State>, stopped: watch::Receiver<bool>) -> impl Door {
    let (router, shared) = (router(&state, &stopped), Arc::clone(&state));
    let calls = move |mut request: Request<Incoming>, id| {
        request.headers_mut().insert(REQUEST_ID, HeaderValue::from(id));
        let state = Arc::clone(&shared);
        // Nearly all calls are this one, and need nothing of the others.
        let others = (request.uri().path() != INFER).then(|| (router.clone(), stopped.clone()));
        async move {
            let answer = async move {
                match others {
                    _ if !is_grpc(&request) => refused(),
                    None => infer::one(state, request).await,
                    Some((router, stopped)) => Box::pin(answer(router, state, stopped, request)).await,
                }
            };
            // The panic itself was written to the log by the panic hook.
            let response = AssertUnwindSafe(answer).catch_unwind().await;
            let mut response = response.unwrap_or_else(|_| Status::from(Problem::internal()).into_http());
            if let Some(code) = response.headers().get(Status::GRPC_STATUS) {
                let counted = Counted(status::http(Code::from_bytes(code.as_bytes())));
                response.extensions_mut().insert(counted);
            }
            Ok::<_, Infallible>(response)
        }
    };
    Observe::new(calls, state)
}

/// The version that is asked for: an empty text is none.
fn version(version: &str) -> Option<&str> {
    Some(version).filter(|version| !version.is_empty())
}

fn router(state: &Arc<State>, stopped: &watch::Receiver<bool>) -> Router {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let sound = "descriptors that the build made can be read";
    let service = GrpcInferenceServiceServer::new(model::Service(Arc::clone(state)))
        .max_decoding_message_size(SMALL_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip);
    Routes::new(service)
        .add_service(health::service(Arc::clone(state), stopped.clone()))
        .add_service(reflection().build_v1().expect(sound).max_decoding_message_size(SMALL_MESSAGE))
        .add_service(reflection().build_v1alpha().expect(sound).max_decoding_message_size(SMALL_MESSAGE))
        .prepare()
        .into_axum_router()
}

/// Whether nothing is at a path, of which tonic says no more than that.
fn is_unknown(response: &Response) -> bool {
    let code = response.headers().get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    code == Some(Code::Unimplemented) && !response.headers().contains_key(Status::GRPC_MESSAGE)
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = find(request.headers(), "content-type").and_then(|value| value.to_str().ok());
    let rest = content_type.and_then(|content_type| content_type.strip_prefix("application/grpc"));
    request.version() == Version::HTTP_2 && rest.is_some_and(|rest| !rest.starts_with("-web"))
}

fn refused() -> Response {
    let detail = "this port speaks gRPC over HTTP/2: JSON over HTTP is on the port of --http";
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail.into()).into_response()
}

/// Answers a call that is not [`INFER`].
async fn answer(
    mut router: Router,
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
    request: Request<Incoming>,
) -> Response {
    if request.uri().path() == STREAM_INFER {
        return infer::many(state, stopped, request);
    }
    let path: String = request.uri().path().chars().take(128).collect();
    let answer = tokio::time::timeout(LONGEST_CALL, router.call(request)).await;
    match answer {
        Ok(Ok(response)) if path.starts_with("/grpc.reflection.") => response.map(|body| wire::until(stopped, body)),
        Ok(Ok(response)) if is_unknown(&response) => {
            Status::unimplemented(format!("{path} is not offered: docs/protocols.md says what is")).into_http()
        }
        Ok(Ok(response)) => response,
        Err(_) => Status::deadline_exceeded("the request did not arrive in time").into_http(),
    }
}
