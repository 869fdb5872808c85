//! Losses of both models by time, and an interval for how much better the challenger is that holds at any time.
//!
//! Requests that are near in time resemble each other, so that a test that took each for itself would be far too sure (on
//! losses like those of real pods it promotes an equal challenger most of the time). All pairs of ten minutes therefore count
//! as one, and what is left of the resemblance from one to the next widens the interval.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::evidence::float;

/// Seconds that count as one.
pub const SECONDS: u64 = 600;
/// Buckets that are kept: 14 days. A test that takes longer has ended without a promotion.
pub const MOST: usize = 14 * 24 * 6;
/// Losses are kept as whole numbers of this many parts of one, so that sums do not depend on their order.
const PARTS: f64 = 16_777_216.0;
/// A loss beyond this counts as this: one absurd answer must not decide.
pub const GREATEST_LOSS: f64 = 50.0;
/// Buckets before which the interval is not used: it is asymptotic.
pub const BURN_IN: usize = 50;
/// Number of buckets at which the interval is narrowest, relative to others.
const NARROWEST: f64 = 300.0;
/// Correlation of neighbours beyond which an interval would be of no use.
const MOST_CORRELATED: f64 = 0.9;

/// Pairs of losses, summed by the time of their requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    buckets: BTreeMap<u64, Bucket>,
}

/// The sums of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Pairs.
    pub pairs: u64,
    /// Sum of the champion's losses, in parts.
    pub champion: i64,
    /// Sum of the champion's losses less the challenger's, in parts.
    pub difference: i64,
}

/// How much less the challenger loses than the champion, as a share of what the champion loses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Improvement {
    /// Buckets that count.
    pub buckets: usize,
    /// The estimate.
    pub mean: f64,
    /// It is greater than this, but with probability `alpha`.
    pub lower: f64,
    /// It is less than this, but with probability `alpha`.
    pub upper: f64,
}

impl Buckets {
    /// Counts a pair. Losses that are no numbers are none.
    pub fn record(&mut self, seconds: u64, champion: f64, challenger: f64) {
        if !champion.is_finite() || !challenger.is_finite() {
            return;
        }
        let (champion, challenger) = (parts(champion), parts(challenger));
        let pair = Bucket { pairs: 1, champion, difference: champion - challenger };
        self.add(seconds / SECONDS, pair);
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(number, bucket)| self.add(*number, *bucket));
    }

    /// When the oldest are too many, they go: the latest are the same whatever the order in which they came.
    fn add(&mut self, number: u64, more: Bucket) {
        let bucket = self.buckets.entry(number).or_default();
        bucket.pairs = bucket.pairs.saturating_add(more.pairs);
        bucket.champion = bucket.champion.saturating_add(more.champion);
        bucket.difference = bucket.difference.saturating_add(more.difference);
        while self.buckets.len() > MOST {
            self.buckets.pop_first();
        }
    }

    /// Pairs in all.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.buckets.values().map(|bucket| bucket.pairs).sum()
    }

    /// Bounds for the improvement, each of which holds with probability `1 - alpha` at all times together; `None` before
    /// any bucket counts that has ended by `now` and holds `least` pairs.
    #[must_use]
    pub fn improvement(&self, least: u64, now: u64, alpha: f64) -> Option<Improvement> {
        let ended = self.buckets.range(..now / SECONDS).map(|(_, bucket)| bucket);
        let counted: Vec<&Bucket> = ended.filter(|bucket| bucket.pairs >= least.max(1)).collect();
        let mean = |sum: i64, bucket: &Bucket| whole(sum) / PARTS / float(bucket.pairs);
        let differences: Vec<f64> = counted.iter().map(|bucket| mean(bucket.difference, bucket)).collect();
        let champion: f64 = counted.iter().map(|bucket| mean(bucket.champion, bucket)).sum();
        let (mean, radius) = interval(&differences, alpha)?;
        // A champion that loses nothing cannot be improved upon.
        let scale = (champion / length(&differences)).max(1.0 / PARTS);
        Some(Improvement {
            buckets: differences.len(),
            mean: mean / scale,
            lower: (mean - radius) / scale,
            upper: (mean + radius) / scale,
        })
    }
}

/// The mean, and the radius of a one-sided confidence sequence: Robbins' mixture as asymptotic sequence (Waudby-Smith et al.,
/// arXiv 2103.06476), its variance inflated by the correlation of neighbours as in an autoregression of order one.
fn interval(values: &[f64], alpha: f64) -> Option<(f64, f64)> {
    let k = length(values);
    if values.is_empty() {
        return None;
    }
    let mean = values.iter().sum::<f64>() / k;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / k;
    if values.len() < 2 {
        return Some((mean, f64::INFINITY));
    }
    let products = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean)).sum::<f64>() / (k - 1.0);
    let correlation = if variance > 0.0 { (products / variance).clamp(0.0, MOST_CORRELATED) } else { 0.0 };
    let inflated = variance * (1.0 + correlation) / (1.0 - correlation);
    let two = -2.0 * (2.0 * alpha).ln();
    let rho = (two + (two + 1.0).ln()) / NARROWEST;
    let spread = k * rho + 1.0;
    let radius = (inflated * 2.0 * spread / (k * k * rho) * (spread.sqrt() / (2.0 * alpha)).ln_1p()).sqrt();
    Some((mean, radius))
}

#[expect(clippy::cast_precision_loss, reason = "at most a few thousand")]
const fn length(values: &[f64]) -> f64 {
    values.len() as f64
}

#[expect(clippy::cast_possible_truncation, reason = "at most GREATEST_LOSS times PARTS")]
fn parts(loss: f64) -> i64 {
    (loss.clamp(0.0, GREATEST_LOSS) * PARTS).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "sums keep 53 bits, which is more than any loss has")]
const fn whole(sum: i64) -> f64 {
    sum as f64
}
