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
/// Beyond this many more of something, it is never enough.
pub(super) const MOST_MORE: u64 = 1_000_000_000;
/// Points of a band.
pub const POINTS: usize = 100;
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

/// What was known of the improvement at a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The end of a bucket, in seconds of Unix time.
    pub at: u64,
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
        let pair = Bucket { pairs: 1, champion, difference: champion.saturating_sub(challenger) };
        self.add(seconds / SECONDS, pair);
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(number, bucket)| self.add(*number, *bucket));
    }

    /// When the oldest are too many, they go: the latest are the same whatever the order in which they came.
    fn add(&mut self, number: u64, more: Bucket) {
        // Nearly all are of the latest bucket.
        let mut last = self.buckets.last_entry().filter(|last| *last.key() == number);
        let bucket = match &mut last {
            Some(last) => last.get_mut(),
            None => self.buckets.entry(number).or_default(),
        };
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
        self.buckets.values().fold(0, |sum, bucket| sum.saturating_add(bucket.pairs))
    }

    /// Bounds for the improvement, each of which holds with probability `1 - alpha` at all times together; `None` before
    /// any bucket counts that has ended by `now` and holds `least` pairs.
    #[must_use]
    pub fn improvement(&self, least: u64, now: u64, alpha: f64) -> Option<Improvement> {
        let found = Found::of(&self.counted(least, now))?;
        let radius = found.radius(found.buckets, alpha);
        Some(Improvement {
            buckets: found.buckets,
            mean: found.mean / found.scale,
            lower: (found.mean - radius) / found.scale,
            upper: (found.mean + radius) / found.scale,
        })
    }

    /// The improvement after each bucket from the second on, at most [`POINTS`] of them, of which the last is what is
    /// known now.
    #[must_use]
    pub fn band(&self, least: u64, now: u64, alpha: f64) -> Vec<Point> {
        let counted = self.counted(least, now);
        let chosen = counted.len().saturating_sub(1).min(POINTS);
        let mut sums = Sums::new(&counted);
        let mut band = Vec::with_capacity(chosen);
        for (number, mean) in counted.iter().enumerate() {
            sums.add(mean);
            // Of the places from one on, evenly spaced ones with the last.
            if number > 0 && number * chosen / (counted.len() - 1) > (number - 1) * chosen / (counted.len() - 1) {
                let found = sums.found();
                let radius = found.radius(found.buckets, alpha);
                band.push(Point {
                    at: mean.ended,
                    mean: found.mean / found.scale,
                    lower: (found.mean - radius) / found.scale,
                    upper: (found.mean + radius) / found.scale,
                });
            }
        }
        band
    }

    /// How many more buckets it takes until the improvement is greater than `share` beyond doubt, if the mean and the
    /// variance stay as they are; `None` if it never would be, or if that is not known yet.
    #[must_use]
    pub fn more(&self, least: u64, now: u64, alpha: f64, share: f64) -> Option<u64> {
        let found = Found::of(&self.counted(least, now)).filter(|found| found.buckets > 1)?;
        let shown = |more: u64| {
            let buckets = found.buckets + usize::try_from(more).unwrap_or(usize::MAX / 2);
            buckets >= BURN_IN && found.mean - found.radius(buckets, alpha) > share * found.scale
        };
        least_that(MOST_MORE, shown)
    }

    /// Means of the buckets that count.
    fn counted(&self, least: u64, now: u64) -> Vec<Mean> {
        let ended = self.buckets.range(..now / SECONDS).filter(|(_, bucket)| bucket.pairs >= least.max(1));
        ended
            .map(|(number, bucket)| Mean {
                ended: number.saturating_add(1).saturating_mul(SECONDS),
                difference: whole(bucket.difference) / PARTS / float(bucket.pairs),
                champion: whole(bucket.champion) / PARTS / float(bucket.pairs),
            })
            .collect()
    }
}

/// The means of one bucket.
struct Mean {
    ended: u64,
    difference: f64,
    champion: f64,
}

/// What the interval is made of.
struct Found {
    buckets: usize,
    mean: f64,
    /// Inflated by the correlation of neighbours as in an autoregression of order one.
    variance: f64,
    /// The champion's mean loss: one that loses nothing cannot be improved upon.
    scale: f64,
}

