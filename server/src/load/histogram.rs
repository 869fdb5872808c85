//! Latencies, kept to three digits in little memory.

use std::time::Duration;

use hdrhistogram::Histogram as Counts;

/// Nothing measured takes longer; what does is recorded as this.
const LONGEST: Duration = Duration::from_secs(3600);
/// Digits of a value that are kept.
const DIGITS: u8 = 3;

/// A histogram of durations, in nanoseconds.
#[derive(Clone)]
pub struct Histogram(Counts<u32>);

impl Default for Histogram {
    fn default() -> Self {
        Self(Counts::new(DIGITS).expect("three digits can be kept"))
    }
}

impl Histogram {
    /// One more duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.min(LONGEST).as_nanos()).expect("an hour has fewer nanoseconds");
        self.0.record(nanos).expect("it grows as long as values fit into memory");
    }

    /// Adds another histogram's durations.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows as long as values fit into memory");
    }

    /// How many were recorded.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration in microseconds that a share `q` of what was recorded does not exceed, within 0.1 %; `None` when
    /// nothing was recorded.
    #[must_use]
    pub fn quantile_us(&self, q: f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(q) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let mut histogram = Histogram::default();
        for micros in 1..=10_000 {
            histogram.record(Duration::from_micros(micros));
        }
        for (q, expected) in [(0.5, 5_000.0), (0.99, 9_900.0), (0.999, 9_990.0), (1.0, 10_000.0)] {
            let got = histogram.quantile_us(q).expect("values were recorded");
            assert!((got / expected - 1.0).abs() < 0.0011, "{q}: {got}");
        }
    }

    #[test]
    fn what_is_longer_than_the_longest_is_kept_as_that() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        let longest = histogram.quantile_us(1.0).expect("a value was recorded");
        assert!((longest / 3.6e9 - 1.0).abs() < 0.0011, "{longest}");
        assert_eq!(histogram.quantile_us(0.0), Some(0.0));
    }

    #[test]
    fn merging_is_as_recording_into_one() {
        let (mut left, mut right, mut both) = (Histogram::default(), Histogram::default(), Histogram::default());
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
        assert_eq!(Histogram::default().quantile_us(0.5), None);
    }
}
