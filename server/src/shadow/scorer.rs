//! The thread of a challenger: it scores what the champion has answered, and compares.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answers;
use super::breaker::{Breaker, FAILURES, LONGEST_PAUSE};
use super::challenger::{ROLES, Seen, Work, pause};
use super::observer::Watched;
use super::origin::Place;
use super::queue::Queue;
use super::stats::Statistics;
use super::{Lost, Pair, Theirs};
use crate::batch::run_guarded;
use crate::guard::End;
use crate::model::tensor::{self, Tensor};
use crate::model::{Model, RunError};
use crate::threads;
use crate::verdict::state::{Joined, Label, Row, Target};

/// A challenger's run that takes longer is given up. Long, because the thread may wait for a CPU meanwhile.
const RUN_LIMIT: Duration = Duration::from_secs(5);

/// Rows without any answer after which the others of a batch are not tried one by one.
const HOPELESS: usize = 8;
/// A run that was stopped for its time, and used less of a CPU than this, was kept waiting.
const OWN_TIME: Duration = Duration::from_secs(1);

pub(super) struct Scorer {
    seen: Arc<Seen>,
    queue: Arc<Queue<Work>>,
    cpu: f64,
    /// Where the inputs are that the challenger was trained on, if it tells how they were distributed.
    watched: Option<Watched>,
    breaker: Breaker,
    /// Whether the next run is of one pair alone. Every other one is: it has as many rows as the champion's, so that their
    /// times compare. Those between have all that waits.
    alone: bool,
}

/// Rows of several pairs under one another.
struct Stacked {
    champion: Arc<Model>,
    inputs: Vec<Tensor>,
    theirs: Vec<Tensor>,
    places: Vec<Place>,
}

impl Stacked {
    fn rows<'a>(&self, tensors: &'a [Tensor], part: &Range<usize>) -> Cow<'a, [Tensor]> {
        if part.len() == self.places.len() {
            return Cow::Borrowed(tensors);
        }
        tensors.iter().map(|tensor| tensor.slice_rows(part.clone())).collect()
    }
}

/// Where the rows of a batch come from.
fn places(batch: &[Pair]) -> Vec<Place> {
    batch.iter().flat_map(Pair::places).collect()
}

/// What the challenger made of a batch.
struct Scored {
    outputs: Vec<Tensor>,
    took: Duration,
}

impl Scorer {
    pub(super) fn new(seen: Arc<Seen>, queue: Arc<Queue<Work>>, cpu: f64, watched: Option<Watched>) -> Self {
        Self { seen, queue, cpu, watched, breaker: Breaker::default(), alone: true }
    }

    pub(super) fn work(mut self) {
        threads::run_when_idle();
        while let Some(work) = self.queue.pop() {
            match work {
                Work::Labels(labels, passed) => {
                    let start = threads::cpu_time();
                    self.label(&labels, passed);
                    self.rest(threads::cpu_time().saturating_sub(start));
                }
                Work::Pair(pair) => match pair.theirs {
                    Theirs::Fault(end, requests) => self.retry(&pair, end, requests),
                    Theirs::Answers(_) => self.batch(pair),
                },
            }
        }
    }

    /// Labels that another server passed on are of rows that it had, as a rule: what is not known here is none of ours.
    fn label(&self, labels: &[Label], passed: bool) {
        for label in labels {
            let joined = self.seen.record().label(label);
            if self.seen.is_first() && !(passed && joined == Joined::default()) {
                self.seen.metrics.joined(label.source, joined);
            }
        }
    }

