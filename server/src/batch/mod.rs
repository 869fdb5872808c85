//! The queue of one model, and who runs it.
//!
//! Jobs are cut into batches by whoever is free, never by a timer: a cheap model's batch is run by one of the waiting
//! requests itself (the leader), right after every request that had already arrived was decoded; everything else is
//! pulled by the worker threads. See `docs/adr/0001-who-runs-a-batch.md`.

mod run;
#[cfg(test)]
mod tests;
pub(crate) mod worker;

pub(crate) use run::guarded as run_guarded;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::metrics::{ModelMetrics, Outcome};
use crate::model::tensor::{self, Tensor};
use crate::model::{Answer, RunError};
use crate::serving::{Serving, ServingSet};
use crate::shadow::Sampler;
use crate::shadow::origin::Origin;

/// The least time between two log lines about failed runs of a model; the metrics count all of them.
const COMPLAINTS: Duration = Duration::from_secs(1);

/// Runs with fewer rows than this part of what is worth a run do not keep as few from running beside them.
const FEW_BESIDE: usize = 4;

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PredictError {
    /// No champion was published yet.
    #[error("no model serves yet")]
    NotReady,
    /// The queue is full.
    #[error("the queue is full")]
    Overloaded,
    /// The server stops.
    #[error("the server is shutting down")]
    Draining,
    /// It was not run before its deadline.
    #[error("the deadline passed before the model answered")]
    Deadline,
    /// The model failed on these rows.
    #[error("the model failed on these rows")]
    Model(String),
    /// The model gave a NaN or an infinity for these rows.
    #[error("the model gave a value that is not finite for output {0:?}")]
    NonFinite(String),
}

impl From<RunError> for PredictError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Deadline => Self::Deadline,
            RunError::Failed(reason) => Self::Model(reason),
        }
    }
}

impl PredictError {
    const fn outcome(&self) -> Outcome {
        match self {
            Self::Overloaded => Outcome::Overloaded,
            Self::NotReady | Self::Draining => Outcome::Draining,
            Self::Deadline => Outcome::Deadline,
            Self::Model(_) => Outcome::Error,
            Self::NonFinite(_) => Outcome::NonFinite,
        }
    }
}

/// What a request asks for beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// When it came.
    pub start: Instant,
    /// When its answer is of no use any more.
    pub deadline: Instant,
    /// The `protocol` label of metrics.
    pub protocol: &'static str,
    /// Whether a part of it was answered already, so that a full queue may not refuse the rest.
    pub accepted: bool,
    /// Before which of the waiting requests it runs.
    pub priority: Priority,
}

/// The order in which waiting requests run; within one priority, they run as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Before all others.
    High,
    /// As they come.
    #[default]
    Normal,
    /// When no other waits, or never: their deadline passes.
    Low,
}

impl Priority {
    /// The Open Inference Protocol's numbers: 0 is the default, 1 the highest, others are lower.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Normal,
            1 => Self::High,
            _ => Self::Low,
        }
    }
}

/// What the queue may hold and how long it may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows that may wait.
    pub queue_rows: usize,
    /// How long the oldest job may wait for others to share its run.
    pub batch_delay: Duration,
}

/// The model name that requests go to: its serving set, queue and shadow.
pub struct Lane {
    /// The model's name.
    pub name: String,
    /// What serves now.
    pub serving: Serving,
    /// Its metrics.
    pub metrics: Arc<ModelMetrics>,
    /// Which batches the shadow sees.
    pub(crate) sampler: Sampler,
    limits: Limits,
    state: Mutex<State>,
    /// When a failed run was logged last.
    complained: Mutex<Option<Instant>>,
}

/// Rows that wait for a run, all decoded for the same serving set.
struct Job {
    set: Arc<ServingSet>,
    inputs: Vec<Tensor>,
    rows: usize,
    enqueued: Instant,
    deadline: Instant,
    priority: Priority,
    origin: Option<Origin>,
    reply: oneshot::Sender<Result<Answer, PredictError>>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    rows: usize,
    /// A request will cut the next batch: nobody needs to be woken.
    led: bool,
    /// Workers that wait for a job. The one that waited last is woken first: what its session needs is in its CPU's caches
    /// still.
    idle: Vec<Thread>,
    /// Rows that workers run right now.
    running: usize,
    closed: bool,
    /// Requests of several parts that are not finished: their next part may still come.
    unfinished: usize,
}

