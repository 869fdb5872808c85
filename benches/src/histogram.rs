//! Latencies in log-linear buckets: constant memory, constant time to record, quantiles within 1 %.

use std::time::Duration;

/// Each power of two is cut into this many buckets, so a value is known to 1/128.
const STEPS: u64 = 128;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Nothing measured here takes longer; what does is recorded as this.
const LONGEST_NANOS: u64 = 120_000_000_000;

/// A histogram of durations.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    longest: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; bucket(LONGEST_NANOS) + 1], total: 0, longest: 0 }
    }

    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).min(LONGEST_NANOS);
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.longest = self.longest.max(nanos);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.longest = self.longest.max(other.longest);
    }

    pub(crate) fn count(&self) -> u64 {
        self.total
    }

    /// The duration in microseconds that a share `q` of what was recorded does not exceed, rounded up to its bucket's
    /// end; `None` when nothing was recorded.
    pub(crate) fn quantile_us(&self, q: f64) -> Option<f64> {
        let rank = ((self.total as f64 * q).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(last_of(index).min(self.longest) as f64 / 1000.0)
    }
}

fn bucket(nanos: u64) -> usize {
    let shift = nanos.max(STEPS).ilog2() - STEP_BITS;
    (u64::from(shift) * STEPS + (nanos >> shift)) as usize
}

/// The greatest value that falls into a bucket.
fn last_of(index: usize) -> u64 {
    let index = index as u64;
    if index < 2 * STEPS {
        return index;
    }
    let shift = index / STEPS - 1;
    ((index - shift * STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..5_000).chain([65_535, 65_536, 1_000_000_007, LONGEST_NANOS]) {
            let index = bucket(value);
            assert!(value <= last_of(index), "{value}");
            assert!(index == 0 || value > last_of(index - 1), "{value}");
            assert!((last_of(index) - value) as f64 <= value as f64 / STEPS as f64, "{value}");
        }
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        let mut histogram = Histogram::new();
        for micros in 1..=10_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (q, expected) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0), (1.0, 10_000.0)] {
            let got = histogram.quantile_us(q).expect("values were recorded");
            assert!((got / expected - 1.0).abs() < 0.01, "{q}: {got}");
        }
    }

    #[test]
    fn merging_is_as_recording_into_one() {
        let (mut left, mut right, mut both) = (Histogram::new(), Histogram::new(), Histogram::new());
        for micros in [3, 70, 70, 9_000] {
            left.record(Duration::from_micros(micros));
            both.record(Duration::from_micros(micros));
        }
        right.record(Duration::from_secs(1));
        both.record(Duration::from_secs(1));
        left.merge(&right);
        assert_eq!((left.count(), left.quantile_us(0.99)), (5, both.quantile_us(0.99)));
    }

    #[test]
    fn nothing_recorded_has_no_quantile() {
        assert_eq!(Histogram::new().quantile_us(0.5), None);
    }
}
