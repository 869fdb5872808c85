//! Whether the values of features are distributed as they were in training.

use std::collections::BTreeMap;
use std::iter::zip;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::buckets::SECONDS;
use super::evidence::{differs, float};
pub use super::histogram::Histogram;
use super::histogram::SMOOTHING;
use super::latest;
use super::seen::Seen;

/// Weight of the reference in [`differs`].
const KAPPA: f64 = 100.0;
/// E from which values are distributed otherwise beyond doubt.
const ENOUGH: f64 = 1000.0;
/// PSI from which that matters.
const MATTERS: f64 = 0.1;
const DAY: u64 = 24 * 3600;
/// Days that are looked at.
const DAYS: u64 = 7;
/// Values without which there is no alarm: the first of many pods at once are hardly independent.
const LEAST_VALUES: u64 = 50;
/// Features that share a map of what was drawn.
const TOGETHER: usize = 64;
/// All of them.
const ALL: u64 = u64::MAX;

/// How a feature was distributed in training: `reference.<feature>` of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Inner edges of the bins, ascending; values beyond the outer ones count in the outer bins.
    pub edges: Vec<f64>,
    /// Share of each bin, of the values that were there; they add up to one.
    pub p: Vec<f64>,
    /// Share of the rows without a value.
    pub p_missing: f64,
    /// Values that were there.
    pub n: u64,
}

impl Reference {
    /// Reads `{"edges": [min, .., max], "p": [..], "p_missing": 0.0, "n": 1000}`.
    ///
    /// # Errors
    /// A sentence that names the field that cannot be used.
    pub fn parse(entry: &Value) -> Result<Self, String> {
        let edges = numbers(entry, "edges")?;
        let mut p = numbers(entry, "p")?;
        if p.is_empty() || edges.len() != p.len() + 1 {
            return Err(format!(
                "`edges` has {} numbers and `p` has {}: give one edge more than there are bins",
                edges.len(),
                p.len()
            ));
        }
        if !edges.is_sorted_by(|a, b| a < b) {
            return Err("`edges` are not ascending: give each edge once, from the least to the greatest".to_owned());
        }
        let total: f64 = p.iter().sum();
        if p.iter().any(|share| *share < 0.0) || (total - 1.0).abs() > 0.01 {
            return Err(format!("`p` adds up to {total}: give shares from 0 to 1 that add up to 1"));
        }
        p.iter_mut().for_each(|share| *share /= total);
        let p_missing = match entry.get("p_missing") {
            None => 0.0,
            Some(share) => share.as_f64().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| {
                format!("`p_missing` is {share}: give the share of the rows without a value, from 0 to 1")
            })?,
        };
        let n = entry.get("n").and_then(Value::as_u64).filter(|n| *n > 0);
        let n = n.ok_or("`n` is no number of rows: give how many values the shares were counted on")?;
        Ok(Self { edges: edges[1..edges.len() - 1].to_vec(), p, p_missing, n })
    }

    /// Shares of all rows: of each bin, and last of those without a value. That one is smoothed, since a training set
    /// without any says little of whether there may be one.
    fn shares(&self) -> Vec<f64> {
        let n = float(self.n);
        let missing = self.p_missing.clamp(0.0, 1.0).mul_add(n, SMOOTHING) / (n + 1.0);
        self.p.iter().map(|share| share * (1.0 - missing)).chain([missing]).collect()
    }
}

fn numbers(entry: &Value, field: &str) -> Result<Vec<f64>, String> {
    let list = entry.get(field).and_then(Value::as_array);
    let numbers: Option<Vec<f64>> = list.and_then(|list| list.iter().map(Value::as_f64).collect());
    numbers.ok_or_else(|| format!("`{field}` is no list of numbers: give {field} as training wrote them"))
}

/// What came of a feature, beside its reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Feature {
    /// The reference.
    pub reference: Reference,
    /// One value of each series and bucket, by the day, the last [`DAYS`] of them: what came long ago says nothing of now.
    pub days: BTreeMap<u64, Histogram>,
}

impl Feature {
    /// Counts of each bin, and last of missing values.
    fn counts(&self) -> Vec<u64> {
        let mut values = Histogram::new(self.reference.p.len());
        self.days.values().for_each(|day| values.merge(day));
        let Histogram { mut counts, missing } = values;
        counts.push(missing);
        counts
    }

    /// Adds what was counted elsewhere, of the same reference.
    fn merge(&mut self, other: &Self) {
        for (day, values) in &other.days {
            if let Some(mine) = of_day(&mut self.days, *day, self.reference.p.len()) {
                mine.merge(values);
            }
        }
    }

    /// ln E against "values are distributed, or missing, as in training": see [`differs`].
    #[must_use]
    pub fn log_e(&self) -> f64 {
        differs(&self.counts(), &self.reference.shares(), KAPPA)
    }

