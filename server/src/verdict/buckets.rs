//! Losses of both models by time, and an interval for how much better the challenger is that holds at any time.
//!
//! Requests that are near in time resemble each other, so that a test that took each for itself would be far too sure (on
//! losses like those of real pods it promotes an equal challenger most of the time). All pairs of ten minutes therefore count
//! as one, and what is left of the resemblance from one to the next widens the interval, see [`super::interval`].

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::evidence::float;
use super::interval::{Found, Losses, Mean, Sums};
use super::latest;

/// Seconds that count as one.
pub const SECONDS: u64 = 600;
/// Buckets that are kept: 14 days. A test that takes longer has ended without a promotion.
pub const MOST: usize = 14 * 24 * 6;
/// Losses are kept as whole numbers of this many parts of one, so that sums do not depend on their order.
const PARTS: f64 = 16_777_216.0;
/// A champion that loses less counts as if it lost this, of a unit: nobody improves upon what is as good as exact.
const LEAST_SCALE: f64 = 1e-3;
/// A loss beyond this counts as this: one absurd answer must not decide.
pub const GREATEST_LOSS: f64 = 50.0;
/// Buckets before which the interval is not used: it is asymptotic.
pub const BURN_IN: usize = 50;
/// Beyond this many more of something, it is never enough.
pub(super) const MOST_MORE: u64 = 1_000_000_000;
/// Points of a band.
pub const POINTS: usize = 100;
/// Share of the pairs with such a loss beyond which forecasts show nothing: they are counted in another unit than that.
const MOST_CLIPPED: f64 = 0.05;

/// Pairs of losses, summed by the time of their requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
    /// Pairs with a loss of the champion's beyond [`GREATEST_LOSS`].
    #[serde(default)]
    pub champion_clipped: u64,
    /// And of the challenger's.
    #[serde(default)]
    pub challenger_clipped: u64,
}

/// How much less the challenger loses than the champion, as a share of what the champion loses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Improvement {
    /// Buckets that count.
    pub buckets: usize,
    /// How many would say as much, if none resembled another.
    pub effective: f64,
    /// Whether they are enough for the bounds to be used.
    pub ready: bool,
    /// The estimate.
    pub mean: f64,
    /// It is greater than this, but with probability `alpha`.
    pub lower: f64,
    /// It is less than this, but with probability `alpha`.
    pub upper: f64,
    /// The lower bound if nothing comes that was not seen yet.
    pub seen: f64,
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
    /// Whether the bounds were used then.
    pub ready: bool,
}

impl Buckets {
    /// Counts a pair. Losses that are no numbers are none.
    pub fn record(&mut self, seconds: u64, champion: f64, challenger: f64) {
        if !champion.is_finite() || !challenger.is_finite() {
            return;
        }
        let [champion_clipped, challenger_clipped] = [champion, challenger].map(|loss| u64::from(loss > GREATEST_LOSS));
        let (champion, challenger) = (parts(champion), parts(challenger));
        let pair = Bucket {
            pairs: 1,
            champion,
            difference: champion.saturating_sub(challenger),
            champion_clipped,
            challenger_clipped,
        };
        self.add(seconds / SECONDS, pair);
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        other.buckets.iter().for_each(|(number, bucket)| self.add(*number, *bucket));
    }

    fn add(&mut self, number: u64, more: Bucket) {
        if let Some(bucket) = latest::entry(&mut self.buckets, number, MOST as u64) {
            bucket.pairs = bucket.pairs.saturating_add(more.pairs);
            bucket.champion = bucket.champion.saturating_add(more.champion);
            bucket.difference = bucket.difference.saturating_add(more.difference);
            bucket.champion_clipped = bucket.champion_clipped.saturating_add(more.champion_clipped);
            bucket.challenger_clipped = bucket.challenger_clipped.saturating_add(more.challenger_clipped);
        }
    }

    /// Pairs in all.
    #[must_use]
    pub fn pairs(&self) -> u64 {
        self.buckets.values().fold(0, |sum, bucket| sum.saturating_add(bucket.pairs))
    }

    /// Whether too many losses, of the champion's and of the challenger's, are beyond what is counted: then they are worse than
    /// they look, and nothing speaks for whom they are of.
    #[must_use]
    pub fn are_clipped(&self) -> (bool, bool) {
        let beyond = |clipped: fn(&Bucket) -> u64| {
            let clipped = self.buckets.values().fold(0, |sum: u64, bucket| sum.saturating_add(clipped(bucket)));
            float(clipped) > MOST_CLIPPED * float(self.pairs())
        };
        (beyond(|bucket| bucket.champion_clipped), beyond(|bucket| bucket.challenger_clipped))
    }

