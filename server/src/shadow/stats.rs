//! What is counted of a challenger against the champion: sums and counts only, so that the states of several servers
//! merge by addition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::encode;
use crate::model::signature::Signature;
use crate::model::tensor::Tensor;

/// Upper bounds of the bins of the absolute score difference; one more bin counts what lies above.
pub const DIFFERENCE_BOUNDS: [f64; 12] = [0.0, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// How many different decisions are told apart; further ones are counted together as `other`.
const MAX_DECISIONS: usize = 16;

/// Champion and challenger on the same rows, since both serve together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Rows that both models answered.
    pub pairs: u64,
    /// Pairs for which both models gave a decision.
    pub decided: u64,
    /// Of these, those with the same decision.
    pub agreements: u64,
    /// Rows by the champion's and the challenger's decision, `"false>true"`.
    pub decisions: BTreeMap<String, u64>,
    /// Challenger's score minus champion's.
    pub score_difference: Difference,
    /// Challenger's forecast minus champion's, in the forecast's unit.
    pub forecast_difference: Difference,
    /// Rows that the challenger did not answer, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Time of the champion's runs.
    pub champion_compute: Compute,
    /// Time of the challenger's runs.
    pub challenger_compute: Compute,
}

/// Sums of a signed difference and the bins of its absolute value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// How many.
    pub count: u64,
    /// Sum of the differences.
    pub sum: f64,
    /// Sum of their absolute values.
    pub sum_abs: f64,
    /// Sum of their squares.
    pub sum_squares: f64,
    /// Upper bounds of `counts`.
    #[serde(skip_deserializing, default = "bounds")]
    pub bounds: &'static [f64],
    /// Absolute differences by bin; the last one has no bound.
    pub counts: Vec<u64>,
}

const fn bounds() -> &'static [f64] {
    &DIFFERENCE_BOUNDS
}

impl Default for Difference {
    fn default() -> Self {
        let counts = vec![0; DIFFERENCE_BOUNDS.len() + 1];
        Self { count: 0, sum: 0.0, sum_abs: 0.0, sum_squares: 0.0, bounds: &DIFFERENCE_BOUNDS, counts }
    }
}

impl Difference {
    fn record(&mut self, difference: f64) {
        self.count += 1;
        self.sum += difference;
        self.sum_abs += difference.abs();
        self.sum_squares += difference * difference;
        let bin = DIFFERENCE_BOUNDS.iter().position(|b| difference.abs() <= *b);
        self.counts[bin.unwrap_or(DIFFERENCE_BOUNDS.len())] += 1;
    }
}

impl Difference {
    fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.sum_abs += other.sum_abs;
        self.sum_squares += other.sum_squares;
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
    }
}

/// Time spent in runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Compute {
    /// Runs.
    pub runs: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their duration together.
    pub seconds: f64,
}

impl Compute {
    /// Adds a run.
    pub fn record(&mut self, rows: u64, seconds: f64) {
        self.runs += 1;
        self.rows += rows;
        self.seconds += seconds;
    }

    fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.rows += other.rows;
        self.seconds += other.seconds;
    }
}

/// What one compared batch showed, for the metrics.
#[derive(Debug, Default)]
pub struct Compared {
    /// Absolute score differences.
    pub score_differences: Vec<f64>,
    /// Rows by decisions where they differ, champion's first.
    pub disagreements: BTreeMap<(String, String), u64>,
}

impl Statistics {
    /// Compares the answers to the same rows. Outputs are matched by name; a model without a decision or a score is
    /// compared on what it has.
    pub fn compare(&mut self, champion: (&Signature, &[Tensor]), challenger: (&Signature, &[Tensor])) -> Compared {
        let mut compared = Compared::default();
        let rows = champion.1.first().and_then(Tensor::rows).unwrap_or(0);
        self.pairs += rows as u64;
        let both = |pick: fn(&Signature) -> Option<usize>| {
            let output = pick(champion.0)?;
            let name = &champion.0.outputs[output].name;
            let twin = challenger.0.outputs.iter().position(|o| o.name == *name)?;
            Some((champion.1.get(output)?, challenger.1.get(twin)?))
        };
        if let Some((a, b)) = both(Signature::decision) {
            for ((champion, challenger), rows) in decisions(a, b, rows) {
                self.decide(champion, challenger, rows, &mut compared);
            }
        }
        if let Some((a, b)) = both(Signature::score) {
            for (a, b) in pairs(a, b, rows) {
                self.score_difference.record(b - a);
                compared.score_differences.push((b - a).abs());
            }
        }
        if let Some((a, b)) = both(Signature::forecast) {
            for (a, b) in pairs(a, b, rows) {
                self.forecast_difference.record(b - a);
            }
        }
        compared
    }

