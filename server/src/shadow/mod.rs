//! The shadow lane: the challenger scores what the champion has answered, where it cannot hurt.
//!
//! A bounded queue that is never waited for, one thread that runs only when a CPU is idle, a share of one CPU, a deadline on each run, and a
//! pause after repeated failures. Whatever happens here, the champion's answer has already been sent.

pub mod stats;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::batch::run_guarded;
use crate::metrics::ModelMetrics;
use crate::model::tensor::Tensor;
use crate::model::{Model, RunError};
use crate::serving::Challenger;

/// Batches that may wait, whatever their size.
const QUEUE_BATCHES: usize = 1024;
/// A challenger's run that takes longer is given up.
const RUN_LIMIT: Duration = Duration::from_secs(1);
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

/// What the champion answered, for the challenger to answer too.
pub(crate) struct Pair {
    pub(crate) challenger: Arc<Challenger>,
    pub(crate) champion: Arc<Model>,
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) outputs: Arc<[Tensor]>,
    pub(crate) rows: usize,
    /// Duration of the champion's run.
    pub(crate) took: Duration,
}

/// The entrance of the lane, and its thread.
pub struct Shadow {
    sample: f64,
    queue_rows: usize,
    offered: AtomicUsize,
    waiting: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    queue: Option<SyncSender<Pair>>,
    thread: Option<JoinHandle<()>>,
}

