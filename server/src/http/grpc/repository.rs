//! Which models there are, what was counted of them, and loading and unloading: what REST does, in messages.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::proto::repository_index_response::ModelIndex;
use super::proto::{
    InferBatchStatistics, InferStatistics, ModelStatistics, ModelStatisticsResponse, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, StatisticDuration,
};
use crate::http::oip::{repository, statistics};
use crate::http::token::Action;
use crate::http::{State, admin};

/// All versions that are known, or those that answer.
pub(super) fn index(state: &State, ready: bool) -> RepositoryIndexResponse {
    let models = repository::entries(state, ready).into_iter().map(|entry| ModelIndex {
        name: entry.name,
        version: entry.version.unwrap_or_default(),
        state: entry.state.into(),
        reason: entry.reason,
    });
    RepositoryIndexResponse { models: models.collect() }
}

/// Reads the repository now, and serves what it asks for.
pub(super) async fn load(
    state: &Arc<State>,
    request: Request<RepositoryModelLoadRequest>,
) -> Result<Response<RepositoryModelLoadResponse>, Status> {
    let headers = request.metadata().as_ref().clone();
    let RepositoryModelLoadRequest { repository_name, model_name, parameters } = request.into_inner();
    let model_name = named(repository_name, model_name);
    admin::admit(state, &headers, Action::Load, &model_name)?;
    repository::load_model(state, &model_name, parameters.keys()).await?;
    Ok(Response::new(RepositoryModelLoadResponse { model_name, is_loaded: true }))
}

/// Serves a model no more, until it is loaded or the server starts anew.
pub(super) async fn unload(
    state: &Arc<State>,
    request: Request<RepositoryModelUnloadRequest>,
) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
    let headers = request.metadata().as_ref().clone();
    let RepositoryModelUnloadRequest { repository_name, model_name, .. } = request.into_inner();
    let model_name = named(repository_name, model_name);
    admin::admit(state, &headers, Action::Unload, &model_name)?;
    repository::unload_model(state, &model_name).await?;
    Ok(Response::new(RepositoryModelUnloadResponse { model_name, is_unloaded: true }))
}

/// KServe's clients send the name in the field that is the repository's in Triton's protocol.
fn named(repository: String, model: String) -> String {
    if model.is_empty() { repository } else { model }
}

/// What was counted of a model, or of all when no name is given.
pub(super) fn statistics(state: &State, name: &str, version: &str) -> Result<ModelStatisticsResponse, Status> {
    let all = statistics::of(state, Some(name).filter(|name| !name.is_empty()), super::version(version))?;
    Ok(ModelStatisticsResponse { model_stats: all.model_stats.into_iter().map(Into::into).collect() })
}

impl From<statistics::OfModel> for ModelStatistics {
    fn from(of: statistics::OfModel) -> Self {
        let some = |duration: statistics::Duration| Some(StatisticDuration { count: duration.count, ns: duration.ns });
        let batch_stats = of.batch_stats.into_iter().map(|batch| InferBatchStatistics {
            batch_size: batch.batch_size as u64,
            compute_input: some(batch.compute_input),
            compute_infer: some(batch.compute_infer),
            compute_output: some(batch.compute_output),
        });
        let stats = of.inference_stats;
        Self {
            name: of.name,
            version: of.version,
            last_inference: of.last_inference,
            inference_count: of.inference_count,
            execution_count: of.execution_count,
            inference_stats: Some(InferStatistics {
                success: some(stats.success),
                fail: some(stats.fail),
                queue: some(stats.queue),
                compute_input: some(stats.compute_input),
                compute_infer: some(stats.compute_infer),
                compute_output: some(stats.compute_output),
                cache_hit: some(stats.cache_hit),
                cache_miss: some(stats.cache_miss),
            }),
            batch_stats: batch_stats.collect(),
        }
    }
}
