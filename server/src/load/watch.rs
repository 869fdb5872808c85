//! When answers began to come from another version, and what latencies were at that time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::Histogram;

/// Latencies are kept apart by when they were, in steps of this.
const STEP: Duration = Duration::from_millis(100);

/// What several runs wait for together.
#[derive(Clone)]
pub struct Watch {
    /// The version that an answer is awaited of.
    pub version: String,
    /// How many of the runs have not had an answer of it yet.
    pub missing: Arc<AtomicUsize>,
    /// How long the runs go on when none is missing.
    pub after: Duration,
}

/// What a watching run of the load generator saw.
#[derive(Clone)]
pub struct Watched {
    /// When the run began.
    pub start: Instant,
    /// Each answer whose version was not that of the answer before it, with its time.
    pub changes: Vec<(String, Instant)>,
    steps: Vec<Histogram>,
    watch: Watch,
    is_seen: bool,
    end: Option<Instant>,
}

impl Watched {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(start: Instant, watch: Watch) -> Self {
        Self { start, changes: Vec::new(), steps: Vec::new(), watch, is_seen: false, end: None }
    }

    /// Whether every run has seen the version, and long enough ago.
    pub fn is_over(&mut self, now: Instant) -> bool {
        if self.end.is_none() && self.watch.missing.load(Ordering::Relaxed) == 0 {
            self.end = Some(now + self.watch.after);
        }
        self.end.is_some_and(|end| now >= end)
    }

    /// One answer: the version that gave it, when, and its latency.
    pub fn record(&mut self, version: &str, at: Instant, latency: Duration) {
        if self.changes.last().is_none_or(|(last, _)| last != version) {
            self.changes.push((version.to_owned(), at));
        }
        if !self.is_seen && version == self.watch.version {
            self.is_seen = true;
            self.watch.missing.fetch_sub(1, Ordering::Relaxed);
        }
        let step = self.step(at);
        if step >= self.steps.len() {
            self.steps.resize_with(step + 1, Histogram::default);
        }
        self.steps[step].record(latency);
    }

    fn step(&self, at: Instant) -> usize {
        usize::try_from(at.saturating_duration_since(self.start).as_nanos() / STEP.as_nanos()).unwrap_or(usize::MAX)
    }

    /// The first answer of a version from some moment on.
    #[must_use]
    pub fn first(&self, version: &str, since: Instant) -> Option<Instant> {
        self.changes.iter().find(|(seen, at)| seen == version && *at >= since).map(|(_, at)| *at)
    }

    /// The latencies of the steps that lie between two moments, those included in which they lie.
    #[must_use]
    pub fn between(&self, from: Instant, to: Instant) -> Histogram {
        let mut together = Histogram::default();
        let steps = self.steps.iter().take(self.step(to) + 1).skip(self.step(from));
        steps.for_each(|step| together.merge(step));
        together
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_and_the_latencies_around_it_are_found() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let missing = Arc::new(AtomicUsize::new(1));
        let watch = Watch { version: "2".to_owned(), missing, after: Duration::from_secs(1) };
        let mut watched = Watched::new(start, watch);
        assert!(!watched.is_over(at(9_000)), "it was not seen");
        for (version, millis) in [("1", 10), ("1", 250), ("2", 260), ("1", 270), ("2", 430)] {
            watched.record(version, at(millis), Duration::from_millis(millis));
        }
        assert_eq!(watched.first("2", start), Some(at(260)));
        assert_eq!(watched.first("2", at(300)), Some(at(430)));
        assert_eq!(watched.first("3", start), None);
        assert_eq!(watched.changes.len(), 4, "one late answer of the old version is two changes");
        assert_eq!(watched.between(at(200), at(299)).count(), 3);
        assert_eq!(watched.between(start, at(9_000)).count(), 5);
        assert_eq!([500, 1_499, 1_500].map(|millis| watched.is_over(at(millis))), [false, false, true]);
    }
}
