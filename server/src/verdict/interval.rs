//! An interval for a mean of resembling numbers that holds at any time: an asymptotic confidence sequence, made wider by
//! how numbers go on from one bucket to the next, and by what one bucket that was not seen yet could do.
//!
//! Losses of pods are the sum of what lasts for hours and of what does not, and a challenger may lose much, seldom. Either
//! would make an interval that takes only neighbours into account far too narrow.

use super::buckets::{BURN_IN, Improvement};

/// Number of buckets at which the interval is narrowest, relative to others.
const NARROWEST: f64 = 300.0;
/// Buckets that are taken together, to see how they go on.
const BLOCKS: [usize; 6] = [1, 6, 18, 36, 72, 144];
/// Blocks without which that says nothing.
const LEAST_BLOCKS: usize = 8;
/// Correlation of neighbours beyond which an interval would be of no use.
const MOST_CORRELATED: f64 = 0.9;
/// Buckets by which those are apart that are still compared: a day.
const LAGS: usize = 144;
/// The same as a part of all of them.
const LAGS_SHARE: usize = 4;
/// What all of these come out too small by, of few and slowly changing numbers, by simulation.
const TOO_SMALL: f64 = 1.25;
/// What a bucket that was not seen yet may be, in mean losses of the champion.
const UNSEEN: f64 = 4.0;
/// Buckets, if none resembled another, before which the interval is not used.
const LEAST_EFFECTIVE: f64 = 15.0;

/// The means of one bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean {
    /// Its end, in seconds of Unix time.
    pub(super) ended: u64,
    /// The champion's loss less the challenger's.
    pub(super) difference: f64,
    /// The champion's loss.
    pub(super) champion: f64,
}

/// What the interval is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) buckets: usize,
    mean: f64,
    variance: f64,
    /// Of the mean, times the number of buckets.
    long_run: f64,
    /// The champion's mean loss: one that loses nothing cannot be improved upon.
    scale: f64,
    /// The greatest difference of either sign.
    greatest: f64,
}

impl Found {
    /// Of all of them.
    pub(super) fn of(counted: &[Mean], least_scale: f64) -> Option<Self> {
        let mut sums = Sums::new(counted, least_scale);
        counted.iter().for_each(|bucket| sums.add(bucket));
        (!counted.is_empty()).then(|| sums.found())
    }

    /// The mean as a share of the champion's loss.
    pub(super) fn share(&self) -> f64 {
        self.mean / self.scale
    }

    /// Buckets that say as much, if none resembled another.
    fn effective(&self, buckets: usize) -> f64 {
        let k = length(buckets);
        if self.long_run > 0.0 { k * self.variance / self.long_run } else { k }
    }

    /// Whether the interval may be used at this many buckets: it is asymptotic.
    pub(super) fn is_ready(&self, buckets: usize) -> bool {
        buckets >= BURN_IN && self.effective(buckets) >= LEAST_EFFECTIVE
    }

    /// The lower and the upper bound at this many buckets, as shares of the champion's loss, each with one more bucket that
    /// speaks against it.
    pub(super) fn bounds(&self, buckets: usize, alpha: f64) -> (f64, f64) {
        if buckets < 2 {
            return (f64::NEG_INFINITY, f64::INFINITY);
        }
        let unseen = self.greatest.max(UNSEEN * self.scale);
        (self.bound(buckets, alpha, -unseen) / self.scale, self.bound(buckets, alpha, unseen) / self.scale)
    }

    /// The lower bound at this many buckets if nothing comes that was not seen yet.
    pub(super) fn seen(&self, buckets: usize, alpha: f64) -> f64 {
        if buckets < 2 {
            return f64::NEG_INFINITY;
        }
        (self.mean - self.long_run.sqrt() * radius(length(buckets), alpha)) / self.scale
    }

    fn bound(&self, buckets: usize, alpha: f64, unseen: f64) -> f64 {
        let k = length(buckets);
        let more = k + 1.0;
        let mean = k.mul_add(self.mean, unseen) / more;
        let variance = (self.long_run + (unseen - self.mean).powi(2) / more) * k / more;
        mean + (variance.sqrt() * radius(more, alpha)).copysign(unseen)
    }

    /// Both bounds at present.
    pub(super) fn improvement(&self, alpha: f64) -> Improvement {
        let (lower, upper) = self.bounds(self.buckets, alpha);
        Improvement {
            buckets: self.buckets,
            effective: self.effective(self.buckets),
            ready: self.is_ready(self.buckets),
            mean: self.share(),
            lower,
            upper,
            seen: self.seen(self.buckets, alpha),
        }
    }
}

/// The radius of a one-sided confidence sequence for numbers of variance one: Robbins' mixture as asymptotic sequence
/// (Waudby-Smith et al., arXiv 2103.06476).
fn radius(k: f64, alpha: f64) -> f64 {
    let two = -2.0 * (2.0 * alpha).ln();
    let rho = (two + (two + 1.0).ln()) / NARROWEST;
    let spread = k * rho + 1.0;
    (2.0 * spread / (k * k * rho) * (spread.sqrt() / (2.0 * alpha)).ln_1p()).sqrt()
}

