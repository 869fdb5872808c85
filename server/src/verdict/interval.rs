//! An interval for a ratio of sums of resembling numbers that holds at any time: an asymptotic confidence sequence, made
//! wider by how numbers go on from one bucket to the next, and by what one bucket that was not seen yet could do.
//!
//! Losses go up and down with the load, of both models at once. What is uncertain of the ratio is therefore not how much the
//! differences vary, but how much they do beyond that: the delta method. Losses of pods are moreover the sum of what
//! lasts for hours and of what does not, and a challenger may lose much, seldom. Either would make an interval that takes only
//! neighbours into account far too narrow.

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
    /// The champion's loss less the challenger's, and the champion's.
    pub(super) losses: Losses,
}

/// The champion's loss less the challenger's, and the champion's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    pub(super) difference: f64,
    pub(super) champion: f64,
}

/// Sums of the products of two losses, from which those of what is left of them follow, for any share.
#[derive(Clone, Copy, Debug, Default)]
struct Products {
    differences: f64,
    mixed: f64,
    champions: f64,
}

/// What the interval is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) buckets: usize,
    /// The mean difference.
    mean: f64,
    /// The champion's mean loss: one that loses nothing cannot be improved upon.
    scale: f64,
    /// Of the differences beyond their share of the champion's loss.
    variance: f64,
    /// Of the mean of these, times the number of buckets.
    long_run: f64,
    /// The greatest difference of either sign.
    greatest: f64,
}

impl Losses {
    /// What is left of the difference beyond this share of the champion's loss.
    fn beyond(self, share: f64) -> f64 {
        share.mul_add(-self.champion, self.difference)
    }

    fn add(self, other: Self) -> Self {
        Self { difference: self.difference + other.difference, champion: self.champion + other.champion }
    }

    fn times(self, factor: f64) -> Self {
        Self { difference: factor * self.difference, champion: factor * self.champion }
    }
}

impl Products {
    fn add(&mut self, one: Losses, other: Losses) {
        self.differences += one.difference * other.difference;
        self.mixed += one.difference * other.champion + one.champion * other.difference;
        self.champions += one.champion * other.champion;
    }

    /// Of what is left beyond this share.
    fn beyond(self, share: f64) -> f64 {
        share.mul_add(share.mul_add(self.champions, -self.mixed), self.differences)
    }
}

impl Found {
    /// Of all of them.
    pub(super) fn of(counted: &[Mean], least_scale: f64) -> Option<Self> {
        let mut sums = Sums::new(counted, least_scale);
        counted.iter().for_each(|bucket| sums.add(bucket.losses));
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
    origin: Losses,
    least_scale: f64,
    blocks: [Block; BLOCKS.len()],
    /// The greatest difference of either sign, and the champion's greatest loss.
    greatest: Losses,
    /// All of them.
    losses: Vec<Losses>,
    /// Sums of the first ones: of none, of one, and so on.
    firsts: Vec<Losses>,
    /// Of those that are so many buckets apart.
    products: [Products; LAGS + 1],
}

impl Sums {
    /// Of none of them yet. A champion that loses less than `least_scale` counts as if it lost that.
    pub(super) fn new(counted: &[Mean], least_scale: f64) -> Self {
        let sum = counted.iter().fold(Losses::default(), |sum, bucket| sum.add(bucket.losses));
        Self {
            origin: sum.times(1.0 / length(counted.len().max(1))),
            least_scale,
            blocks: BLOCKS.map(Block::new),
            greatest: Losses::default(),
            losses: vec![],
            firsts: vec![Losses::default()],
            products: [Products::default(); LAGS + 1],
        }
    }

    pub(super) fn add(&mut self, losses: Losses) {
        self.greatest.difference = self.greatest.difference.max(losses.difference.abs());
        self.greatest.champion = self.greatest.champion.max(losses.champion);
        let losses = losses.add(self.origin.times(-1.0));
        self.blocks.iter_mut().for_each(|block| block.add(losses));
        self.losses.push(losses);
        self.products.iter_mut().zip(self.losses.iter().rev()).for_each(|(sum, before)| sum.add(losses, *before));
        self.firsts.push(self.sum().add(losses));
    }

