//! When ONNX Runtime is told to give memory back.
//!
//! What a run needed it keeps for the next one, so that one large request would hold gigabytes for good. Giving back costs
//! the next large run up to as much again (2.7 times the time, measured with 32 MB between operators), so that it is done by
//! the first run after a while without any that was large beside what is usual.

use std::time::{Duration, Instant};

/// Less than this, in bytes of inputs and outputs, is not worth it.
const LEAST_BYTES: f64 = 1_048_576.0;
/// Less than this, in seconds, is not worth it: memory between operators is told by nothing but the time.
const LEAST_TIME: f64 = 1e-3;
/// How often the usual size something is before it is large.
const TIMES: f64 = 4.0;
/// The last of this many runs make the usual size.
const RUNS: f64 = 16.0;
/// How long nothing large was run when memory is given back.
const WHILE: Duration = Duration::from_secs(5);

/// What the runs of a session needed, roughly.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: Size,
    time: Size,
    /// When the last large run ended, if its memory was not given back.
    large: Option<Instant>,
}

/// The usual size.
#[derive(Debug, Default)]
struct Size(f64);

impl Size {
    /// Adds one; whether it is large beside the others.
    fn add(&mut self, size: f64, least: f64) -> bool {
        let large = size > least && size > TIMES * self.0;
        self.0 += (size - self.0) / RUNS;
        large
    }
}

impl Room {
    /// Whether a run that begins now ends with giving memory back.
    pub(super) fn shrinks(&mut self, now: Instant) -> bool {
        self.large.take_if(|large| now.saturating_duration_since(*large) >= WHILE).is_some()
    }

    /// Takes a run into account of so many bytes of inputs and outputs.
    #[expect(clippy::cast_precision_loss, reason = "roughly")]
    pub(super) fn ran(&mut self, bytes: usize, took: Duration, now: Instant) {
        let large = self.bytes.add(bytes as f64, LEAST_BYTES);
        if self.time.add(took.as_secs_f64(), LEAST_TIME) || large {
            self.large = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_secs(1);

    /// A session that runs something small every tenth of a second.
    struct Used(Room, Instant);

    impl Used {
        fn new() -> Self {
            let mut used = Self(Room::default(), Instant::now());
            (0..100).for_each(|_| assert!(!used.run(100, SHORT)));
            used
        }

        fn run(&mut self, bytes: usize, took: Duration) -> bool {
            self.1 += Duration::from_millis(100);
            let shrinks = self.0.shrinks(self.1);
            self.0.ran(bytes, took, self.1);
            shrinks
        }

        /// How often memory is given back in the next runs.
        fn gives_back(&mut self, runs: usize, bytes: usize, took: Duration) -> usize {
            (0..runs).filter(|_| self.run(bytes, took)).count()
        }
    }

    #[test]
    fn what_was_large_for_once_is_given_back_after_a_while() {
        for (bytes, took) in [(1 << 30, SHORT), (100, LONG), (1 << 30, LONG)] {
            let mut used = Used::new();
            assert!(!used.run(bytes, took));
            assert_eq!(used.gives_back(49, 100, SHORT), 0, "{bytes} {took:?}");
            assert_eq!(used.gives_back(100, 100, SHORT), 1, "{bytes} {took:?}");
        }
    }

    /// Among small ones, one in ten: it needs its memory again soon.
    #[test]
    fn what_is_large_again_and_again_is_kept() {
        let mut used = Used::new();
        for _ in 0..20 {
            assert_eq!(used.gives_back(9, 100, SHORT) + usize::from(used.run(1 << 30, LONG)), 0);
        }
        assert_eq!(used.gives_back(200, 100, SHORT), 1);
    }

    #[test]
    fn what_is_always_large_is_kept() {
        assert_eq!(Used::new().gives_back(20, 1 << 20, SHORT), 0);
    }
}