impl Shadow {
    /// Starts the lane of one model.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(limits: Limits, metrics: Arc<ModelMetrics>) -> std::io::Result<Self> {
        let (queue, pairs) = sync_channel(QUEUE_BATCHES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let scorer = Scorer {
            pairs,
            next: None,
            waiting: Arc::clone(&waiting),
            stop: Arc::clone(&stop),
            metrics,
            cpu: limits.cpu.clamp(0.001, 1.0),
            breaker: Breaker::default(),
        };
        let thread = std::thread::Builder::new().name("shadow".into()).spawn(move || scorer.work())?;
        Ok(Self {
            sample: limits.sample,
            queue_rows: limits.queue_rows,
            offered: AtomicUsize::new(0),
            waiting,
            stop,
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Hands a batch to the challenger if there is room; never waits.
    pub(crate) fn offer(&self, pair: Pair, metrics: &ModelMetrics) {
        if !self.sampled() {
            return;
        }
        let rows = pair.rows;
        let full = self.waiting.fetch_add(rows, Ordering::Relaxed) + rows > self.queue_rows;
        let rejected = match &self.queue {
            Some(queue) if !full => queue.try_send(pair).err().map(|e| match e {
                TrySendError::Full(pair) | TrySendError::Disconnected(pair) => pair,
            }),
            _ => Some(pair),
        };
        if let Some(pair) = rejected {
            self.waiting.fetch_sub(rows, Ordering::Relaxed);
            lose(&pair.challenger, metrics, "full", rows);
        }
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
        self.stop.store(true, Ordering::Relaxed);
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread was already reported; there is nothing left to stop.
            let _ = thread.join();
        }
    }
}

fn lose(challenger: &Challenger, metrics: &ModelMetrics, reason: &'static str, rows: usize) {
    metrics.lost(reason, rows as u64);
    challenger.statistics().lose(reason, rows as u64);
}

/// The thread's side.
struct Scorer {
    pairs: Receiver<Pair>,
    /// A pair that did not fit the batch before.
    next: Option<Pair>,
    waiting: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    metrics: Arc<ModelMetrics>,
    cpu: f64,
    breaker: Breaker,
}

impl Scorer {
    fn work(mut self) {
        crate::threads::run_when_idle();
        while let Some(batch) = self.batch() {
            let rows: usize = batch.iter().map(|pair| pair.rows).sum();
            self.waiting.fetch_sub(rows, Ordering::Relaxed);
            let Some(challenger) = batch.first().map(|pair| Arc::clone(&pair.challenger)) else { continue };
            if self.breaker.is_open(&challenger) {
                lose(&challenger, &self.metrics, "paused", rows);
                continue;
            }
            let start = Instant::now();
            let result = self.score(&challenger, &batch, rows);
            let took = start.elapsed();
            match result {
                Ok(()) => self.breaker.close(),
                Err((reason, detail)) => {
                    lose(&challenger, &self.metrics, reason, rows);
                    if let Some(pause) = self.breaker.failed() {
                        let id = &challenger.model.id;
                        tracing::warn!(
                            model = id.name,
                            version = id.version,
                            reason,
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
    fn batch(&mut self) -> Option<Vec<Pair>> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let first = self.next.take().or_else(|| self.pairs.recv().ok())?;
        let model = Arc::clone(&first.challenger.model);
        let mut rows = first.rows;
        let mut batch = vec![first];
        while rows < model.max_batch() && model.batches() {
            let Ok(pair) = self.pairs.try_recv() else { break };
            if rows + pair.rows > model.max_batch() || !batch[0].joins(&pair) {
                self.next = Some(pair);
                break;
            }
            rows += pair.rows;
            batch.push(pair);
        }
        Some(batch)
    }

    /// Runs the challenger part by part and compares.
    fn score(&self, challenger: &Challenger, batch: &[Pair], rows: usize) -> Result<(), (&'static str, String)> {
        let stacked: Option<Vec<Tensor>> =
            (0..batch[0].inputs.len()).map(|i| Tensor::concat(batch.iter().map(|p| &p.inputs[i]))).collect();
        let inputs = stacked.ok_or(("failed", "the rows differ in shape".to_owned()))?;
        let most = challenger.model.max_batch();
        let mut parts = vec![];
        for begin in (0..rows).step_by(most) {
            let part = begin..(begin + most).min(rows);
            let slice: Vec<Tensor> = inputs.iter().map(|t| t.slice_rows(part.clone())).collect();
            parts.push(self.run(challenger, &slice, part.len())?);
        }
        let champion = &batch[0].champion.signature;
        let signature = &challenger.model.signature;
        let join = |i: usize, parts: &[&[Tensor]]| Tensor::concat(parts.iter().map(|outputs| &outputs[i]));
        let all = |count: usize, parts: &[&[Tensor]]| (0..count).map(|i| join(i, parts)).collect::<Option<Vec<_>>>();
        let theirs: Vec<&[Tensor]> = batch.iter().map(|p| &*p.outputs).collect();
        let mine: Vec<&[Tensor]> = parts.iter().map(Vec::as_slice).collect();
        let (Some(theirs), Some(mine)) = (all(champion.outputs.len(), &theirs), all(signature.outputs.len(), &mine))
        else {
            return Err(("failed", "the outputs differ in shape from run to run".into()));
        };
        let mut statistics = challenger.statistics();
        for pair in batch {
            statistics.champion_compute.record(pair.rows as u64, pair.took.as_secs_f64());
        }
        let compared = statistics.compare((champion, &theirs), (signature, &mine));
        drop(statistics);
        self.metrics.compared(rows as u64, &compared);
        Ok(())
    }

    fn run(
        &self,
        challenger: &Challenger,
        inputs: &[Tensor],
        rows: usize,
    ) -> Result<Vec<Tensor>, (&'static str, String)> {
        let start = Instant::now();
        let signature = &challenger.model.signature;
        let outputs = run_guarded(&mut **challenger.model.session(0), inputs, rows, start + RUN_LIMIT);
        let took = start.elapsed();
        challenger.statistics().challenger_compute.record(rows as u64, took.as_secs_f64());
        let outputs = outputs.map_err(|error| match error {
            RunError::Deadline => ("deadline", format!("a run took longer than {} s", RUN_LIMIT.as_secs())),
            RunError::Failed(reason) => ("failed", reason),
        })?;
        self.metrics.challenger().run(signature, &outputs, rows, took);
        let mut useless = signature
            .outputs
            .iter()
            .zip(&outputs)
            .filter(|(o, t)| o.must_be_finite() && t.first_non_finite_row().is_some());
        match useless.next() {
            Some((output, _)) => Err(("non_finite", format!("output {} is not finite", output.name))),
            None => Ok(outputs),
        }
    }

    /// Leaves the CPU to others, so that runs take no more than their share.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause.min(LONGEST_PAUSE);
        while !self.stop.load(Ordering::Relaxed) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}

impl Pair {
    fn joins(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.challenger, &other.challenger)
            && Arc::ptr_eq(&self.champion, &other.champion)
            && self.inputs.iter().zip(&other.inputs).all(|(a, b)| a.shape()[1..] == b.shape()[1..])
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

impl Breaker {
    fn is_open(&mut self, challenger: &Arc<Challenger>) -> bool {
        if self.challenger.as_ptr() != Arc::as_ptr(challenger) {
            *self = Self { challenger: Arc::downgrade(challenger), ..Self::default() };
        }
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