    fn decide(&mut self, champion: String, challenger: String, rows: u64, compared: &mut Compared) {
        let agree = champion == challenger;
        self.decided += rows;
        let key = format!("{champion}>{challenger}");
        let known = self.decisions.contains_key(&key) || self.decisions.len() < MAX_DECISIONS;
        let other = || "other".to_owned();
        *self.decisions.entry(if known { key } else { other() }).or_default() += rows;
        if agree {
            self.agreements += rows;
        } else {
            let pair = if known { (champion, challenger) } else { (other(), other()) };
            *compared.disagreements.entry(pair).or_default() += rows;
        }
    }

    /// Adds what was counted elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.pairs += other.pairs;
        self.decided += other.decided;
        self.agreements += other.agreements;
        for (key, rows) in &other.decisions {
            let known = self.decisions.contains_key(key) || self.decisions.len() < MAX_DECISIONS;
            *self.decisions.entry(if known { key.clone() } else { "other".into() }).or_default() += rows;
        }
        self.score_difference.merge(&other.score_difference);
        self.forecast_difference.merge(&other.forecast_difference);
        for (reason, rows) in &other.lost {
            self.lose(reason, *rows);
        }
        self.champion_compute.merge(&other.champion_compute);
        self.challenger_compute.merge(&other.challenger_compute);
    }

    /// Counts rows that have no pair.
    pub fn lose(&mut self, reason: &str, rows: u64) {
        match self.lost.get_mut(reason) {
            Some(lost) => *lost += rows,
            None => drop(self.lost.insert(reason.to_owned(), rows)),
        }
    }

    /// Share of the decided pairs with the same decision; `None` before the first one.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn agreement(&self) -> Option<f64> {
        (self.decided > 0).then(|| self.agreements as f64 / self.decided as f64)
    }
}

/// A decision as a label: `true`, `false`, `3`, `cat`.
#[must_use]
pub fn decision(tensor: &Tensor, row: usize) -> String {
    let text = match encode::value(tensor, row) {
        serde_json::Value::String(text) => text,
        other => other.to_string(),
    };
    text.chars().take(32).collect()
}

/// Rows by both decisions, champion's first.
fn decisions(a: &Tensor, b: &Tensor, rows: usize) -> BTreeMap<(String, String), u64> {
    let mut counts = BTreeMap::new();
    if let (Tensor::Bool(a), Tensor::Bool(b)) = (a, b) {
        // Yes and no, by far the most frequent, are counted before they are named.
        let mut pairs = [[0_u64; 2]; 2];
        a.iter().zip(b).for_each(|(a, b)| pairs[usize::from(*a)][usize::from(*b)] += 1);
        for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
            let count = pairs[usize::from(a)][usize::from(b)];
            if count > 0 {
                counts.insert((a.to_string(), b.to_string()), count);
            }
        }
    } else {
        for row in 0..rows {
            *counts.entry((decision(a, row), decision(b, row))).or_default() += 1;
        }
    }
    counts
}

/// First element of each row of both tensors, where both are finite numbers.
fn pairs<'a>(a: &'a Tensor, b: &'a Tensor, rows: usize) -> impl Iterator<Item = (f64, f64)> + use<> {
    let first = |t: &Tensor| {
        let numbers = t.numbers().unwrap_or_default();
        let step = (numbers.len() / rows.max(1)).max(1);
        numbers.into_iter().step_by(step)
    };
    first(a).zip(first(b)).filter(|(a, b)| a.is_finite() && b.is_finite())
}
