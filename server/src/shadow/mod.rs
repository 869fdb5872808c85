//! The shadow lane: the challenger scores what the champion has answered, where it cannot hurt.
//!
//! A bounded queue that is never waited for, one thread that runs only when a CPU is idle, a share of one CPU, a deadline on each run, and a
//! pause after repeated failures. Whatever happens here, the champion's answer has already been sent.

pub mod answers;
pub mod state;
pub mod stats;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batch::run_guarded;
use crate::guard::End;
use crate::metrics::ModelMetrics;
use crate::model::tensor::{self, Tensor};
use crate::model::{Model, RunError};
use crate::serving::{Challenger, ServingSet};
use crate::threads;
use stats::Statistics;

/// A challenger's run that takes longer is given up. Long, because the thread may wait for a CPU meanwhile.
const RUN_LIMIT: Duration = Duration::from_secs(5);
/// Failures in a row after which the challenger is paused.
const FAILURES: u32 = 5;
/// The first pause; each further one in a row is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How much the shadow may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Share of the batches that are scored, 0 to 1.
    pub sample: f64,
    /// Rows that may wait.
    pub queue_rows: usize,
    /// Share of one CPU that runs may take, above 0 to 1.
    pub cpu: f64,
}

/// Why rows have no pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The queue had no room.
    Full,
    /// The challenger is paused after failures.
    Paused,
    /// It failed.
    Failed,
    /// Its run took too long.
    Deadline,
    /// It gave a NaN or an infinity.
    NonFinite,
}

impl Lost {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::Full, Self::Paused, Self::Failed, Self::Deadline, Self::NonFinite];

    /// The name in metrics and in the statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Deadline => "deadline",
            Self::NonFinite => "non_finite",
        }
    }
}

/// What the champion answered, for the challenger to answer too.
pub(crate) struct Pair {
    pub(crate) challenger: Arc<Challenger>,
    pub(crate) champion: Arc<Model>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) theirs: Theirs,
    pub(crate) rows: usize,
    /// Duration of the champion's run.
    pub(crate) took: Duration,
}

/// What came of the champion's run.
pub(crate) enum Theirs {
    /// Its outputs.
    Answers(Arc<[Tensor]>),
    /// It failed on these rows, which are this many requests: the champion before shows whether that was the rows' fault.
    Fault(End, u64),
}

/// The entrance of the lane, and its thread.
///
/// Whoever serves requests never waits for the shadow's thread, which may be off the CPU for long while it holds a lock:
/// the queue is only tried, never waited for, and what is counted at the entrance is atomic.
pub struct Shadow {
    sample: f64,
    offered: AtomicUsize,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

/// What waits for the challenger.
struct Queue {
    pairs: Mutex<VecDeque<Pair>>,
    rows: AtomicUsize,
    most_rows: usize,
    stop: AtomicBool,
}

impl Queue {
    /// Puts a pair at the end; gives it back when there is no room, or when another thread is at the queue right now.
    fn push(&self, pair: Pair) -> Result<(), Pair> {
        let Ok(mut pairs) = self.pairs.try_lock() else { return Err(pair) };
        if self.rows.load(Ordering::Relaxed) + pair.rows > self.most_rows {
            return Err(pair);
        }
        self.rows.fetch_add(pair.rows, Ordering::Relaxed);
        pairs.push_back(pair);
        Ok(())
    }

    /// Takes the first pair if `fits` says so.
    fn pop(&self, fits: impl Fn(&Pair) -> bool) -> Option<Pair> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = pairs.pop_front_if(|pair| fits(pair))?;
        self.rows.fetch_sub(pair.rows, Ordering::Relaxed);
        Some(pair)
    }
}