    /// Scores a pair, and perhaps those that wait behind it as far as they fit one run.
    fn batch(&mut self, first: Pair) {
        let model = &self.seen.model;
        let most = if model.batches() && !self.alone { model.max_batch() } else { 0 };
        self.alone = !self.alone;
        let mut rows = first.rows;
        let mut batch = vec![first];
        let fits = |work: &Work, batch: &[Pair], rows: usize| match work {
            Work::Pair(pair) => rows + pair.rows <= most && batch[0].joins(pair),
            Work::Labels(..) => false,
        };
        while let Some(Work::Pair(pair)) = self.queue.pop_if(|work| fits(work, &batch, rows)) {
            rows += pair.rows;
            batch.push(pair);
        }
        if self.breaker.is_open() {
            self.seen.lose(Lost::Paused, &places(&batch));
            return;
        }
        let start = threads::cpu_time();
        let result = self.score(&batch, rows);
        let took = threads::cpu_time().saturating_sub(start);
        match result {
            Ok(()) => self.breaker.close(),
            // That says nothing of it.
            Err((Lost::Waited, _)) => {}
            Err((reason, detail)) => {
                if let Some(pause) = self.breaker.failed() {
                    let (id, role) = (&self.seen.model.id, ROLES[self.seen.role()]);
                    tracing::warn!(
                        model = id.name,
                        version = id.version,
                        role,
                        reason = reason.name(),
                        detail,
                        "the challenger failed {FAILURES} times in a row and is paused for {} s",
                        pause.as_secs()
                    );
                }
            }
        }
        self.rest(took);
    }

    /// Runs what the champion failed on, and counts whether this model does too.
    fn retry(&self, pair: &Pair, end: End, requests: u64) {
        let start = threads::cpu_time();
        let answered = self.run_parts(&pair.inputs, pair.rows).is_ok();
        self.seen.count_retried(end, answered, requests);
        self.rest(threads::cpu_time().saturating_sub(start));
    }

    fn rest(&self, took: Duration) {
        self.queue.rest(pause(took, self.seen.part(self.cpu)).min(LONGEST_PAUSE));
    }

    /// Runs the challenger and compares. What it does not answer is counted as lost; an error when that is all of it.
    fn score(&self, batch: &[Pair], rows: usize) -> Result<(), (Lost, String)> {
        let inputs = tensor::stack(batch.iter().map(|pair| &pair.inputs[..]));
        let theirs = tensor::stack(batch.iter().map(Pair::answers));
        let (Some(inputs), Some(theirs)) = (inputs, theirs) else {
            self.seen.lose(Lost::Failed, &places(batch));
            return Err((Lost::Failed, "the rows differ in shape".into()));
        };
        let champion = Arc::clone(&batch[0].champion);
        let stacked = Stacked { champion, inputs, theirs, places: places(batch) };
        let took = match self.compare(&stacked, 0..rows) {
            Ok(took) => took,
            Err(error) => return self.halves(&stacked, rows, error),
        };
        if let [pair] = batch {
            self.seen.record().time(pair.took, took);
        }
        let mut statistics = self.seen.statistics();
        batch.iter().for_each(|pair| statistics.champion_compute.record(pair.rows as u64, pair.took.as_secs_f64()));
        Ok(())
    }

    /// Finds the rows that a failed run failed on, by halves: they are no fault of the others, which are other clients' perhaps.
    fn halves(&self, stacked: &Stacked, rows: usize, error: (Lost, String)) -> Result<(), (Lost, String)> {
        let (mut answered, mut failed) = (0, 0);
        let mut last = error;
        let whole = 0..rows;
        let mut parts = vec![whole];
        while let Some(part) = parts.pop() {
            // The whole is known to fail.
            let result = if part.len() == rows { Err(last.clone()) } else { self.compare(stacked, part.clone()) };
            let Err(error) = result else {
                answered += part.len();
                continue;
            };
            let hopeless = answered == 0 && failed >= HOPELESS;
            if part.len() == 1 || error.0 == Lost::Deadline || hopeless || self.queue.has_ended() {
                failed += part.len();
                self.seen.lose(error.0, &stacked.places[part]);
            } else {
                let middle = part.start + part.len() / 2;
                parts.extend([part.start..middle, middle..part.end]);
            }
            last = error;
        }
        if answered == 0 { Err(last) } else { Ok(()) }
    }

