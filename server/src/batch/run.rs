//! One run: stack the rows of the jobs, run the champion, give each job its rows, tap the shadow.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Job, Lane, PredictError};
use crate::guard::End;
use crate::model::check::wrong_rows;
use crate::model::signature::Signature;
use crate::model::tensor::{self, Tensor};
use crate::model::usage::Run;
use crate::model::{Answer, Infer, RunError};
use crate::serving::ServingSet;
use crate::shadow::origin::Origin;
use crate::shadow::{Pair, Theirs};
use crate::verdict::state::Label;

/// A run that is stopped after this long was slow by itself.
const LONG_RUN: Duration = Duration::from_secs(1);

/// Runs jobs that share a set and a shape, and answers each of them. When a run of several fails, each job is run once
/// more by itself, so that one bad row fails alone.
pub(super) fn batch(lane: &Lane, mut jobs: Vec<Job>, session: &mut dyn Infer) {
    let now = Instant::now();
    let Some(first) = jobs.first() else { return };
    let set = Arc::clone(&first.set);
    let deadline = jobs.iter().map(|job| job.deadline).max().unwrap_or(now);
    let mut waited = Duration::ZERO;
    for job in &jobs {
        waited += now - job.enqueued;
        lane.metrics.queued(now - job.enqueued);
    }
    let rows = jobs.iter().map(|job| job.rows).sum();
    let Some(inputs) = stack(&mut jobs) else {
        return alone(lane, jobs, session);
    };
    let start = Instant::now();
    let blame = |inputs: Vec<Tensor>, rows: usize, end: End, requests: usize| {
        if let Some(former) = set.former() {
            let theirs = Theirs::Fault(end, requests as u64);
            let (champion, origins, took) = (Arc::clone(&set.champion), Arc::default(), start.elapsed());
            former.offer(Pair { champion, inputs: inputs.into(), theirs, rows, origins, took });
        }
    };
    let outputs = match guarded(session, &set.champion.signature, &inputs, rows, deadline) {
        Ok(outputs) => outputs,
        Err(error) if jobs.len() == 1 || matches!(error, RunError::Deadline) => {
            if let RunError::Failed(reason) = &error
                && lane.may_complain()
            {
                tracing::warn!(model = lane.name, version = set.champion.id.version, rows, reason, "a run failed");
            }
            // A run that had little time left, since its jobs had waited, is no fault of the champion.
            if matches!(error, RunError::Failed(_)) || start.elapsed() > LONG_RUN {
                blame(inputs, rows, End::Failed, jobs.len());
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
    let (requests, prepared) = (jobs.len(), if jobs.len() > 1 { start - now } else { Duration::ZERO });
    set.champion.usage.run(&Run { rows, requests, waited, prepared, start, took });
    let outputs: Arc<[Tensor]> = outputs.into();
    let finite = signature.not_finite(&outputs, 0..rows).is_none();
    let shadowed = finite && set.is_shadowed();
    let mut origins = vec![];
    let mut begin = 0;
    for mut job in jobs {
        if shadowed {
            origins.push((job.origin.take().unwrap_or_else(Origin::unnamed), job.rows));
        }
        let range = begin..begin + job.rows;
        begin = range.end;
        let bad = if finite { None } else { signature.not_finite(&outputs, range.clone()) };
        if bad.is_some() {
            blame(inputs.iter().map(|t| t.slice_rows(range.clone())).collect(), range.len(), End::NotFinite, 1);
        }
        job.answer(match bad {
            Some(output) => Err(PredictError::NonFinite(output.name.clone())),
            None => Ok(Answer { outputs: Arc::clone(&outputs), rows: range }),
        });
    }
    if shadowed && !lane.sampler.takes() {
        // What these rows say of others counts all the same.
        let labels: Vec<Label> = origins.iter().flat_map(|(origin, rows)| origin.labels(*rows)).collect();
        if !labels.is_empty() {
            let _ = set.tell(labels, false);
        }
    } else if shadowed {
        let champion = Arc::clone(&set.champion);
        let (inputs, theirs, origins) = (inputs.into(), Theirs::Answers(outputs), origins.into());
        shadow(&set, Pair { champion, inputs, theirs, rows, origins, took });
    }
}

/// Hands the rows to those that score them in the shadow: the challengers, and after a promotion the champion before.
fn shadow(set: &ServingSet, pair: Pair) {
    set.compared().for_each(|challenger| challenger.offer(pair.clone()));
    if let Some(observer) = &set.observer {
        observer.offer(pair);
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
    signature: &Signature,
    inputs: &[Tensor],
    rows: usize,
    deadline: Instant,
) -> Result<Vec<Tensor>, RunError> {
    let outputs = std::panic::catch_unwind(AssertUnwindSafe(|| session.run(inputs, deadline)))
        .unwrap_or_else(|_| Err(RunError::Failed("the run panicked".into())))?;
    for (i, output) in outputs.iter().enumerate() {
        if output.rows() != Some(rows) {
            let name = signature.outputs.get(i).map(|output| output.name.as_str());
            return Err(RunError::Failed(wrong_rows(name.unwrap_or_default(), output, rows)));
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