    /// Bounds for the improvement, each of which holds with probability `1 - alpha` at all times together; `None` before
    /// any bucket counts that has ended by `now` and holds `least` pairs.
    #[must_use]
    pub fn improvement(&self, least: u64, now: u64, alpha: f64) -> Option<Improvement> {
        self.improvements(least, now, [alpha])[0]
    }

    /// The same at several alphas.
    #[must_use]
    pub fn improvements<const N: usize>(&self, least: u64, now: u64, alphas: [f64; N]) -> [Option<Improvement>; N] {
        let found = self.found(least, now);
        alphas.map(|alpha| found.map(|found| found.improvement(alpha)))
    }

    /// The improvement after each bucket from the second on, with the time of its end, as it was or would have been known then.
    #[must_use]
    pub fn after_each(&self, least: u64, now: u64, alpha: f64) -> Vec<(u64, Improvement)> {
        Self::after(&self.counted(least, now), alpha, |_| true)
    }

    /// The same of at most [`POINTS`] buckets, of which the last is what is known now.
    #[must_use]
    pub fn band(&self, least: u64, now: u64, alpha: f64) -> Vec<Point> {
        let counted = self.counted(least, now);
        let rest = counted.len().saturating_sub(1);
        let chosen = rest.min(POINTS);
        // Of the places from one on, evenly spaced ones with the last.
        let is_chosen = |number: usize| number * chosen / rest > (number - 1) * chosen / rest;
        let points = Self::after(&counted, alpha, is_chosen).into_iter();
        points
            .map(|(at, found)| Point {
                at,
                mean: found.mean,
                lower: found.lower,
                upper: found.upper,
                ready: found.ready,
            })
            .collect()
    }

    fn after(counted: &[Mean], alpha: f64, wanted: impl Fn(usize) -> bool) -> Vec<(u64, Improvement)> {
        let mut sums = Sums::new(counted, LEAST_SCALE);
        let mut known = vec![];
        for (number, bucket) in counted.iter().enumerate() {
            sums.add(bucket.losses);
            if number > 0 && wanted(number) {
                known.push((bucket.ended, sums.found().improvement(alpha)));
            }
        }
        known
    }

    /// How many more buckets it takes until the improvement is greater than `share` beyond doubt, if the mean and the
    /// variance stay as they are, by the bound that reckons with what was `unseen` or by the other; `None` if it never would be
    /// within what is kept, or if that is not known yet.
    #[must_use]
    pub fn more(&self, least: u64, now: u64, alpha: f64, share: f64, unseen: bool) -> Option<u64> {
        let found = self.found(least, now).filter(|found| found.buckets > 1)?;
        let shown = |more: u64| {
            let buckets = found.buckets + usize::try_from(more).unwrap_or(MOST);
            let lower = if unseen { found.bounds(buckets, alpha).0 } else { found.seen(buckets, alpha) };
            found.is_ready(buckets) && lower > share
        };
        least_that((MOST - found.buckets.min(MOST)) as u64, shown)
    }

    fn found(&self, least: u64, now: u64) -> Option<Found> {
        Found::of(&self.counted(least, now), LEAST_SCALE)
    }

    /// Means of the buckets that count.
    fn counted(&self, least: u64, now: u64) -> Vec<Mean> {
        let ended = self.buckets.range(..now / SECONDS).filter(|(_, bucket)| bucket.pairs >= least.max(1));
        ended
            .map(|(number, bucket)| Mean {
                ended: number.saturating_add(1).saturating_mul(SECONDS),
                losses: Losses {
                    difference: whole(bucket.difference) / PARTS / float(bucket.pairs),
                    champion: whole(bucket.champion) / PARTS / float(bucket.pairs),
                },
            })
            .collect()
    }
}

/// The least number from one on, and up to `most`, for which something holds that holds for all greater ones.
pub(super) fn least_that(most: u64, mut holds: impl FnMut(u64) -> bool) -> Option<u64> {
    let (mut few, mut enough) = (0_u64, most.min(1));
    while !holds(enough) {
        if enough >= most {
            return None;
        }
        (few, enough) = (enough, enough.saturating_mul(2).min(most));
    }
    while few + 1 < enough {
        let middle = u64::midpoint(few, enough);
        if holds(middle) { enough = middle } else { few = middle }
    }
    Some(enough)
}

impl<'de> Deserialize<'de> for Buckets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Plain {
            buckets: BTreeMap<u64, Bucket>,
        }
        let mut buckets = Self::default();
        let Plain { buckets: plain } = Plain::deserialize(deserializer)?;
        plain.into_iter().for_each(|(number, bucket)| buckets.add(number, bucket));
        Ok(buckets)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most GREATEST_LOSS times PARTS")]
fn parts(loss: f64) -> i64 {
    (loss.clamp(0.0, GREATEST_LOSS) * PARTS).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "sums keep 53 bits, which is more than any loss has")]
const fn whole(sum: i64) -> f64 {
    sum as f64
}
