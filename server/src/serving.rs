//! What a model's name stands for right now: one immutable set, replaced whole, so that a request sees one of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use arc_swap::ArcSwapOption;

use crate::guard::{End, Guard, Retried, Tally};
use crate::model::Model;
use crate::shadow::Lost;
use crate::shadow::stats::Statistics;

/// The models behind one name. Every request and every batch belongs to exactly one set.
pub struct ServingSet {
    /// Answers requests.
    pub champion: Arc<Model>,
    /// Scores the champion's rows in the shadow.
    pub challenger: Option<Arc<Challenger>>,
    /// The champion before, kept in memory so that a rollback loads nothing.
    pub previous: Option<Arc<Model>>,
    /// What is counted of the champion while it serves.
    pub tally: Arc<Tally>,
    /// The watch over a champion that was just promoted.
    pub guard: Option<Arc<Guard>>,
    /// `epoch` of the `aliases.json` that asked for this set; 0 where there is none.
    pub epoch: u64,
}

impl ServingSet {
    /// A champion alone, that nothing was counted of.
    #[must_use]
    pub fn of(champion: Arc<Model>, epoch: u64) -> Self {
        Self { champion, challenger: None, previous: None, tally: Arc::default(), guard: None, epoch }
    }
}

/// A challenger and what was counted of it against the present champion.
pub struct Challenger {
    /// The model.
    pub model: Arc<Model>,
    /// Whether it is the champion before, which is compared for the guard and stands in no metric of challengers.
    pub is_previous: bool,
    statistics: Mutex<Statistics>,
    /// Requests on which the champion failed, and those where it was not finite: those that this one answers, the others.
    retried: [[AtomicU64; 2]; 2],
    /// Rows for which the queue had no room; counted by threads that must not wait for the lock.
    refused: AtomicU64,
}

impl Challenger {
    /// A challenger that was never compared.
    #[must_use]
    pub fn new(model: Arc<Model>) -> Self {
        Self {
            model,
            is_previous: false,
            statistics: Mutex::default(),
            retried: Default::default(),
            refused: AtomicU64::new(0),
        }
    }

    /// The champion before, which was never compared with the new one.
    #[must_use]
    pub fn previous(model: Arc<Model>) -> Self {
        Self { is_previous: true, ..Self::new(model) }
    }

    /// What was counted up to now. It may have to wait until the shadow's thread gets a CPU.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.with_refused(self.lock().clone())
    }

    /// The same, unless it would have to wait.
    #[must_use]
    pub fn try_statistics(&self) -> Option<Statistics> {
        match self.statistics.try_lock() {
            Ok(statistics) => Some(self.with_refused(statistics.clone())),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.with_refused(poisoned.into_inner().clone())),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// What this model made of requests on which the champion failed, and of those where it was not finite.
    #[must_use]
    pub fn retried(&self) -> [Retried; 2] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.retried.each_ref().map(|[answered, failed]| Retried { answered: read(answered), failed: read(failed) })
    }

    /// Counts requests on which the champion failed, and whether this one did not.
    pub(crate) fn count_retried(&self, end: End, answered: bool, requests: u64) {
        let counters = &self.retried[usize::from(end == End::NotFinite)];
        counters[usize::from(!answered)].fetch_add(requests, Ordering::Relaxed);
    }

    fn with_refused(&self, mut statistics: Statistics) -> Statistics {
        let refused = self.refused.load(Ordering::Relaxed);
        if refused > 0 {
            statistics.lose(Lost::Full.name(), refused);
        }
        statistics
    }

    /// Adds to what was counted; the shadow's thread alone does.
    pub(crate) fn record(&self, add: impl FnOnce(&mut Statistics)) {
        add(&mut self.lock());
    }

    pub(crate) fn refused(&self, rows: u64) {
        self.refused.fetch_add(rows, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The cell that holds the present set.
#[derive(Default)]
pub struct Serving(ArcSwapOption<ServingSet>);

impl Serving {
    /// The present set; `None` until a champion was published.
    #[must_use]
    pub fn get(&self) -> Option<Arc<ServingSet>> {
        self.0.load_full()
    }

    /// Makes a set visible to every request from now on, and gives the one before.
    pub fn publish(&self, set: ServingSet) -> Option<Arc<ServingSet>> {
        self.0.swap(Some(Arc::new(set)))
    }
}
