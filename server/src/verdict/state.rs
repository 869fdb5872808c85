//! What was seen of a challenger beside the champion: the state that the servers add up, and what it is recorded from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::active::Active;
use super::buckets::Buckets;
use super::draws::Draws;
use super::evidence::float;
pub use super::recorder::{Recorder, Saved};
use super::scores::Scores;
use super::sketch::Sketch;

/// Names of series that are kept, to know that there are several.
pub const MOST_SERIES: usize = 16;
/// Brier scores are kept as whole numbers of this many parts of one, so that sums do not depend on their order.
const PARTS: f64 = 16_777_216.0;

/// The evidence on one challenger against one champion; the states of several servers add up, exactly and in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// When rows came, and when the challenger failed on some.
    pub active: Active,
    /// When the latest row was measured that both answered, in seconds of Unix time.
    pub until: Option<u64>,
    /// Rows that both answered.
    pub requests: u64,
    /// Rows that the champion made a forecast of, whether or not its actual value came.
    pub forecasts: u64,
    /// The most challengers that ran at once, this one among them.
    pub beside: u32,
    /// Hashes of the series that were named, at most the 16 smallest.
    pub series: BTreeSet<u64>,
    /// Losses of the forecasts.
    pub forecast: Buckets,
    /// Alarms and labels, one draw a half hour.
    pub draws: Draws,
    /// Labelled rows, by who labelled them.
    pub labels: BTreeMap<Source, Labels>,
    /// Runs of the challenger that took too long.
    pub slow: Events,
    /// Decisions that differ, one row for each series and bucket on each server: a series that moves from one server to
    /// another within a bucket may count once on each.
    pub units: Events,
    /// Scores that differ by more than [`super::recorder::FAR`], or that the challenger does not give, of the same rows.
    pub far: Events,
    /// Forecasts that differ by more than this part of the champion's, or of one where that is less, or that the challenger
    /// does not give, of the same rows.
    pub off: Events,
    /// The champion's alarms that the challenger does not give, the first of each series and bucket, as above.
    pub missed: Events,
    /// How the scores are distributed.
    pub scores: Scores,
    /// How long both took for the same rows.
    pub latency: Latency,
}

/// Labelled rows beside those of [`Draws`], on which exactly one is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Labels {
    /// Anomalies on which both are right or both are wrong.
    pub anomalies: u64,
    /// Normal rows on which both are right or both are wrong.
    pub normals: u64,
    /// How far scores were from the labels.
    pub brier: Brier,
}

/// Sums of the squared differences of scores, from 0 to 1, from their labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Brier {
    /// Rows.
    pub rows: u64,
    /// The champion's sum, in parts of 2^-24.
    pub champion: u64,
    /// The challenger's sum, in parts of 2^-24.
    pub challenger: u64,
}

/// Times of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// The champion's.
    pub champion: Sketch,
    /// The challenger's.
    pub challenger: Sketch,
}

/// How often something happened, that should be rare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// It happened.
    pub events: u64,
    /// It could have happened.
    pub trials: u64,
}

impl Evidence {
    /// Adds what was seen elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.active.merge(&other.active);
        self.until = self.until.max(other.until);
        self.requests = self.requests.saturating_add(other.requests);
        self.forecasts = self.forecasts.saturating_add(other.forecasts);
        self.beside = self.beside.max(other.beside);
        other.series.iter().for_each(|series| self.name(*series));
        self.forecast.merge(&other.forecast);
        self.draws.merge(&other.draws);
        other.labels.iter().for_each(|(source, labels)| self.labels.entry(*source).or_default().merge(*labels));
        for (mine, theirs) in [
            (&mut self.slow, other.slow),
            (&mut self.units, other.units),
            (&mut self.far, other.far),
            (&mut self.off, other.off),
            (&mut self.missed, other.missed),
        ] {
            mine.merge(theirs);
        }
        self.scores.merge(&other.scores);
        self.latency.champion.merge(&other.latency.champion);
        self.latency.challenger.merge(&other.latency.challenger);
    }

    /// When the first row came, in seconds of Unix time: the beginning of its ten minutes.
    #[must_use]
    pub fn since(&self) -> Option<u64> {
        self.active.since()
    }

    /// Keeps the name of a series, unless it has none.
    pub(super) fn name(&mut self, series: u64) {
        let full = self.series.len() >= MOST_SERIES;
        if series == 0 || full && self.series.last().is_some_and(|last| series >= *last) {
            return;
        }
        if self.series.insert(series) && full {
            self.series.pop_last();
        }
    }
}

impl Labels {
    /// Counts a row on which both are right or both are wrong.
    pub(super) const fn agreed(&mut self, anomaly: bool) {
        let count = if anomaly { &mut self.anomalies } else { &mut self.normals };
        *count = count.saturating_add(1);
    }

