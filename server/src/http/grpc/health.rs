//! `grpc.health.v1.Health`: of the server under no name and under the service's, and of each model under its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use tokio::sync::watch;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{SERVICE, SMALL_MESSAGE};
use crate::http::State;

/// How often a watched status is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn service(state: Arc<State>, stopped: watch::Receiver<bool>) -> HealthServer<Told> {
    HealthServer::new(Told { state, stopped })
        .max_decoding_message_size(SMALL_MESSAGE)
        .accept_compressed(CompressionEncoding::Gzip)
}

/// The state, asked at each call, so that it is never late.
#[derive(Clone)]
pub(super) struct Told {
    state: Arc<State>,
    stopped: watch::Receiver<bool>,
}

impl Told {
    /// `None` for a name that is neither the service's nor a model's.
    fn status(&self, service: &str) -> Option<ServingStatus> {
        let serves = if service.is_empty() || service == SERVICE {
            self.state.readiness().is_ok()
        } else if self.state.engine.lane(service).is_some() {
            !self.state.is_draining()
        } else if self.state.engine.reports().contains_key(service) {
            false
        } else {
            return None;
        };
        Some(if serves { ServingStatus::Serving } else { ServingStatus::NotServing })
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Told {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let status = self.status(&request.into_inner().service);
        let unknown = || Status::not_found("name a model, the service, or nothing for the server as a whole");
        Ok(Response::new(response(status.ok_or_else(unknown)?)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let start = (self.clone(), request.into_inner().service, None);
        let changes = stream::unfold(start, |(mut told, service, last)| async move {
            loop {
                let now = told.status(&service).unwrap_or(ServingStatus::ServiceUnknown);
                if last != Some(now) {
                    return Some((Ok(response(now)), (told, service, Some(now))));
                }
                if *told.stopped.borrow() {
                    return None;
                }
                tokio::select! {
                    () = tokio::time::sleep(LOOK) => {}
                    // The sender lives as long as the server.
                    _ = told.stopped.changed() => {}
                }
            }
        });
        Ok(Response::new(changes.boxed()))
    }
}
