//! Counts between fixed edges, and how far two of them are from each other.

use std::iter::zip;

use serde::{Deserialize, Serialize};

use super::evidence::float;

/// Added to each bin before the logarithms of [`Histogram::psi`], so that no bin is empty.
pub(super) const SMOOTHING: f64 = 0.5;

/// Counts between fixed edges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
            self.missing = self.missing.saturating_add(1);
        } else {
            self.count(edges.partition_point(|edge| *edge <= value));
        }
    }

    /// Counts a value of this bin.
    pub(super) fn count(&mut self, bin: usize) {
        if let Some(count) = self.counts.get_mut(bin) {
            *count = count.saturating_add(1);
        }
    }

    /// Adds what was counted elsewhere; what has other bins is left out.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() == other.counts.len() {
            zip(&mut self.counts, &other.counts).for_each(|(mine, theirs)| *mine = mine.saturating_add(*theirs));
            self.missing = self.missing.saturating_add(other.missing);
        }
    }

    /// Values that are there.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The population stability index, `sum (q-p) ln(q/p)`, less what two samples of one population have on average,
    /// `(bins-1)(1/n+1/m)` (arXiv 2307.11878), of the bins that either has values in: others have nothing to add to the
    /// noise. It may be negative.
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
        let used = zip(&self.counts, &other.counts).filter(|(a, b)| **a > 0 || **b > 0).count();
        index - (float(used as u64) - 1.0) * (1.0 / n + 1.0 / m)
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
        let mut sums = (0_u64, 0_u64);
        zip(&self.counts, &other.counts)
            .map(|(a, b)| {
                sums = (sums.0.saturating_add(*a), sums.1.saturating_add(*b));
                float(sums.0) / n - float(sums.1) / m
            })
            .collect()
    }
}
