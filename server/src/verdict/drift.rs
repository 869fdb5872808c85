//! How far values are from where they were: histograms of fixed bins, and what two of them have in common.

use std::iter::zip;

use serde::{Deserialize, Serialize};

use super::evidence::float;

/// Added to each bin before the logarithms of [`Histogram::psi`], so that no bin is empty.
const SMOOTHING: f64 = 0.5;

/// Counts between fixed edges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Counts of each bin.
    pub counts: Vec<u64>,
    /// Values that are missing.
    pub missing: u64,
}

impl Histogram {
    /// An empty one.
    #[must_use]
    pub fn new(bins: usize) -> Self {
        Self { counts: vec![0; bins], missing: 0 }
    }

    /// Counts a value. `edges` are the inner ones, ascending, one fewer than bins; a value on an edge lies above it.
    pub fn record(&mut self, edges: &[f64], value: f64) {
        if value.is_nan() {
            self.missing += 1;
        } else if let Some(count) = self.counts.get_mut(edges.partition_point(|edge| *edge <= value)) {
            *count += 1;
        }
    }

    /// Adds what was counted elsewhere; what has other bins is left out.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() == other.counts.len() {
            zip(&mut self.counts, &other.counts).for_each(|(mine, theirs)| *mine += theirs);
            self.missing += other.missing;
        }
    }

    /// Values that are there.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The population stability index, `sum (q-p) ln(q/p)`, less what two samples of one population have on average,
    /// `(bins-1)(1/n+1/m)` (arXiv 2307.11878). It may be negative.
    #[must_use]
    pub fn psi(&self, other: &Self) -> f64 {
        let (n, m) = (float(self.total()), float(other.total()));
        if n == 0.0 || m == 0.0 {
            return 0.0;
        }
        let bins = float(self.counts.len() as u64);
        let share = |count: u64, total: f64| (float(count) + SMOOTHING) / SMOOTHING.mul_add(bins, total);
        let index: f64 = zip(&self.counts, &other.counts)
            .map(|(a, b)| (share(*a, n), share(*b, m)))
            .map(|(p, q)| (q - p) * (q / p).ln())
            .sum();
        index - (bins - 1.0) * (1.0 / n + 1.0 / m)
    }

    /// The greatest difference of the distribution functions (Kolmogorov and Smirnov).
    #[must_use]
    pub fn ks(&self, other: &Self) -> f64 {
        self.gaps(other).into_iter().fold(0.0, |most, gap| gap.abs().max(most))
    }

    /// How far the one has to be moved to become the other (Wasserstein's distance of order one), in units of `width`, which
    /// is that of a bin.
    #[must_use]
    pub fn w1(&self, other: &Self, width: f64) -> f64 {
        self.gaps(other).into_iter().map(f64::abs).sum::<f64>() * width
    }

    /// Differences of the distribution functions at the upper end of each bin.
    fn gaps(&self, other: &Self) -> Vec<f64> {
        let (n, m) = (float(self.total()).max(1.0), float(other.total()).max(1.0));
        let mut sums = (0, 0);
        zip(&self.counts, &other.counts)
            .map(|(a, b)| {
                sums = (sums.0 + a, sums.1 + b);
                float(sums.0) / n - float(sums.1) / m
            })
            .collect()
    }
}