    fn sum(&self) -> Losses {
        self.firsts.last().copied().unwrap_or_default()
    }

    /// What is known by now.
    pub(super) fn found(&self) -> Found {
        let buckets = self.losses.len();
        let k = length(buckets);
        let mean = self.sum().times(1.0 / k).add(self.origin);
        let scale = mean.champion.max(self.least_scale);
        let share = mean.difference / scale;
        // A bucket with much of all loss has the share follow it, so that too little is left of it.
        let follows = (self.greatest.champion / (k * scale)).min(1.0 - f64::EPSILON);
        let variance = self.blocks[0].variance(share);
        let blocks = self.blocks.iter().filter_map(|block| block.long_run(share));
        let long_run = blocks.fold(self.bartlett(share).max(variance), f64::max);
        Found {
            buckets,
            mean: mean.difference,
            scale,
            variance,
            long_run: TOO_SMALL * long_run / (1.0 - follows).powi(2),
            greatest: self.greatest.difference,
        }
    }

    /// The long-run variance by the covariances up to a lag, with the weights of Bartlett.
    fn bartlett(&self, share: f64) -> f64 {
        let buckets = self.losses.len();
        let k = length(buckets);
        let lags = (buckets / LAGS_SHARE).min(LAGS);
        let sum = self.sum().beyond(share);
        let mean = sum / k;
        let covariance = |lag: usize| {
            let both = sum - self.firsts[lag].beyond(share) + self.firsts[buckets - lag].beyond(share);
            (self.products[lag].beyond(share) - mean * both + length(buckets - lag) * mean * mean) / k
        };
        let weight = |lag: usize| 1.0 - length(lag) / length(lags + 1);
        covariance(0) + 2.0 * (1..=lags).map(|lag| weight(lag) * covariance(lag)).sum::<f64>()
    }
}

/// Means of so many buckets each.
struct Block {
    of: usize,
    open: usize,
    so_far: Losses,
    count: usize,
    first: Losses,
    last: Losses,
    sum: Losses,
    squares: Products,
    products: Products,
}

impl Block {
    fn new(of: usize) -> Self {
        let (none, products) = (Losses::default(), Products::default());
        Self { of, open: 0, so_far: none, count: 0, first: none, last: none, sum: none, squares: products, products }
    }

    fn add(&mut self, losses: Losses) {
        self.so_far = self.so_far.add(losses);
        self.open += 1;
        if self.open < self.of {
            return;
        }
        let mean = self.so_far.times(1.0 / length(self.of));
        (self.so_far, self.open) = (Losses::default(), 0);
        if self.count == 0 {
            self.first = mean;
        } else {
            self.products.add(self.last, mean);
        }
        self.count += 1;
        self.last = mean;
        self.sum = self.sum.add(mean);
        self.squares.add(mean, mean);
    }

    fn variance(&self, share: f64) -> f64 {
        let n = length(self.count.max(1));
        (self.squares.beyond(share) / n - (self.sum.beyond(share) / n).powi(2)).max(0.0)
    }

    /// The long-run variance if the blocks are an autoregression of order one. That their correlation comes out too small
    /// is made up for (Kendall, Biometrika 41, 1954); that of buckets is taken from the second on.
    fn long_run(&self, share: f64) -> Option<f64> {
        if self.count < if self.of == 1 { 2 } else { LEAST_BLOCKS } {
            return None;
        }
        let (n, variance) = (length(self.count), self.variance(share));
        let [sum, first, last] = [self.sum, self.first, self.last].map(|losses| losses.beyond(share));
        let mean = sum / n;
        let products = self.products.beyond(share) - mean * (2.0 * sum - first - last) + (n - 1.0) * mean * mean;
        let found = if variance > 0.0 { products / (n - 1.0) / variance } else { 0.0 };
        let correlation = (found + 3.0f64.mul_add(found, 1.0) / n).clamp(0.0, MOST_CORRELATED);
        Some(length(self.of) * variance * (1.0 + correlation) / (1.0 - correlation))
    }
}

#[expect(clippy::cast_precision_loss, reason = "buckets of fewer years than there are")]
pub(super) const fn length(count: usize) -> f64 {
    count as f64
}