    /// The population stability index against the reference, with missing values as one more bin, less what two samples
    /// of these sizes have on average; 0 without any value.
    #[must_use]
    pub fn psi(&self) -> f64 {
        let (counts, shares) = (self.counts(), self.reference.shares());
        let (bins, n) = (float(counts.len() as u64), float(self.reference.n));
        let m: f64 = counts.iter().map(|count| float(*count)).sum();
        if m == 0.0 || n == 0.0 {
            return 0.0;
        }
        let smooth = |count: f64, total: f64| (count + SMOOTHING) / SMOOTHING.mul_add(bins, total);
        let index: f64 = zip(&counts, &shares)
            .map(|(count, share)| (smooth(share * n, n), smooth(float(*count), m)))
            .map(|(p, q)| (q - p) * (q / p).ln())
            .sum();
        let used = zip(&counts, &shares).filter(|(count, share)| **count > 0 || **share * n >= 1.0).count();
        index - (float(used as u64) - 1.0) * (1.0 / n + 1.0 / m)
    }

    /// Whether values are distributed otherwise, beyond doubt and by so much that it matters.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        let values = self.counts().iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        values >= LEAST_VALUES && self.log_e() >= ENOUGH.ln() && self.psi() >= MATTERS
    }
}

/// What came on a day, unless that is too long ago.
fn of_day(days: &mut BTreeMap<u64, Histogram>, day: u64, bins: usize) -> Option<&mut Histogram> {
    let values = latest::entry(days, day, DAYS)?;
    values.counts.resize(bins, 0);
    Some(values)
}

/// The state of all features; those of several servers add up, exactly and in any order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Drift {
    /// By name.
    pub features: BTreeMap<String, Feature>,
}

impl Drift {
    /// Adds what was counted elsewhere; what has another reference is left out.
    pub fn merge(&mut self, other: &Self) {
        for (name, theirs) in &other.features {
            if !self.features.contains_key(name) {
                let (reference, days) = (theirs.reference.clone(), BTreeMap::new());
                self.features.insert(name.clone(), Feature { reference, days });
            }
            if let Some(mine) = self.features.get_mut(name).filter(|mine| mine.reference == theirs.reference) {
                mine.merge(theirs);
            }
        }
    }

    /// Whether it is of no feature.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// Names of the features whose values are distributed otherwise than in training.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        self.features.iter().filter(|(_, feature)| feature.is_alarm()).map(|(name, _)| name.clone()).collect()
    }
}

/// The features whose drift holds up a challenger, and whether it is from its own training: that is what it is for, so that
/// it counts where it is known, and else the champion's. One that was trained since inputs became what they are would
/// otherwise wait for them to become again what they were.
#[must_use]
pub fn holding(champion: &Drift, own: &Drift) -> (Vec<String>, bool) {
    let is_own = !own.is_empty();
    (if is_own { own } else { champion }.alarms(), is_own)
}

/// Counts values of features, one of each series and bucket.
#[derive(Debug, Default)]
pub struct Drifts {
    names: Vec<String>,
    features: Vec<Feature>,
    /// For each [`TOGETHER`] features: which of them were drawn in the latest bucket of a series.
    drawn: Vec<Drawn>,
}

#[derive(Debug, Default)]
struct Drawn {
    series: Seen,
    /// The latest series and its bucket, and its features that were drawn: rows bring all of theirs together.
    latest: (u64, u64),
    features: u64,
}

impl Drifts {
    /// For features with these references.
    #[must_use]
    pub fn new(references: BTreeMap<String, Reference>) -> Self {
        let drawn = (0..references.len().div_ceil(TOGETHER)).map(|_| Drawn::default()).collect();
        let (names, features) = references
            .into_iter()
            .map(|(name, reference)| (name, Feature { reference, days: BTreeMap::new() }))
            .unzip();
        Self { names, features, drawn }
    }

    /// Goes on where another one was saved, for the features whose references are the same.
    #[must_use]
    pub fn restore(references: BTreeMap<String, Reference>, saved: &Drift) -> Self {
        let mut drifts = Self::new(references);
        for (name, feature) in zip(&drifts.names, &mut drifts.features) {
            if let Some(saved) = saved.features.get(name).filter(|saved| saved.reference == feature.reference) {
                feature.merge(saved);
            }
        }
        drifts
    }

    /// The index of a feature for [`Drifts::record`]; `None` where it has no reference.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.binary_search_by(|known| known.as_str().cmp(name)).ok()
    }

    /// Counts a feature's value, NaN for a missing one, unless a row of this series was counted in this bucket. All
    /// values of a row come one after the other.
    pub fn record(&mut self, series: u64, at: u64, feature: usize, value: f64) {
        let (Some(known), Some(drawn)) = (self.features.get_mut(feature), self.drawn.get_mut(feature / TOGETHER))
        else {
            return;
        };
        let bit = 1 << (feature % TOGETHER);
        let now = (series, at);
        let again = drawn.features & bit != 0 && drawn.features != ALL;
        if drawn.features == 0 || drawn.latest != now || again {
            let first = drawn.series.first(series, at / SECONDS);
            drawn.latest = now;
            // A row that is not the first of its bucket has nothing that is still to be drawn.
            drawn.features = if first { 0 } else { ALL };
        }
        if drawn.features & bit == 0 {
            drawn.features |= bit;
            let Feature { reference, days } = known;
            if let Some(values) = of_day(days, at / DAY, reference.p.len()) {
                values.record(&reference.edges, value);
            }
        }
    }

    /// What was counted.
    #[must_use]
    pub fn state(&self) -> Drift {
        Drift { features: zip(self.names.clone(), self.features.clone()).collect() }
    }
}
