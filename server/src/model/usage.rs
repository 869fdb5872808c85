//! What a model did since it was loaded, for the protocols' own statistics.
//!
//! A request adds two numbers and a run seven, none of them under a lock. The metrics know as much of a model's name; here
//! it is by the model itself, and by the size of its runs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Sizes of runs that are told apart; those that come later are counted together.
const SIZES: usize = 64;

/// How often something happened, and how long it took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// How often.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

/// The runs of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows in a run.
    pub rows: usize,
    /// Putting the requests' rows under one another.
    pub input: Total,
    /// Running the model.
    pub infer: Total,
}

/// The numbers of a [`Usage`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// When the last run began, in milliseconds since 1970; 0 for never.
    pub last_run_ms: u64,
    /// Rows that were run.
    pub rows: u64,
    /// Runs.
    pub runs: u64,
    /// Requests answered.
    pub success: Total,
    /// Requests that were not.
    pub fail: Total,
    /// Waiting for a run, by request.
    pub queue: Total,
    /// Putting the requests' rows under one another, by request.
    pub input: Total,
    /// The runs that requests were in, by request.
    pub infer: Total,
    /// By size, smallest first.
    pub batches: Vec<Batch>,
}

#[derive(Default)]
struct Timed {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Timed {
    fn add(&self, count: u64, ns: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.ns.fetch_add(ns, Ordering::Relaxed);
    }

    fn read(&self) -> Total {
        Total { count: self.count.load(Ordering::Relaxed), ns: self.ns.load(Ordering::Relaxed) }
    }
}

/// The runs of one size; 0 for a place that is free.
#[derive(Default)]
struct Size {
    rows: AtomicUsize,
    infer: Timed,
    input_ns: AtomicU64,
}

/// The counters of one model.
pub struct Usage {
    since: (Instant, SystemTime),
    success: Timed,
    fail: Timed,
    /// Requests in runs, and how long they waited.
    queue: Timed,
    input_ns: AtomicU64,
    infer_ns: AtomicU64,
    /// When the last run began, in nanoseconds from `since`.
    last: AtomicU64,
    sizes: [Size; SIZES],
    /// Runs of sizes that came when no place was left, and their rows.
    others: Timed,
    other_rows: AtomicU64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            since: (Instant::now(), SystemTime::now()),
            success: Timed::default(),
            fail: Timed::default(),
            queue: Timed::default(),
            input_ns: AtomicU64::new(0),
            infer_ns: AtomicU64::new(0),
            last: AtomicU64::new(0),
            sizes: std::array::from_fn(|_| Size::default()),
            others: Timed::default(),
            other_rows: AtomicU64::new(0),
        }
    }
}