    /// Runs the challenger on some of the rows and counts what came of it; gives the time of the runs.
    fn compare(&self, stacked: &Stacked, part: Range<usize>) -> Result<Duration, (Lost, String)> {
        let (inputs, theirs) = (stacked.rows(&stacked.inputs, &part), stacked.rows(&stacked.theirs, &part));
        let mine = self.run_parts(&inputs, part.len())?;
        let (champion, challenger) = (&stacked.champion.signature, &self.seen.model.signature);
        // Counted apart and then added, so that the lock is held for the addition only.
        let mut statistics = Statistics::default();
        let compared = statistics.compare((champion, &theirs), (challenger, &mine.outputs));
        self.seen.statistics().merge(&statistics);
        self.seen.metrics.compared(self.seen.role(), part.len() as u64, &compared);
        let both = answers::pairs((champion, &theirs), (challenger, &mine.outputs), part.len());
        let mut recorder = self.seen.record();
        let places = &stacked.places[part];
        if let Some(watched) = &self.watched {
            let rows = places.iter().map(|place| (place.series, place.at));
            watched.count(|| recorder.drifts(), &inputs, &mine.outputs, rows);
        }
        for (place, (champion, challenger)) in places.iter().zip(both) {
            recorder.record(place.id, &Row { series: place.series, at: place.at, champion, challenger });
        }
        drop(recorder);
        // Rows of many minutes may judge each other's forecasts: all of them are known before, and they come in their order.
        let mut labels: Vec<Label> = places.iter().filter_map(|place| place.label()).collect();
        labels.sort_by_key(|label| match label.target {
            Target::At { at, .. } => at,
            Target::Row(_) | Target::Window { .. } => 0,
        });
        self.label(&labels, false);
        Ok(mine.took)
    }

    /// Runs the challenger part by part.
    fn run_parts(&self, inputs: &[Tensor], rows: usize) -> Result<Scored, (Lost, String)> {
        let most = self.seen.model.max_batch();
        let (mut parts, mut took) = (vec![], Duration::ZERO);
        for begin in (0..rows).step_by(most) {
            let part = begin..begin.saturating_add(most).min(rows);
            let slice: Vec<Tensor> = inputs.iter().map(|t| t.slice_rows(part.clone())).collect();
            let run = self.run(&slice, part.len())?;
            took += run.took;
            parts.push(run.outputs);
        }
        match tensor::stack(parts.iter().map(Vec::as_slice)) {
            Some(outputs) => Ok(Scored { outputs, took }),
            None => Err((Lost::Failed, "the outputs differ in shape from run to run".into())),
        }
    }

    fn run(&self, inputs: &[Tensor], rows: usize) -> Result<Scored, (Lost, String)> {
        // Time on the CPU, so that it compares with the champion's: this thread is often kept waiting.
        let start = threads::cpu_time();
        let model = &self.seen.model;
        let deadline = Instant::now() + RUN_LIMIT;
        let outputs = run_guarded(&mut **model.shadow_session(), &model.signature, inputs, rows, deadline);
        let took = threads::cpu_time().saturating_sub(start);
        self.seen.statistics().challenger_compute.record(rows as u64, took.as_secs_f64());
        let outputs = outputs.map_err(|error| match error {
            RunError::Deadline if took < OWN_TIME => (Lost::Waited, "the machine was too busy to run it".to_owned()),
            RunError::Deadline => (Lost::Deadline, format!("a run took longer than {} s", RUN_LIMIT.as_secs())),
            RunError::Failed(reason) => (Lost::Failed, reason),
        })?;
        self.seen.metrics.ran(self.seen.role(), &model.signature, &outputs, rows, took);
        match model.signature.not_finite(&outputs, 0..rows) {
            Some(output) => Err((Lost::NonFinite, format!("output {} is not finite", output.name))),
            None => Ok(Scored { outputs, took }),
        }
    }
}
