//! Pauses a challenger that fails again and again.

use std::time::{Duration, Instant};

/// Failures in a row after which the challenger is paused.
pub(super) const FAILURES: u32 = 5;
/// The first pause; each further one in a row is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(300);

#[derive(Default)]
pub(super) struct Breaker {
    failures: u32,
    pause: Duration,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn is_open(&self) -> bool {
        self.open_until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn close(&mut self) {
        *self = Self::default();
    }

    /// Counts a failure; the length of the pause when one begins.
    pub(super) fn failed(&mut self) -> Option<Duration> {
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
