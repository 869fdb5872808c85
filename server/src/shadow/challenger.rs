//! A challenger: its queue, its thread, and what is counted of it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::observer::Watched;
use super::origin::Place;
use super::queue::{Queue, Size};
use super::scorer::Scorer;
use super::stats::Statistics;
use super::{Limits, Lost, Pair};
use crate::guard::{End, Retried};
use crate::metrics::ModelMetrics;
use crate::model::Model;
use crate::verdict::state::{Label, Recorder, Target};

/// The roles of those that are compared with a champion: up to three challengers, and the champion before.
pub const ROLES: [&str; 4] = ["challenger", "challenger-2", "challenger-3", "previous"];
/// The last of [`ROLES`].
pub const PREVIOUS: usize = ROLES.len() - 1;
/// Challengers at a time.
pub const MOST: usize = PREVIOUS;
/// Labels that may wait, in rows of the queue.
const LABELS_A_ROW: usize = 4;
/// What a window counts for.
const ROWS_A_WINDOW: usize = 16;
/// How often labels are tried to be put into the queue, which takes less than a tenth of a millisecond.
const TRIES: usize = 64;

/// A model that is compared with the champion, and what was counted of it. Dropped, its thread ends by itself.
pub struct Challenger {
    seen: Arc<Seen>,
    queue: Arc<Queue<Work>>,
}

/// What waits for the challenger's thread.
pub(super) enum Work {
    Pair(Pair),
    /// And whether another server passed them on.
    Labels(Arc<[Label]>, bool),
}

/// What the thread shares with those who ask.
pub(super) struct Seen {
    pub(super) model: Arc<Model>,
    pub(super) metrics: Arc<ModelMetrics>,
    role: AtomicUsize,
    /// How many share the CPU time that the shadow has.
    sharers: AtomicUsize,
    /// Challengers that run at once, this one among them.
    beside: AtomicUsize,
    statistics: Mutex<Statistics>,
    recorder: Mutex<Recorder>,
    /// Whether it recorded anything since it was asked.
    is_new: AtomicBool,
    /// Requests on which the champion failed, and those where it was not finite: those that this one answers, the others.
    retried: [[AtomicU64; 2]; 2],
    /// Rows for which the queue had no room; counted by threads that must not wait for the lock.
    refused: AtomicU64,
}

