//! When ONNX Runtime is told to give memory back.
//!
//! What a run needed it keeps for the next one, so that one large request would hold gigabytes for good. Giving back after
//! each run would cost large models much (2.7 times the time, measured with 32 MB between operators), so that it is done
//! after what is large beside what is usual.

use std::time::Duration;

/// Less than this, in bytes of inputs and outputs, is not worth it.
const LEAST_BYTES: f64 = 1_048_576.0;
/// Less than this, in seconds, is not worth it: memory between operators is told by nothing but the time.
const LEAST_TIME: f64 = 1e-3;
/// How often the usual size something is before it is large.
const TIMES: f64 = 4.0;
/// The last of this many runs make the usual size.
const RUNS: f64 = 16.0;

/// What the runs of a session needed, roughly.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: Size,
    time: Size,
    shrinks: bool,
}

#[derive(Debug, Default)]
struct Size {
    usual: f64,
    /// The most since memory was given back.
    most: f64,
}

impl Size {
    fn is_large(&self, least: f64) -> bool {
        self.most > least && self.most > TIMES * self.usual
    }

    fn add(&mut self, size: f64) {
        self.usual += (size - self.usual) / RUNS;
        self.most = self.most.max(size);
    }
}

impl Room {
    /// Whether the next run, of `given` bytes of inputs, ends with giving memory back.
    #[expect(clippy::cast_precision_loss, reason = "roughly")]
    pub(super) fn shrinks(&mut self, given: usize) -> bool {
        self.bytes.most = self.bytes.most.max(given as f64);
        self.shrinks = self.bytes.is_large(LEAST_BYTES) || self.time.is_large(LEAST_TIME);
        self.shrinks
    }

    /// Takes a run into account that gave `answered` bytes, which it still held when memory was given back.
    #[expect(clippy::cast_precision_loss, reason = "roughly")]
    pub(super) fn ran(&mut self, given: usize, answered: usize, took: Duration) {
        self.bytes.add((given + answered) as f64);
        self.time.add(took.as_secs_f64());
        if self.shrinks {
            (self.bytes.most, self.time.most) = (answered as f64, 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(10);
    const LONG: Duration = Duration::from_secs(1);

    fn run(room: &mut Room, given: usize, took: Duration) -> bool {
        let shrinks = room.shrinks(given);
        room.ran(given, 0, took);
        shrinks
    }

    fn used() -> Room {
        let mut room = Room::default();
        (0..100).for_each(|_| assert!(!run(&mut room, 100, SHORT)));
        room
    }

    #[test]
    fn a_large_request_gives_back_what_it_took() {
        let mut room = used();
        assert!(run(&mut room, 1 << 30, LONG));
        assert!(!run(&mut room, 100, SHORT));
    }

    #[test]
    fn a_run_that_took_long_for_a_small_request_is_followed_by_one_that_gives_back() {
        let mut room = used();
        assert!(!run(&mut room, 100, LONG));
        assert!(run(&mut room, 100, SHORT));
        assert!(!run(&mut room, 100, SHORT));
    }

    #[test]
    fn a_large_answer_is_given_back_by_the_run_after_it() {
        let mut room = used();
        assert!(room.shrinks(1 << 25));
        room.ran(1 << 25, 1 << 30, LONG);
        assert!(run(&mut room, 100, SHORT));
        assert!(!run(&mut room, 100, SHORT));
    }

    #[test]
    fn what_is_always_large_is_kept_until_it_is_so_no_more() {
        let mut room = Room::default();
        (0..100).for_each(|_| _ = run(&mut room, 1 << 30, LONG));
        assert!(!run(&mut room, 1 << 30, LONG));
        let given_back = (0..100).filter(|_| run(&mut room, 100, SHORT)).count();
        assert_eq!(given_back, 1);
    }
}
