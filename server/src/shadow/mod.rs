//! The shadow lane: challengers score what the champion has answered, where they cannot hurt.
//!
//! Each has a bounded queue that is never waited for, a thread that runs only when a CPU is idle, its part of a share of one
//! CPU, a deadline on each run, and a pause after repeated failures. Whatever happens here, the champion's answer has already
//! been sent.

pub mod answers;
mod breaker;
mod challenger;
pub mod kept;
pub(crate) mod observer;
pub mod origin;
mod queue;
mod scorer;
pub mod state;
pub mod stats;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::guard::End;
use crate::model::Model;
use crate::model::tensor::{self, Tensor};
pub use challenger::{Challenger, MOST, PREVIOUS, ROLES};
pub use observer::Observer;
use origin::{Origin, Place};
use queue::Size;

/// How much the shadow may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Share of the batches that are scored, 0 to 1.
    pub sample: f64,
    /// Rows that may wait, for each challenger.
    pub queue_rows: usize,
    /// Share of one CPU that the runs of all challengers together may take, above 0 to 1.
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
    /// The machine was too busy to run it in time.
    Waited,
}

impl Lost {
    /// All reasons.
    pub const ALL: [Self; 6] = [Self::Full, Self::Paused, Self::Failed, Self::Deadline, Self::NonFinite, Self::Waited];

    /// The name in metrics and in the statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Paused => "paused",
            Self::Failed => "failed",
            Self::Deadline => "deadline",
            Self::NonFinite => "non_finite",
            Self::Waited => "waited",
        }
    }

    /// Whether the challenger is to blame, so that it speaks against it.
    const fn is_its_fault(self) -> bool {
        matches!(self, Self::Failed | Self::Deadline | Self::NonFinite)
    }
}

/// What the champion answered, for a challenger to answer too.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) champion: Arc<Model>,
    pub(crate) inputs: Arc<[Tensor]>,
    pub(crate) theirs: Theirs,
    pub(crate) rows: usize,
    /// Where the rows come from: each origin and how many are its.
    pub(crate) origins: Arc<[(Origin, usize)]>,
    /// Duration of the champion's run.
    pub(crate) took: Duration,
}

/// What came of the champion's run.
#[derive(Clone)]
pub(crate) enum Theirs {
    /// Its outputs.
    Answers(Arc<[Tensor]>),
    /// It failed on these rows, which are this many requests: the champion before shows whether that was the rows' fault.
    Fault(End, u64),
}

impl Pair {
    fn size(&self) -> Size {
        Size { rows: self.rows, bytes: tensor::weight(&self.inputs) + tensor::weight(self.answers()) }
    }

    fn answers(&self) -> &[Tensor] {
        match &self.theirs {
            Theirs::Answers(outputs) => outputs,
            Theirs::Fault(..) => &[],
        }
    }

    /// Where each row comes from.
    fn places(&self) -> impl Iterator<Item = Place> {
        let places = |(origin, rows): &(Origin, usize)| {
            let origin = origin.clone();
            (0..*rows).map(move |row| origin.place(row))
        };
        self.origins.iter().flat_map(places).take(self.rows)
    }

    fn joins(&self, other: &Self) -> bool {
        let answered = |pair: &Self| matches!(pair.theirs, Theirs::Answers(_));
        answered(self)
            && answered(other)
            && Arc::ptr_eq(&self.champion, &other.champion)
            && tensor::same_rows(&self.inputs, &other.inputs)
    }
}

/// Which batches are scored.
pub struct Sampler {
    share: f64,
    offered: AtomicUsize,
}

impl Sampler {
    /// A share of them, 0 to 1.
    #[must_use]
    pub const fn new(share: f64) -> Self {
        Self { share, offered: AtomicUsize::new(0) }
    }

    /// Whether the next one is. The share is spread evenly: multiples of the golden ratio fill the unit interval without
    /// clumps.
    #[expect(clippy::cast_precision_loss, reason = "exact for 2^53 batches")]
    pub(crate) fn takes(&self) -> bool {
        self.share >= 1.0 || {
            let n = self.offered.fetch_add(1, Ordering::Relaxed) as f64;
            (n * 0.618_033_988_749_894_9).fract() < self.share
        }
    }
}
