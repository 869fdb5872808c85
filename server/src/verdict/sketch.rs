//! Quantiles of times, of which any number of servers' add up exactly: `DDSketch` (arXiv 1908.10693) with whole numbers alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::evidence::float;

/// A quantile is off by at most this share of it.
pub const ACCURACY: f64 = 0.01;
/// Upper ends of bins are powers of this, in nanoseconds.
const GAMMA: f64 = (1.0 + ACCURACY) / (1.0 - ACCURACY);
/// The greatest bin: more nanoseconds than 64 bits can tell.
const MOST: u16 = 2219;

/// How often a time was in each bin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sketch(BTreeMap<u16, u64>);

impl Sketch {
    /// Counts a time; what is below a nanosecond counts as one.
    pub fn record(&mut self, time: Duration) {
        self.add(bin(time), 1);
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(bin, count)| self.add(*bin, *count));
    }

    fn add(&mut self, bin: u16, more: u64) {
        let count = self.0.entry(bin.min(MOST)).or_default();
        *count = count.saturating_add(more);
    }

    /// Times that were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The time that this share of all is at most, in seconds; `None` without any.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.count();
        let rank = share.clamp(0.0, 1.0) * float(total.saturating_sub(1));
        let mut seen = 0_u64;
        let reached = |(bin, count): (&u16, &u64)| {
            seen = seen.saturating_add(*count);
            (float(seen) > rank).then_some(*bin)
        };
        let bin = self.0.iter().find_map(reached).or_else(|| self.0.last_key_value().map(|(bin, _)| *bin))?;
        Some(2.0 * GAMMA.powi(i32::from(bin.min(MOST))) / (GAMMA + 1.0) / 1e9)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to MOST")]
fn bin(time: Duration) -> u16 {
    let nanoseconds = (time.as_secs_f64() * 1e9).max(1.0);
    (nanoseconds.ln() / GAMMA.ln()).ceil().min(f64::from(MOST)) as u16
}