    /// Adds what was counted elsewhere.
    pub const fn merge(&mut self, other: Self) {
        self.anomalies = self.anomalies.saturating_add(other.anomalies);
        self.normals = self.normals.saturating_add(other.normals);
        self.brier.rows = self.brier.rows.saturating_add(other.brier.rows);
        self.brier.champion = self.brier.champion.saturating_add(other.brier.champion);
        self.brier.challenger = self.brier.challenger.saturating_add(other.brier.challenger);
    }
}

impl Brier {
    /// The champion's and the challenger's mean, 0 to 1; `None` without rows.
    #[must_use]
    pub fn means(&self) -> Option<(f64, f64)> {
        let mean = |sum: u64| float(sum) / PARTS / float(self.rows);
        (self.rows > 0).then(|| (mean(self.champion), mean(self.challenger)))
    }

    /// Counts a pair of scores, if both are from 0 to 1.
    pub(super) fn record(&mut self, champion: f64, challenger: f64, anomaly: bool) {
        let scale = 0.0..=1.0;
        if scale.contains(&champion) && scale.contains(&challenger) {
            let truth = f64::from(u8::from(anomaly));
            self.rows = self.rows.saturating_add(1);
            self.champion = self.champion.saturating_add(parts((champion - truth).powi(2)));
            self.challenger = self.challenger.saturating_add(parts((challenger - truth).powi(2)));
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to PARTS")]
fn parts(square: f64) -> u64 {
    (square * PARTS).round() as u64
}

impl Events {
    /// Counts one that could have happened.
    pub const fn record(&mut self, happened: bool) {
        self.events = self.events.saturating_add(happened as u64);
        self.trials = self.trials.saturating_add(1);
    }

    /// Adds what was counted elsewhere.
    pub const fn merge(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.trials = self.trials.saturating_add(other.trials);
    }
}

/// What one model made of a row; `None` where it gives no such output.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answer {
    /// Whether its decision is an alarm.
    pub alarm: Option<bool>,
    /// Its score.
    pub score: Option<f64>,
    /// Its forecast, in the unit of the forecast's target.
    pub forecast: Option<f64>,
}

/// A row that both models answered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Row {
    /// [`hash`] of the name of the thing that was measured, such as a pod; 0 where none was named.
    pub series: u64,
    /// When it was measured, in seconds of Unix time.
    pub at: u64,
    /// The champion's answer.
    pub champion: Answer,
    /// The challenger's.
    pub challenger: Answer,
}

/// Who says what was true. Labels of different sources are never mixed in one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A person.
    Human,
    /// An alert that was resolved as true or false.
    Alertmanager,
    /// An experiment that made the fault.
    Chaos,
    /// The record of an incident, or of quiet hours.
    Incident,
    /// The value that was measured later.
    Metric,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Human, Self::Alertmanager, Self::Chaos, Self::Incident, Self::Metric];

    /// The name in requests and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Alertmanager => "alertmanager",
            Self::Chaos => "chaos",
            Self::Incident => "incident",
            Self::Metric => "metric",
        }
    }

    /// The sources of labels, each of which is tested for itself.
    pub const LABELS: [Self; super::draws::SOURCES] = [Self::Human, Self::Alertmanager, Self::Chaos, Self::Incident];

    /// Its place among [`Source::LABELS`]; a metric tells values alone.
    pub(super) fn number(self) -> Option<usize> {
        Self::LABELS.iter().position(|source| *source == self)
    }
}

/// What was true.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Label {
    /// Of what.
    pub target: Target,
    /// Whether there was an anomaly.
    pub anomaly: Option<bool>,
    /// The value that the forecast was of.
    pub value: Option<f64>,
    /// Who says so.
    pub source: Source,
}

/// Which rows a label is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// The row with this id, see [`Recorder::record`].
    Row(u64),
    /// The row of a series that was measured at this second, or nearest to it; a value is of the forecast that was for then.
    At {
        /// [`hash`] of its name.
        series: u64,
        /// Seconds of Unix time.
        at: u64,
    },
    /// All rows of a series from and to these seconds, also those that are still to come.
    Window {
        /// [`hash`] of its name.
        series: u64,
        /// Seconds of Unix time.
        from: u64,
        /// Seconds of Unix time.
        to: u64,
    },
}

/// What became of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Rows that it was counted for.
    pub labelled: u64,
    /// Rows that this source had labelled before.
    pub known: u64,
}

impl Joined {
    /// Adds what became of another label.
    pub const fn add(&mut self, other: Self) {
        self.labelled = self.labelled.saturating_add(other.labelled);
        self.known = self.known.saturating_add(other.known);
    }
}

/// SplitMix64's last step (Steele and others, 2014): neighbouring numbers become unlike ones, one to one.
#[must_use]
pub const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// FNV-1a: the same on every server and in every version, since states of several servers and of before a restart are joined
/// by it.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
