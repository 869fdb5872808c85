//! One run: stack the rows of the jobs, run the champion, give each job its rows, tap the shadow.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Job, Lane, PredictError};
use crate::model::tensor::{self, Tensor};
use crate::model::{Answer, Infer, RunError};
use crate::serving::{Challenger, ServingSet};
use crate::shadow::Pair;

/// Runs jobs that share a set and a shape, and answers each of them. When a run of several fails, each job is run once
/// more by itself, so that one bad row fails alone.
pub(super) fn batch(lane: &Lane, mut jobs: Vec<Job>, session: &mut dyn Infer) {
    let now = Instant::now();
    let Some(first) = jobs.first() else { return };
    let set = Arc::clone(&first.set);
    let deadline = jobs.iter().map(|job| job.deadline).max().unwrap_or(now);
    for job in &jobs {
        lane.metrics.queued(now - job.enqueued);
    }
    let rows = jobs.iter().map(|job| job.rows).sum();
    let Some(inputs) = stack(&mut jobs) else {
        return alone(lane, jobs, session);
    };
    let start = Instant::now();
    let outputs = match guarded(session, &inputs, rows, deadline) {
        Ok(outputs) => outputs,
        Err(error) if jobs.len() == 1 || matches!(error, RunError::Deadline) => {
            if let RunError::Failed(reason) = &error
                && lane.may_complain()
            {
                tracing::warn!(model = lane.name, version = set.champion.id.version, rows, reason, "a run failed");
            }
            for job in jobs {
                job.answer(Err(error.clone().into()));
            }
            return;
        }
        Err(_) => return alone(lane, jobs, session),
    };
    let took = start.elapsed();
    let signature = &set.champion.signature;
    lane.metrics.champion().run(signature, &outputs, rows, took);
    set.tally.run(rows, took);
    let outputs: Arc<[Tensor]> = outputs.into();
    let finite = signature.not_finite(&outputs, 0..rows).is_none();
    let mut begin = 0;
    for job in jobs {
        let range = begin..begin + job.rows;
        begin = range.end;
        let bad = if finite { None } else { signature.not_finite(&outputs, range.clone()) };
        job.answer(match bad {
            Some(output) => Err(PredictError::NonFinite(output.name.clone())),
            None => Ok(Answer { outputs: Arc::clone(&outputs), rows: range }),
        });
    }
    if finite {
        shadow(lane, &set, inputs, outputs, rows, took);
    }
}

/// Hands the rows to those that score them in the shadow: the challenger, and after a promotion the champion before.
fn shadow(lane: &Lane, set: &ServingSet, inputs: Vec<Tensor>, outputs: Arc<[Tensor]>, rows: usize, took: Duration) {
    let pair = |challenger: &Arc<Challenger>, inputs| Pair {
        challenger: Arc::clone(challenger),
        champion: Arc::clone(&set.champion),
        inputs,
        outputs: Arc::clone(&outputs),
        rows,
        took,
    };
    let guard = set.guard.as_ref().filter(|guard| guard.is_active());
    match (&set.challenger, guard) {
        (None, None) => {}
        (Some(challenger), None) => lane.shadow.offer(pair(challenger, inputs), &lane.metrics),
        (None, Some(guard)) => lane.shadow.offer(pair(&guard.previous, inputs), &lane.metrics),
        (Some(challenger), Some(guard)) => {
            lane.shadow.offer(pair(challenger, inputs.clone()), &lane.metrics);
            lane.shadow.offer(pair(&guard.previous, inputs), &lane.metrics);
        }
    }
}

fn alone(lane: &Lane, jobs: Vec<Job>, session: &mut dyn Infer) {
    for job in jobs {
        batch(lane, vec![job], session);
    }
}

/// Runs, and turns a panic or an answer of another size into a failure.
pub(crate) fn guarded(
    session: &mut dyn Infer,
    inputs: &[Tensor],
    rows: usize,
    deadline: Instant,
) -> Result<Vec<Tensor>, RunError> {
    let outputs = std::panic::catch_unwind(AssertUnwindSafe(|| session.run(inputs, deadline)))
        .unwrap_or_else(|_| Err(RunError::Failed("the run panicked".into())))?;
    for (i, output) in outputs.iter().enumerate() {
        if output.rows() != Some(rows) {
            return Err(RunError::Failed(format!("output {i} has shape {:?} for {rows} rows", output.shape())));
        }
    }
    Ok(outputs)
}

/// All jobs' rows under one another; a single job's tensors are taken as they are.
fn stack(jobs: &mut [Job]) -> Option<Vec<Tensor>> {
    if let [job] = jobs {
        return Some(std::mem::take(&mut job.inputs));
    }
    tensor::stack(jobs.iter().map(|job| job.inputs.as_slice()))
}