/// Who sees to it that a queued job is run.
#[derive(PartialEq, Eq)]
enum Runner {
    /// The one who queued it.
    Me,
    /// A worker or another leader.
    Other,
}

impl Lane {
    /// A lane without a model.
    #[must_use]
    pub fn new(name: &str, limits: Limits, metrics: Arc<ModelMetrics>, sampler: Sampler) -> Self {
        Self {
            name: name.into(),
            serving: Serving::default(),
            metrics,
            sampler,
            limits,
            state: Mutex::default(),
            complained: Mutex::default(),
        }
    }

    /// Whether a failed run is told in the log: a champion that fails on everything must not fill it.
    fn may_complain(&self) -> bool {
        let mut last = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|at| at.elapsed() >= COMPLAINTS);
        if may {
            *last = Some(Instant::now());
        }
        may
    }

    /// Runs rows on `set`'s champion; `origin` says where they come from, for what is counted of them. More rows than fit one run are run one part after the other, so that a large
    /// request never keeps the others waiting for longer than a run.
    ///
    /// # Errors
    /// See [`PredictError`]. Once the first part is accepted, later ones are never refused for a full queue.
    pub async fn predict(
        &self,
        set: &Arc<ServingSet>,
        inputs: Vec<Tensor>,
        rows: usize,
        call: Call,
        origin: Option<Origin>,
    ) -> Result<Vec<Answer>, PredictError> {
        let result = self.run_parts(set, inputs, rows, call, origin).await;
        let outcome = result.as_ref().map_or_else(PredictError::outcome, |_| Outcome::Ok);
        let took = call.start.elapsed();
        self.metrics.request(call.protocol, outcome, took);
        set.champion.usage.request(result.is_ok(), took);
        if let Some(end) = outcome.end() {
            set.tally.request(end);
        }
        result
    }

    async fn run_parts(
        &self,
        set: &Arc<ServingSet>,
        inputs: Vec<Tensor>,
        rows: usize,
        call: Call,
        origin: Option<Origin>,
    ) -> Result<Vec<Answer>, PredictError> {
        let most = set.champion.max_batch();
        if rows <= most {
            return Ok(vec![self.run_part(set, inputs, rows, call, origin).await?]);
        }
        let _unfinished = Unfinished::new(self);
        let mut answers = Vec::with_capacity(rows.div_ceil(most));
        for begin in (0..rows).step_by(most) {
            let part = begin..(begin + most).min(rows);
            let (slice, count) = (inputs.iter().map(|t| t.slice_rows(part.clone())).collect(), part.len());
            let call = Call { accepted: call.accepted || begin > 0, ..call };
            let origin = origin.as_ref().map(|origin| origin.part(begin));
            answers.push(self.run_part(set, slice, count, call, origin).await?);
        }
        Ok(answers)
    }

    async fn run_part(
        &self,
        set: &Arc<ServingSet>,
        inputs: Vec<Tensor>,
        rows: usize,
        call: Call,
        origin: Option<Origin>,
    ) -> Result<Answer, PredictError> {
        let (reply, answer) = oneshot::channel();
        let Call { deadline, priority, .. } = call;
        let job =
            Job { set: Arc::clone(set), inputs, rows, enqueued: Instant::now(), deadline, priority, origin, reply };
        if self.push(job, call.accepted)? == Runner::Me {
            let lead = Lead(self);
            // Every request that has already arrived is decoded and queued before this task goes on.
            tokio::task::yield_now().await;
            lead.run();
        }
        // A dropped sender means that a panic unwound through the run.
        answer.await.unwrap_or_else(|_| Err(PredictError::Model("the run was abandoned".into())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job, accepted: bool) -> Result<Runner, PredictError> {
        let inline = self.limits.batch_delay.is_zero() && job.set.champion.runs_inline(job.rows);
        let mut state = self.state();
        if state.closed && !accepted {
            return Err(PredictError::Draining);
        }
        if !accepted && !state.jobs.is_empty() && state.rows + job.rows > self.limits.queue_rows {
            return Err(PredictError::Overloaded);
        }
        state.rows += job.rows;
        // Behind the last one that goes first: with one priority alone, that is the end.
        let at = state.jobs.iter().rposition(|other| other.priority <= job.priority).map_or(0, |last| last + 1);
        state.jobs.insert(at, job);
        if inline {
            let runner = if state.led { Runner::Other } else { Runner::Me };
            state.led = true;
            return Ok(runner);
        }
        Self::call(state);
        Ok(Runner::Other)
    }

    /// Wakes a worker if there is a run for it.
    fn call(mut state: MutexGuard<'_, State>) {
        let worker = if state.is_worth_a_run() { state.idle.pop() } else { None };
        // Whoever wakes wants the lock.
        drop(state);
        if let Some(worker) = worker {
            worker.unpark();
        }
    }

    /// Wakes all workers: there may be nothing left for them.
    fn call_all(mut state: MutexGuard<'_, State>) {
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        idle.iter().for_each(Thread::unpark);
    }

    /// Takes the next batch: jobs of one set and one shape, at most as many rows as `most` allows for the first of them.
    /// Empty when the first job that is still wanted has more rows than that.
    fn cut(&self, state: &mut State, most: impl Fn(&Job) -> usize) -> Vec<Job> {
        let now = Instant::now();
        let mut batch: Vec<Job> = vec![];
        let mut rows = 0;
        while let Some(next) = state.jobs.front() {
            // Asked once: a client may leave at any moment, and then the job must not count as one that fits.
            let unwanted = next.reply.is_closed() || next.deadline <= now;
            let first = batch.first().unwrap_or(next);
            if !unwanted && (rows + next.rows > most(first) || !(batch.is_empty() || first.joins(next))) {
                break;
            }
            let Some(job) = state.jobs.pop_front() else { break };
            state.rows -= job.rows;
            if unwanted {
                // Whoever left does not hear it.
                job.answer(Err(PredictError::Deadline));
                continue;
            }
            rows += job.rows;
            batch.push(job);
        }
        batch
    }

    /// Answers the jobs whose deadline has passed while they waited. Called now and then, this takes the place of a timer
    /// for each request.
    pub(crate) fn expire(&self) {
        let now = Instant::now();
        let mut state = self.state();
        if state.jobs.iter().all(|job| job.deadline > now) {
            return;
        }
        let (expired, waiting) = std::mem::take(&mut state.jobs).into_iter().partition(|job| job.deadline <= now);
        state.jobs = waiting;
        let expired: VecDeque<Job> = expired;
        state.rows -= expired.iter().map(|job| job.rows).sum::<usize>();
        drop(state);
        for job in expired {
            job.answer(Err(PredictError::Deadline));
        }
    }

    /// Rows that wait for a run.
    #[must_use]
    pub fn queued_rows(&self) -> usize {
        self.state().rows
    }

    /// Refuses new jobs from now on; those in the queue are still answered.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        Self::call_all(state);
    }
}