impl Found {
    fn of(counted: &[Mean]) -> Option<Self> {
        let k = length(counted.len());
        if counted.is_empty() {
            return None;
        }
        let mean = counted.iter().map(|bucket| bucket.difference).sum::<f64>() / k;
        let variance = counted.iter().map(|bucket| (bucket.difference - mean).powi(2)).sum::<f64>() / k;
        let product = |pair: &[Mean]| (pair[0].difference - mean) * (pair[1].difference - mean);
        let products = counted.windows(2).map(product).sum::<f64>();
        let champion = counted.iter().map(|bucket| bucket.champion).sum::<f64>() / k;
        Some(Self::new(counted.len(), mean, variance, products, champion))
    }

    fn new(buckets: usize, mean: f64, variance: f64, products: f64, champion: f64) -> Self {
        let covariance = products / (length(buckets) - 1.0);
        let correlated = buckets > 1 && variance > 0.0;
        let correlation = if correlated { (covariance / variance).clamp(0.0, MOST_CORRELATED) } else { 0.0 };
        let variance = variance * (1.0 + correlation) / (1.0 - correlation);
        Self { buckets, mean, variance, scale: champion.max(1.0 / PARTS) }
    }

    /// The radius of a one-sided confidence sequence at this many buckets: Robbins' mixture as asymptotic sequence
    /// (Waudby-Smith et al., arXiv 2103.06476).
    fn radius(&self, buckets: usize, alpha: f64) -> f64 {
        if buckets < 2 {
            return f64::INFINITY;
        }
        let k = length(buckets);
        let two = -2.0 * (2.0 * alpha).ln();
        let rho = (two + (two + 1.0).ln()) / NARROWEST;
        let spread = k * rho + 1.0;
        (self.variance * 2.0 * spread / (k * k * rho) * (spread.sqrt() / (2.0 * alpha)).ln_1p()).sqrt()
    }
}

/// Sums that go on from bucket to bucket, around an origin near the mean, so that no digits are lost.
struct Sums {
    origin: f64,
    buckets: usize,
    first: f64,
    last: f64,
    sum: f64,
    squares: f64,
    products: f64,
    champion: f64,
}

impl Sums {
    fn new(counted: &[Mean]) -> Self {
        let origin = counted.iter().map(|bucket| bucket.difference).sum::<f64>() / length(counted.len().max(1));
        Self { origin, buckets: 0, first: 0.0, last: 0.0, sum: 0.0, squares: 0.0, products: 0.0, champion: 0.0 }
    }

    fn add(&mut self, bucket: &Mean) {
        let difference = bucket.difference - self.origin;
        if self.buckets == 0 {
            self.first = difference;
        } else {
            self.products += self.last * difference;
        }
        self.buckets += 1;
        self.last = difference;
        self.sum += difference;
        self.squares += difference * difference;
        self.champion += bucket.champion;
    }

    fn found(&self) -> Found {
        let k = length(self.buckets);
        let mean = self.sum / k;
        let variance = (self.squares / k - mean * mean).max(0.0);
        let products = self.products - mean * (2.0 * self.sum - self.first - self.last) + (k - 1.0) * mean * mean;
        Found::new(self.buckets, mean + self.origin, variance, products, self.champion / k)
    }
}

/// The least number from one on, and up to `most`, for which something holds that holds for all greater ones.
pub(super) fn least_that(most: u64, mut holds: impl FnMut(u64) -> bool) -> Option<u64> {
    let mut enough = 1_u64;
    while !holds(enough) {
        enough = enough.saturating_mul(2);
        if enough > most {
            return None;
        }
    }
    let mut few = enough / 2;
    while few + 1 < enough {
        let middle = u64::midpoint(few, enough);
        if holds(middle) { enough = middle } else { few = middle }
    }
    Some(enough)
}

#[expect(clippy::cast_precision_loss, reason = "buckets of fewer years than there are")]
pub(super) const fn length(count: usize) -> f64 {
    count as f64
}

#[expect(clippy::cast_possible_truncation, reason = "at most GREATEST_LOSS times PARTS")]
fn parts(loss: f64) -> i64 {
    (loss.clamp(0.0, GREATEST_LOSS) * PARTS).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "sums keep 53 bits, which is more than any loss has")]
const fn whole(sum: i64) -> f64 {
    sum as f64
}
