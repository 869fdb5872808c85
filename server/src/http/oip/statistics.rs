//! What models did since they were loaded, in the form that Triton's clients read.

use std::sync::Arc;

use axum::http::StatusCode;
use serde::Serialize;

use super::super::State;
use super::super::error::Problem;
use crate::model::Model;
use crate::model::usage::{Counts, Total};

/// `GET /v2/models/stats`.
#[derive(Serialize)]
pub(in crate::http) struct All {
    pub(in crate::http) model_stats: Vec<OfModel>,
}

#[derive(Serialize)]
pub(in crate::http) struct OfModel {
    pub(in crate::http) name: String,
    pub(in crate::http) version: String,
    /// Milliseconds since 1970.
    pub(in crate::http) last_inference: u64,
    pub(in crate::http) inference_count: u64,
    pub(in crate::http) execution_count: u64,
    pub(in crate::http) inference_stats: Inference,
    pub(in crate::http) batch_stats: Vec<Batch>,
}

#[derive(Serialize)]
pub(in crate::http) struct Inference {
    pub(in crate::http) success: Duration,
    pub(in crate::http) fail: Duration,
    pub(in crate::http) queue: Duration,
    pub(in crate::http) compute_input: Duration,
    pub(in crate::http) compute_infer: Duration,
    /// Outputs are not moved or copied before they are encoded.
    pub(in crate::http) compute_output: Duration,
    /// There is no cache of answers.
    pub(in crate::http) cache_hit: Duration,
    pub(in crate::http) cache_miss: Duration,
}

#[derive(Serialize)]
pub(in crate::http) struct Batch {
    pub(in crate::http) batch_size: usize,
    pub(in crate::http) compute_input: Duration,
    pub(in crate::http) compute_infer: Duration,
    pub(in crate::http) compute_output: Duration,
}

#[derive(Clone, Copy, Default, Serialize)]
pub(in crate::http) struct Duration {
    pub(in crate::http) count: u64,
    pub(in crate::http) ns: u64,
}

impl From<Total> for Duration {
    fn from(total: Total) -> Self {
        Self { count: total.count, ns: total.ns }
    }
}

/// No time, as often.
const fn none(total: Total) -> Duration {
    Duration { count: total.count, ns: 0 }
}

impl OfModel {
    fn of(name: &str, model: &Model) -> Self {
        let Counts { last_run_ms, rows, runs, success, fail, queue, input, infer, batches } = model.usage.counts();
        let batch_stats = batches.into_iter().map(|batch| Batch {
            batch_size: batch.rows,
            compute_input: batch.input.into(),
            compute_infer: batch.infer.into(),
            compute_output: none(batch.infer),
        });
        Self {
            name: name.into(),
            version: model.id.version.clone(),
            last_inference: last_run_ms,
            inference_count: rows,
            execution_count: runs,
            inference_stats: Inference {
                success: success.into(),
                fail: fail.into(),
                queue: queue.into(),
                compute_input: input.into(),
                compute_infer: infer.into(),
                compute_output: none(infer),
                cache_hit: Duration::default(),
                cache_miss: Duration::default(),
            },
            batch_stats: batch_stats.collect(),
        }
    }
}

/// The statistics of one model or of all: the champion's first, then those of the champion before, while that is in memory.
pub(in crate::http) fn of(state: &State, model: Option<&str>, version: Option<&str>) -> Result<All, Problem> {
    let models = models(state, model, version)?;
    Ok(All { model_stats: models.iter().map(|(name, model)| OfModel::of(name, model)).collect() })
}

/// The models that these are about, each with the name that it serves under.
fn models(state: &State, model: Option<&str>, version: Option<&str>) -> Result<Vec<(String, Arc<Model>)>, Problem> {
    let lanes = match model {
        Some(model) => vec![state.find(model, None)?.0],
        None => state.engine.lanes().values().cloned().collect(),
    };
    let mut all = vec![];
    for lane in lanes {
        let Some(set) = lane.serving.get() else { continue };
        let models: Vec<&Arc<Model>> = std::iter::once(&set.champion).chain(&set.previous).collect();
        let wanted = |model: &&&Arc<Model>| version.is_none_or(|version| version == model.id.version);
        all.extend(models.iter().filter(wanted).map(|model| (lane.name.clone(), Arc::clone(model))));
        if let (Some(version), true) = (version, all.is_empty()) {
            return Err(Problem::new(StatusCode::NOT_FOUND, crate::http::other_version(&set, version)));
        }
    }
    Ok(all)
}