/// Sums that go on from bucket to bucket, around an origin near the mean, so that no digits are lost.
pub(super) struct Sums {
    origin: f64,
    least_scale: f64,
    blocks: [Block; BLOCKS.len()],
    champion: f64,
    greatest: f64,
    /// All of them.
    differences: Vec<f64>,
    /// Sums of the first ones: of none, of one, and so on.
    firsts: Vec<f64>,
    /// Sums of the products of those that are so many buckets apart.
    products: [f64; LAGS + 1],
}

impl Sums {
    /// Of none of them yet. A champion that loses less than `least_scale` counts as if it lost that.
    pub(super) fn new(counted: &[Mean], least_scale: f64) -> Self {
        let sum: f64 = counted.iter().map(|bucket| bucket.difference).sum();
        Self {
            origin: sum / length(counted.len().max(1)),
            least_scale,
            blocks: BLOCKS.map(Block::new),
            champion: 0.0,
            greatest: 0.0,
            differences: vec![],
            firsts: vec![0.0],
            products: [0.0; LAGS + 1],
        }
    }

    pub(super) fn add(&mut self, bucket: &Mean) {
        let difference = bucket.difference - self.origin;
        self.blocks.iter_mut().for_each(|block| block.add(difference));
        self.champion += bucket.champion;
        self.greatest = self.greatest.max(bucket.difference.abs());
        self.differences.push(difference);
        self.products
            .iter_mut()
            .zip(self.differences.iter().rev())
            .for_each(|(sum, before)| *sum += difference * before);
        self.firsts.push(self.sum() + difference);
    }

    fn sum(&self) -> f64 {
        self.firsts.last().copied().unwrap_or_default()
    }

    /// What is known by now.
    pub(super) fn found(&self) -> Found {
        let buckets = self.firsts.len() - 1;
        let k = length(buckets);
        let mean = self.sum() / k;
        let variance = self.blocks[0].variance();
        let blocks = self.blocks.iter().filter_map(Block::long_run);
        Found {
            buckets,
            mean: mean + self.origin,
            variance,
            long_run: TOO_SMALL * blocks.fold(self.bartlett(mean).max(variance), f64::max),
            scale: (self.champion / k).max(self.least_scale),
            greatest: self.greatest,
        }
    }

    /// The long-run variance by the covariances up to a lag, with the weights of Bartlett.
    fn bartlett(&self, mean: f64) -> f64 {
        let buckets = self.firsts.len() - 1;
        let k = length(buckets);
        let lags = (buckets / LAGS_SHARE).min(LAGS);
        let covariance = |lag: usize| {
            let both = self.sum() - self.firsts[lag] + self.firsts[buckets - lag];
            (self.products[lag] - mean * both + length(buckets - lag) * mean * mean) / k
        };
        let weight = |lag: usize| 1.0 - length(lag) / length(lags + 1);
        covariance(0) + 2.0 * (1..=lags).map(|lag| weight(lag) * covariance(lag)).sum::<f64>()
    }
}

/// Means of so many buckets each.
struct Block {
    of: usize,
    open: usize,
    so_far: f64,
    count: usize,
    first: f64,
    last: f64,
    sum: f64,
    squares: f64,
    products: f64,
}

impl Block {
    const fn new(of: usize) -> Self {
        Self { of, open: 0, so_far: 0.0, count: 0, first: 0.0, last: 0.0, sum: 0.0, squares: 0.0, products: 0.0 }
    }

    fn add(&mut self, difference: f64) {
        self.so_far += difference;
        self.open += 1;
        if self.open < self.of {
            return;
        }
        let mean = self.so_far / length(self.of);
        (self.so_far, self.open) = (0.0, 0);
        if self.count == 0 {
            self.first = mean;
        } else {
            self.products += self.last * mean;
        }
        self.count += 1;
        self.last = mean;
        self.sum += mean;
        self.squares += mean * mean;
    }

    fn variance(&self) -> f64 {
        let n = length(self.count.max(1));
        (self.squares / n - (self.sum / n).powi(2)).max(0.0)
    }

    /// The long-run variance if the blocks are an autoregression of order one. That their correlation comes out too small
    /// is made up for (Kendall, Biometrika 41, 1954); that of buckets is taken from the second on.
    fn long_run(&self) -> Option<f64> {
        if self.count < if self.of == 1 { 2 } else { LEAST_BLOCKS } {
            return None;
        }
        let (n, variance) = (length(self.count), self.variance());
        let mean = self.sum / n;
        let products = self.products - mean * (2.0 * self.sum - self.first - self.last) + (n - 1.0) * mean * mean;
        let found = if variance > 0.0 { products / (n - 1.0) / variance } else { 0.0 };
        let correlation = (found + 3.0f64.mul_add(found, 1.0) / n).clamp(0.0, MOST_CORRELATED);
        Some(length(self.of) * variance * (1.0 + correlation) / (1.0 - correlation))
    }
}

#[expect(clippy::cast_precision_loss, reason = "buckets of fewer years than there are")]
pub(super) const fn length(count: usize) -> f64 {
    count as f64
}