impl Shadow {
    /// Starts the lane of one model.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(limits: Limits, metrics: Arc<ModelMetrics>) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            pairs: Mutex::default(),
            rows: AtomicUsize::new(0),
            most_rows: limits.queue_rows,
            stop: AtomicBool::new(false),
        });
        let cpu = limits.cpu.clamp(0.001, 1.0);
        let scorer = Scorer { queue: Arc::clone(&queue), metrics, cpu, breakers: vec![] };
        let thread = std::thread::Builder::new().name("shadow".into()).spawn(move || scorer.work())?;
        Ok(Self { sample: limits.sample, offered: AtomicUsize::new(0), queue, thread: Some(thread) })
    }

    /// Hands a batch to the challenger if there is room; never waits.
    pub(crate) fn offer(&self, pair: Pair, metrics: &ModelMetrics) {
        if matches!(pair.theirs, Theirs::Answers(_)) && !self.sampled() {
            return;
        }
        match self.queue.push(pair) {
            Ok(()) => {
                if let Some(thread) = &self.thread {
                    thread.thread().unpark();
                }
            }
            Err(pair) => {
                if !pair.challenger.is_previous {
                    metrics.lost(Lost::Full, pair.rows as u64);
                }
                pair.challenger.refused(pair.rows as u64);
            }
        }
    }

    /// Drops what waits for models that the set does not shadow any more: when this thread gets no CPU for long, it would keep
    /// them in memory. Whoever is at the queue right now is not waited for; the next swap drops it then.
    pub(crate) fn keep_only(&self, set: &ServingSet) {
        let Ok(mut pairs) = self.queue.pairs.try_lock() else { return };
        let guard = set.guard.as_ref().map(|guard| &guard.previous);
        let kept = [set.challenger.as_ref(), guard];
        let (now, stale): (VecDeque<Pair>, VecDeque<Pair>) = std::mem::take(&mut *pairs)
            .into_iter()
            .partition(|pair| kept.iter().flatten().any(|challenger| Arc::ptr_eq(challenger, &pair.challenger)));
        *pairs = now;
        self.queue.rows.fetch_sub(stale.iter().map(|pair| pair.rows).sum(), Ordering::Relaxed);
        drop(pairs);
        // Dropped here, where models may take their time to go.
        drop(stale);
    }

    /// Spreads the sampled share evenly: multiples of the golden ratio fill the unit interval without clumps.
    #[expect(clippy::cast_precision_loss, reason = "exact for 2^53 batches")]
    fn sampled(&self) -> bool {
        self.sample >= 1.0 || {
            let n = self.offered.fetch_add(1, Ordering::Relaxed) as f64;
            (n * 0.618_033_988_749_894_9).fract() < self.sample
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.queue.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread was already reported; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Scorer {
    queue: Arc<Queue>,
    metrics: Arc<ModelMetrics>,
    cpu: f64,
    /// One for each model that scores here.
    breakers: Vec<Breaker>,
}

impl Scorer {
    fn work(mut self) {
        threads::run_when_idle();
        while let Some(batch) = self.batch() {
            if let [pair] = batch.as_slice()
                && let Theirs::Fault(end, requests) = pair.theirs
            {
                self.retry(pair, end, requests);
                continue;
            }
            let rows: usize = batch.iter().map(|pair| pair.rows).sum();
            let Some(challenger) = batch.first().map(|pair| Arc::clone(&pair.challenger)) else { continue };
            if breaker(&mut self.breakers, &challenger).is_open() {
                self.lose(&challenger, Lost::Paused, rows);
                continue;
            }
            let start = threads::cpu_time();
            let result = self.score(&challenger, &batch, rows);
            let took = threads::cpu_time().saturating_sub(start);
            match result {
                Ok(()) => breaker(&mut self.breakers, &challenger).close(),
                Err((reason, detail)) => {
                    self.lose(&challenger, reason, rows);
                    if let Some(pause) = breaker(&mut self.breakers, &challenger).failed() {
                        let id = &challenger.model.id;
                        tracing::warn!(
                            model = id.name,
                            version = id.version,
                            reason = reason.name(),
                            detail,
                            "the challenger failed {FAILURES} times in a row and is paused for {} s",
                            pause.as_secs()
                        );
                    }
                }
            }
            self.rest(took.mul_f64(1.0 / self.cpu - 1.0));
        }
    }

    /// Pairs of one challenger and one shape, up to the challenger's batch size; `None` when the lane has ended.
    fn batch(&self) -> Option<Vec<Pair>> {
        let first = loop {
            if self.queue.stop.load(Ordering::Relaxed) {
                return None;
            }
            match self.queue.pop(|_| true) {
                Some(pair) => break pair,
                None => std::thread::park(),
            }
        };
        let model = Arc::clone(&first.challenger.model);
        let mut rows = first.rows;
        let mut batch = vec![first];
        let most = if model.batches() { model.max_batch() } else { 0 };
        while let Some(pair) = self.queue.pop(|pair| rows + pair.rows <= most && batch[0].joins(pair)) {
            rows += pair.rows;
            batch.push(pair);
        }
        Some(batch)
    }

    fn lose(&self, challenger: &Challenger, reason: Lost, rows: usize) {
        if !challenger.is_previous {
            self.metrics.lost(reason, rows as u64);
        }
        challenger.record(|statistics| statistics.lose(reason.name(), rows as u64));
    }

    /// Runs what the champion failed on, and counts whether this model does too.
    fn retry(&self, pair: &Pair, end: End, requests: u64) {
        let start = threads::cpu_time();
        let answered = self.run_parts(&pair.challenger, &pair.inputs, pair.rows).is_ok();
        pair.challenger.count_retried(end, answered, requests);
        self.rest(threads::cpu_time().saturating_sub(start).mul_f64(1.0 / self.cpu - 1.0));
    }

    /// Runs the challenger part by part.
    fn run_parts(
        &self,
        challenger: &Challenger,
        inputs: &[Tensor],
        rows: usize,
    ) -> Result<Vec<Vec<Tensor>>, (Lost, String)> {
        let most = challenger.model.max_batch();
        let run = |begin: usize| {
            let part = begin..(begin + most).min(rows);
            let slice: Vec<Tensor> = inputs.iter().map(|t| t.slice_rows(part.clone())).collect();
            self.run(challenger, &slice, part.len())
        };
        (0..rows).step_by(most).map(run).collect()
    }

    /// Runs the challenger and compares.
    fn score(&self, challenger: &Challenger, batch: &[Pair], rows: usize) -> Result<(), (Lost, String)> {
        let stacked = tensor::stack(batch.iter().map(|pair| pair.inputs.as_slice()));
        let inputs = stacked.ok_or((Lost::Failed, "the rows differ in shape".to_owned()))?;
        let parts = self.run_parts(challenger, &inputs, rows)?;
        let champion = &batch[0].champion.signature;
        let signature = &challenger.model.signature;
        let theirs = tensor::stack(batch.iter().map(Pair::answers));
        let mine = tensor::stack(parts.iter().map(Vec::as_slice));
        let (Some(theirs), Some(mine)) = (theirs, mine) else {
            return Err((Lost::Failed, "the outputs differ in shape from run to run".into()));
        };
        // Counted apart and then added, so that the lock is held for the addition only.
        let mut statistics = Statistics::default();
        for pair in batch {
            statistics.champion_compute.record(pair.rows as u64, pair.took.as_secs_f64());
        }
        let compared = statistics.compare((champion, &theirs), (signature, &mine));
        challenger.record(|total| total.merge(&statistics));
        if !challenger.is_previous {
            self.metrics.compared(rows as u64, &compared);
        }
        Ok(())
    }

    fn run(&self, challenger: &Challenger, inputs: &[Tensor], rows: usize) -> Result<Vec<Tensor>, (Lost, String)> {
        // Time on the CPU, so that it compares with the champion's: this thread is often kept waiting.
        let start = threads::cpu_time();
        let signature = &challenger.model.signature;
        let deadline = Instant::now() + RUN_LIMIT;
        let outputs = run_guarded(&mut **challenger.model.shadow_session(), signature, inputs, rows, deadline);
        let took = threads::cpu_time().saturating_sub(start);
        challenger.record(|total| total.challenger_compute.record(rows as u64, took.as_secs_f64()));
        let outputs = outputs.map_err(|error| match error {
            RunError::Deadline => (Lost::Deadline, format!("a run took longer than {} s", RUN_LIMIT.as_secs())),
            RunError::Failed(reason) => (Lost::Failed, reason),
        })?;
        if !challenger.is_previous {
            self.metrics.challenger().run(signature, &outputs, rows, took);
        }
        match signature.not_finite(&outputs, 0..rows) {
            Some(output) => Err((Lost::NonFinite, format!("output {} is not finite", output.name))),
            None => Ok(outputs),
        }
    }

    /// Leaves the CPU to others, so that runs take no more than their share.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        while !self.queue.stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}

impl Pair {
    fn answers(&self) -> &[Tensor] {
        match &self.theirs {
            Theirs::Answers(outputs) => outputs,
            Theirs::Fault(..) => &[],
        }
    }

    fn joins(&self, other: &Self) -> bool {
        let answered = |pair: &Self| matches!(pair.theirs, Theirs::Answers(_));
        answered(self)
            && answered(other)
            && Arc::ptr_eq(&self.challenger, &other.challenger)
            && Arc::ptr_eq(&self.champion, &other.champion)
            && tensor::same_rows(&self.inputs, &other.inputs)
    }
}

/// Pauses a challenger that fails again and again.
#[derive(Default)]
struct Breaker {
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
    challenger: Weak<Challenger>,
}

/// The breaker of a challenger; those of challengers that are gone are dropped.
fn breaker<'a>(breakers: &'a mut Vec<Breaker>, challenger: &Arc<Challenger>) -> &'a mut Breaker {
    let is_its = |breaker: &Breaker| breaker.challenger.as_ptr() == Arc::as_ptr(challenger);
    let at = breakers.iter().position(is_its).unwrap_or_else(|| {
        breakers.retain(|breaker| breaker.challenger.strong_count() > 0);
        breakers.push(Breaker { challenger: Arc::downgrade(challenger), ..Breaker::default() });
        breakers.len() - 1
    });
    &mut breakers[at]
}

impl Breaker {
    fn is_open(&self) -> bool {
        self.open_until.is_some_and(|until| Instant::now() < until)
    }

    fn close(&mut self) {
        *self = Self { challenger: std::mem::take(&mut self.challenger), ..Self::default() };
    }

    /// Counts a failure; the length of the pause when one begins.
    fn failed(&mut self) -> Option<Duration> {
        self.failures += 1;
        if self.failures < FAILURES {
            return None;
        }
        // One failure after a pause is enough for the next.
        self.failures = FAILURES - 1;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.open_until = Some(Instant::now() + self.pause);
        Some(self.pause)
    }
}