impl Challenger {
    /// A challenger of a role (an index of [`ROLES`]), with a thread that waits for rows. Inputs are counted beside those of its
    /// own training, except for the champion before, which comes back whatever they are.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        model: Arc<Model>,
        role: usize,
        limits: Limits,
        metrics: Arc<ModelMetrics>,
        recorder: Recorder,
    ) -> std::io::Result<Self> {
        let (recorder, watched) = if role < PREVIOUS { Watched::beside(&model, recorder) } else { (recorder, None) };
        let queue = Arc::new(Queue::new(limits.queue_rows));
        let seen = Arc::new(Seen {
            model,
            metrics,
            role: AtomicUsize::new(role.min(PREVIOUS)),
            sharers: AtomicUsize::new(1),
            beside: AtomicUsize::new(1),
            statistics: Mutex::default(),
            recorder: Mutex::new(recorder),
            is_new: AtomicBool::new(false),
            retried: Default::default(),
            refused: AtomicU64::new(0),
        });
        let scorer = Scorer::new(Arc::clone(&seen), Arc::clone(&queue), limits.cpu, watched);
        // It is not joined: a run that takes long must not hold up a swap.
        std::thread::Builder::new().name("shadow".into()).spawn(move || scorer.work())?;
        Ok(Self { seen, queue })
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Arc<Model> {
        &self.seen.model
    }

    /// The role, an index of [`ROLES`].
    #[must_use]
    pub fn role(&self) -> usize {
        self.seen.role.load(Ordering::Relaxed)
    }

    /// Sets its role, how many share the CPU time that the shadow has, and how many challengers run at once.
    pub fn assign(&self, role: usize, sharers: usize, beside: usize) {
        self.seen.beside.store(beside, Ordering::Relaxed);
        self.seen.role.store(role.min(PREVIOUS), Ordering::Relaxed);
        self.seen.sharers.store(sharers.max(1), Ordering::Relaxed);
    }

    /// Hands over what the champion answered, if there is room; never waits.
    pub(crate) fn offer(&self, pair: Pair) {
        let rows = pair.rows;
        let size = pair.size();
        if self.queue.push(Work::Pair(pair), size).is_err() {
            self.seen.metrics.lost(self.role(), Lost::Full, rows as u64);
            self.seen.refused.fetch_add(rows as u64, Ordering::Relaxed);
        }
    }

    /// Hands over labels, if there is room; never waits.
    #[must_use]
    pub fn tell(&self, labels: &Arc<[Label]>, passed: bool) -> bool {
        // Each window is looked for among all rows that wait for labels.
        let windows = labels.iter().filter(|label| matches!(label.target, Target::Window { .. })).count();
        let rows = labels.len().div_ceil(LABELS_A_ROW) + windows * ROWS_A_WINDOW;
        let size = Size { rows, bytes: size_of_val(&**labels) };
        // Others are at the queue for nanoseconds, unless its thread lost the CPU there.
        (0..TRIES).any(|_| {
            let told = self.queue.push(Work::Labels(Arc::clone(labels), passed), size).is_ok();
            if !told {
                std::thread::yield_now();
            }
            told
        })
    }

    /// What was counted up to now. It may have to wait until the shadow's thread gets a CPU.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.seen.with_refused(self.seen.statistics().clone())
    }

    /// The same, unless it would have to wait.
    #[must_use]
    pub fn try_statistics(&self) -> Option<Statistics> {
        match self.seen.statistics.try_lock() {
            Ok(statistics) => Some(self.seen.with_refused(statistics.clone())),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.seen.with_refused(poisoned.into_inner().clone())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The evidence and what waits for its labels. Whoever holds it holds up the shadow's thread, and may have to wait for it.
    pub fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.seen.recorder()
    }

    /// Whether anything was recorded since this was asked last.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.seen.is_new.swap(false, Ordering::Relaxed)
    }

    /// What was to be kept was not: it is new still.
    pub fn renew(&self) {
        self.seen.is_new.store(true, Ordering::Relaxed);
    }

    /// What this model made of requests on which the champion failed, and of those where it was not finite.
    #[must_use]
    pub fn retried(&self) -> [Retried; 2] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.seen
            .retried
            .each_ref()
            .map(|[answered, failed]| Retried { answered: read(answered), failed: read(failed) })
    }
}

impl Drop for Challenger {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl Seen {
    pub(super) fn role(&self) -> usize {
        self.role.load(Ordering::Relaxed)
    }

    /// Whether labels are counted by what becomes of them here: at the first of those that are compared.
    pub(super) fn is_first(&self) -> bool {
        self.role() == 0 || (self.role() == PREVIOUS && self.sharers.load(Ordering::Relaxed) == 1)
    }

    /// This one's part of a share of a CPU.
    pub(super) fn part(&self, cpu: f64) -> f64 {
        let sharers = u32::try_from(self.sharers.load(Ordering::Relaxed)).unwrap_or(1);
        (cpu / f64::from(sharers.max(1))).clamp(0.001, 1.0)
    }

    pub(super) fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, to record something.
    pub(super) fn record(&self) -> MutexGuard<'_, Recorder> {
        self.is_new.store(true, Ordering::Relaxed);
        let mut recorder = self.recorder();
        recorder.beside(u32::try_from(self.beside.load(Ordering::Relaxed)).unwrap_or(u32::MAX));
        recorder
    }

    /// Counts requests on which the champion failed, and whether this one did not.
    pub(super) fn count_retried(&self, end: End, answered: bool, requests: u64) {
        let counters = &self.retried[usize::from(end == End::NotFinite)];
        counters[usize::from(!answered)].fetch_add(requests, Ordering::Relaxed);
    }

    /// Rows that were measured at these times were not compared.
    pub(super) fn lose(&self, reason: Lost, places: &[Place]) {
        self.metrics.lost(self.role(), reason, places.len() as u64);
        self.statistics().lose(reason.name(), places.len() as u64);
        if reason.is_its_fault() {
            let mut recorder = self.record();
            places.iter().for_each(|place| recorder.fail(place.at, 1));
        }
    }

    fn with_refused(&self, mut statistics: Statistics) -> Statistics {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused > 0 {
            statistics.lose(Lost::Full.name(), refused);
        }
        statistics
    }
}

/// A pause that lets runs take no more than a share of one CPU.
pub(super) fn pause(took: Duration, share: f64) -> Duration {
    took.mul_f64(1.0 / share - 1.0)
}