impl State {
    /// Whether what waits is worth a run of its own beside those in progress. A run of few rows costs a model of many nodes
    /// nearly as much as one of many, and both take the CPUs from whoever reads requests: what waits is then better run
    /// together as soon as a worker is free, unless so little runs that nothing more is to be expected.
    fn is_worth_a_run(&self) -> bool {
        let Some(front) = self.jobs.front() else { return false };
        let worth = front.set.champion.rows_worth_a_run();
        let enough = if FEW_BESIDE * self.running < worth { self.running } else { worth };
        self.rows >= enough || front.priority == Priority::High || self.closed
    }
}

impl Job {
    fn joins(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.set, &other.set)
            && self.set.champion.batches()
            && tensor::same_rows(&self.inputs, &other.inputs)
    }

    fn answer(self, result: Result<Answer, PredictError>) {
        // The client may have left meanwhile; then nobody waits for the answer.
        let _ = self.reply.send(result);
    }
}

/// A request whose later parts are still to come: while there is one, workers do not end.
struct Unfinished<'a>(&'a Lane);

impl<'a> Unfinished<'a> {
    fn new(lane: &'a Lane) -> Self {
        lane.state().unfinished += 1;
        Self(lane)
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unfinished -= 1;
        if state.closed {
            Lane::call_all(state);
        }
    }
}

/// The duty to run the next batch where the request is. Dropped unfulfilled (the client left), it passes to a worker.
struct Lead<'a>(&'a Lane);

impl Lead<'_> {
    fn run(self) {
        let lane = self.0;
        let jobs = lane.cut(&mut lane.state(), |first| first.set.champion.inline_rows());
        drop(self);
        let Some(champion) = jobs.first().map(|job| Arc::clone(&job.set.champion)) else { return };
        if let Some(mut session) = champion.inline_session() {
            run::batch(lane, jobs, &mut **session);
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.led = false;
        if state.closed {
            // Workers that were told to end wait for the leader.
            Lane::call_all(state);
        } else {
            Lane::call(state);
        }
    }
}
