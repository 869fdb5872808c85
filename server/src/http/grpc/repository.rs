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
use crate::http::{State, admin};
use crate::model::Model;
use crate::model::usage::{Counts, Total};

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
    admin::admit(state, request.metadata().as_ref())?;
    let RepositoryModelLoadRequest { repository_name, model_name, parameters } = request.into_inner();
    let model_name = named(repository_name, model_name);
    repository::load_model(state, &model_name, parameters.keys()).await?;
    Ok(Response::new(RepositoryModelLoadResponse { model_name, is_loaded: true }))
}

/// Serves a model no more, until it is loaded or the server starts anew.
pub(super) async fn unload(
    state: &Arc<State>,
    request: Request<RepositoryModelUnloadRequest>,
) -> Result<Response<RepositoryModelUnloadResponse>, Status> {
    admin::admit(state, request.metadata().as_ref())?;
    let RepositoryModelUnloadRequest { repository_name, model_name, .. } = request.into_inner();
    let model_name = named(repository_name, model_name);
    repository::unload_model(state, &model_name).await?;
    Ok(Response::new(RepositoryModelUnloadResponse { model_name, is_unloaded: true }))
}

/// KServe's clients send the name in the field that is the repository's in Triton's protocol.
fn named(repository: String, model: String) -> String {
    if model.is_empty() { repository } else { model }
}

/// What was counted of a model, or of all when no name is given.
pub(super) fn statistics(state: &State, name: &str, version: &str) -> Result<ModelStatisticsResponse, Status> {
    let models = statistics::models(state, Some(name).filter(|name| !name.is_empty()), super::version(version))?;
    Ok(ModelStatisticsResponse { model_stats: models.iter().map(|(name, model)| counted(name, model)).collect() })
}

fn counted(name: &str, model: &Model) -> ModelStatistics {
    let Counts { last_run_ms, rows, runs, success, fail, queue, input, infer, batches } = model.usage.counts();
    let some = |total: Total| Some(StatisticDuration { count: total.count, ns: total.ns });
    // Outputs are not moved before they are encoded, and there is no cache of answers.
    let none = |count| Some(StatisticDuration { count, ns: 0 });
    let batch_stats = batches.into_iter().map(|batch| InferBatchStatistics {
        batch_size: batch.rows as u64,
        compute_input: some(batch.input),
        compute_infer: some(batch.infer),
        compute_output: none(batch.infer.count),
    });
    ModelStatistics {
        name: name.into(),
        version: model.id.version.clone(),
        last_inference: last_run_ms,
        inference_count: rows,
        execution_count: runs,
        inference_stats: Some(InferStatistics {
            success: some(success),
            fail: some(fail),
            queue: some(queue),
            compute_input: some(input),
            compute_infer: some(infer),
            compute_output: none(infer.count),
            cache_hit: none(0),
            cache_miss: none(0),
        }),
        batch_stats: batch_stats.collect(),
    }
}