/// One run and the requests in it.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many rows.
    pub rows: usize,
    /// How many requests.
    pub requests: usize,
    /// How long these waited together.
    pub waited: Duration,
    /// How long it took to put them under one another; zero for one alone.
    pub prepared: Duration,
    /// When it began.
    pub start: Instant,
    /// How long it took.
    pub took: Duration,
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Usage {
    /// Counts a request that ended.
    pub fn request(&self, answered: bool, took: Duration) {
        let counter = if answered { &self.success } else { &self.fail };
        counter.add(1, nanoseconds(took));
    }

    /// Counts a run that went well.
    pub fn run(&self, run: &Run) {
        let (requests, prepared, took) = (run.requests as u64, nanoseconds(run.prepared), nanoseconds(run.took));
        self.queue.add(requests, nanoseconds(run.waited));
        self.infer_ns.fetch_add(took.saturating_mul(requests), Ordering::Relaxed);
        // At least 1, since 0 stands for never.
        self.last.store(nanoseconds(run.start.saturating_duration_since(self.since.0)).max(1), Ordering::Relaxed);
        let size = self.size(run.rows);
        size.map_or(&self.others, |size| &size.infer).add(1, took);
        if size.is_none() {
            self.other_rows.fetch_add(run.rows as u64, Ordering::Relaxed);
        }
        if prepared > 0 {
            self.input_ns.fetch_add(prepared.saturating_mul(requests), Ordering::Relaxed);
            if let Some(size) = size {
                size.input_ns.fetch_add(prepared, Ordering::Relaxed);
            }
        }
    }

    /// The place of a size, its own or the first free one from where it would be.
    fn size(&self, rows: usize) -> Option<&Size> {
        (0..SIZES).map(|step| &self.sizes[(rows + step) % SIZES]).find(|size| {
            let there = size.rows.load(Ordering::Relaxed);
            there == rows
                || there == 0
                    && match size.rows.compare_exchange(0, rows, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => true,
                        Err(first) => first == rows,
                    }
        })
    }

    /// What was counted up to now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (queue, others) = (self.queue.read(), self.others.read());
        let mut batches: Vec<Batch> = self
            .sizes
            .iter()
            .map(|size| {
                let infer = size.infer.read();
                let input = Total { count: infer.count, ns: read(&size.input_ns) };
                Batch { rows: size.rows.load(Ordering::Relaxed), input, infer }
            })
            .filter(|batch| batch.infer.count > 0)
            .collect();
        batches.sort_by_key(|batch| batch.rows);
        let last = match read(&self.last) {
            0 => 0,
            ns => {
                let at = self.since.1 + Duration::from_nanos(ns);
                let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
        };
        Counts {
            last_run_ms: last,
            rows: batches.iter().map(|b| b.rows as u64 * b.infer.count).sum::<u64>() + read(&self.other_rows),
            runs: batches.iter().map(|b| b.infer.count).sum::<u64>() + others.count,
            success: self.success.read(),
            fail: self.fail.read(),
            queue,
            input: Total { count: queue.count, ns: read(&self.input_ns) },
            infer: Total { count: queue.count, ns: read(&self.infer_ns) },
            batches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_by_size_and_in_all() {
        let usage = Usage::default();
        assert_eq!(usage.counts(), Counts::default());
        let run = |rows, requests| Run {
            rows,
            requests,
            waited: Duration::from_nanos(10),
            prepared: Duration::from_nanos(if requests > 1 { 5 } else { 0 }),
            start: Instant::now(),
            took: Duration::from_nanos(100),
        };
        usage.run(&run(1, 1));
        usage.run(&run(65, 2));
        usage.run(&run(1, 1));
        usage.request(true, Duration::from_nanos(7));
        usage.request(false, Duration::from_nanos(8));
        let counts = usage.counts();
        let total = |count, ns| Total { count, ns };
        assert_eq!((counts.rows, counts.runs), (67, 3));
        assert_eq!((counts.success, counts.fail), (total(1, 7), total(1, 8)));
        assert_eq!((counts.queue, counts.input, counts.infer), (total(4, 30), total(4, 10), total(4, 400)));
        let sizes = [
            Batch { rows: 1, input: total(2, 0), infer: total(2, 200) },
            Batch { rows: 65, input: total(1, 5), infer: total(1, 100) },
        ];
        assert_eq!(counts.batches, sizes);
        assert!(counts.last_run_ms > 1_600_000_000_000, "{}", counts.last_run_ms);
    }

    #[test]
    fn sizes_beyond_those_told_apart_are_in_the_sums() {
        let usage = Usage::default();
        let nothing = Duration::ZERO;
        for rows in 1..=100 {
            let run =
                Run { rows, requests: 1, waited: nothing, prepared: nothing, start: Instant::now(), took: nothing };
            usage.run(&run);
        }
        let counts = usage.counts();
        assert_eq!((counts.batches.len(), counts.runs, counts.rows), (SIZES, 100, 5050));
    }

    /// What a request costs beside its answer.
    #[test]
    fn counting_takes_well_under_a_microsecond() {
        let (usage, start) = (Usage::default(), Instant::now());
        let (waited, took) = (Duration::from_nanos(50), Duration::from_micros(9));
        let begin = Instant::now();
        for i in 0..100_000 {
            usage.run(&Run { rows: 1 + i % 8, requests: 1, waited, prepared: Duration::ZERO, start, took });
            usage.request(true, took);
        }
        let each = begin.elapsed() / 100_000;
        assert_eq!(usage.counts().runs, 100_000);
        assert!(each < Duration::from_micros(1), "{each:?}");
    }
}
