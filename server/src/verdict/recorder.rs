//! Counts the evidence on one challenger, and remembers rows until their labels come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::buckets::SECONDS;
use super::drift::{Drift, Drifts, Reference};
use super::packed;
use super::pending::{KEPT_SECONDS, Pending, Waiting};
use super::seen::Seen;
use super::state::{Answer, Evidence, Joined, Label, Row, Source, Target};

/// Windows that are open for rows that are still to come.
const MOST_WINDOWS: usize = 256;
/// A run that takes no longer than this is never too slow, in nanoseconds: shadows run when there is nothing else to do, so
/// that on a busy machine small ones wait for longer than they run.
const NEVER_SLOW: u64 = 10_000_000;
/// Otherwise it is too slow when it takes this many times what 99 % of the champion's took at most.
const SLOWER: f64 = 1.5;
/// Runs without which that is not known, and after which it is looked at again.
const RUNS: u64 = 128;
/// Series are mixed with this where alarms of theirs are counted.
const ALARMS: u64 = 0x9e37_79b9_7f4a_7c15;
/// Scores that differ by more than this, or forecasts by this part, are different.
pub const FAR: f64 = 1e-3;

/// Counts the evidence on one challenger, and remembers rows until their labels come.
///
/// Whatever it keeps is bounded: about 9 MB when there are as many rows as it keeps.
#[derive(Debug)]
pub struct Recorder {
    horizon: Option<u64>,
    /// What a loss is told in, in the unit of the forecast's target.
    unit: f64,
    evidence: Evidence,
    /// How inputs are distributed, beside those of the challenger's own training.
    drifts: Drifts,
    /// What was kept of that, before it is known what the training was.
    kept: Drift,
    pending: Pending,
    windows: Vec<Window>,
    seen: Seen,
    /// Nanoseconds beyond which a run is too slow; 0 before that is known.
    limit: u64,
}

/// What a recorder keeps over a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Saved {
    evidence: Evidence,
    drift: Drift,
    #[serde(with = "packed")]
    pending: Vec<Waiting>,
    windows: Vec<Window>,
    #[serde(with = "packed")]
    seen: Vec<[u64; 2]>,
    #[serde(with = "packed")]
    seen_before: Vec<[u64; 2]>,
    limit: u64,
}

/// A label of all rows of a series from and to these seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    series: u64,
    from: u64,
    to: u64,
    anomaly: bool,
    source: Source,
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Recorder {
    /// An empty one. `horizon` is how far ahead the champion's forecast looks, in seconds.
    #[must_use]
    pub fn new(horizon: Option<u64>) -> Self {
        Self::restore(horizon, Saved::default())
    }

    /// Goes on where another one was saved.
    #[must_use]
    pub fn restore(horizon: Option<u64>, saved: Saved) -> Self {
        let Saved { evidence, drift, pending, mut windows, seen, seen_before, limit } = saved;
        windows.truncate(MOST_WINDOWS);
        let (pending, seen) = (Pending::restore(pending), Seen::restore([seen, seen_before]));
        let drifts = Drifts::default();
        Self { horizon, unit: 1.0, evidence, drifts, kept: drift, pending, windows, seen, limit }
    }

    /// Losses are told in this unit from now on, of which up to [`super::buckets::GREATEST_LOSS`] are counted: a hundredth of
    /// the forecast's range, where the manifest declares one. It is not saved. What is no unit changes nothing.
    #[must_use]
    pub fn scaled(mut self, unit: f64) -> Self {
        if unit.is_normal() && unit > 0.0 {
            self.unit = unit;
        }
        self
    }

    /// Inputs are counted beside these references of the challenger's own training from now on. What was kept of other ones
    /// is left.
    #[must_use]
    pub fn trained(mut self, references: BTreeMap<String, Reference>) -> Self {
        self.drifts = Drifts::restore(references, &std::mem::take(&mut self.kept));
        self
    }

    /// So many challengers run at once from now on, this one among them: they share the error that is allowed, also after some
    /// of them are gone.
    pub fn beside(&mut self, challengers: u32) {
        self.evidence.beside = self.evidence.beside.max(challengers);
    }

    /// What is to be kept over a restart.
    #[must_use]
    pub fn save(&self) -> Saved {
        let [seen, seen_before] = self.seen.save();
        Saved {
            evidence: self.evidence.clone(),
            drift: self.drift(),
            pending: self.pending.save(self.newest()),
            windows: self.windows.clone(),
            seen,
            seen_before,
            limit: self.limit,
        }
    }

    /// The evidence up to now.
    #[must_use]
    pub const fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// How inputs differ from those of the challenger's own training; of no feature where that is not known.
    #[must_use]
    pub fn drift(&self) -> Drift {
        self.drifts.state()
    }

    /// Where inputs are counted, for [`Recorder::drift`].
    pub const fn drifts(&mut self) -> &mut Drifts {
        &mut self.drifts
    }

    /// Counts a row that both models answered. `id` names it for labels that come later; 0 for none.
    ///
    /// The row's time is believed: what is far in the future would make all others too old.
    pub fn record(&mut self, id: u64, row: &Row) {
        let Row { series, at, .. } = *row;
        let (champion, challenger) = (finite(row.champion), finite(row.challenger));
        let evidence = &mut self.evidence;
        let later = evidence.until.is_none_or(|until| at / SECONDS > until / SECONDS);
        evidence.until = evidence.until.max(Some(at));
        evidence.requests = evidence.requests.saturating_add(1);
        evidence.forecasts = evidence.forecasts.saturating_add(u64::from(champion.forecast.is_some()));
        // One that does not decide where the champion does is of no use in its place.
        evidence.active.record(at, 1, champion.alarm.is_some() && challenger.alarm.is_none());
        evidence.name(series);
        let decisions = champion.alarm.zip(challenger.alarm);
        let scores = champion.score.zip(challenger.score);
        if let Some((champion, challenger)) = decisions {
            evidence.draws.decided(series, at, champion, challenger);
        }
        if let Some((champion, challenger)) = scores {
            evidence.scores.record(champion, challenger);
        }
        if self.seen.first(series, at / SECONDS) {
            // What only the champion gives differs.
            if let Some(alarm) = champion.alarm {
                evidence.units.record(challenger.alarm != Some(alarm));
            }
            if let Some(score) = champion.score {
                let most = FAR * score.abs().max(1.0);
                evidence.far.record(challenger.score.is_none_or(|other| (score - other).abs() > most));
            }
            if let Some(forecast) = champion.forecast {
                let most = FAR * forecast.abs().max(self.unit);
                evidence.off.record(challenger.forecast.is_none_or(|other| (forecast - other).abs() > most));
            }
        }
        if champion.alarm == Some(true) && self.seen.first(series ^ ALARMS, at / SECONDS) {
            evidence.missed.record(challenger.alarm != Some(true));
        }
        let place = self.pending.push(Waiting::new(id, &Row { champion, challenger, ..*row }));
        if self.windows.is_empty() {
            return;
        }
        if later {
            self.close_windows();
        }
        for number in 0..self.windows.len() {
            let Window { series, from, to, anomaly, source } = self.windows[number];
            if series == row.series && (from..=to).contains(&at) {
                self.judge(place, source, anomaly);
            }
        }
    }

    /// Counts rows of this second of Unix time that the challenger failed on, or that it answered with what is no number.
    pub fn fail(&mut self, at: u64, rows: u64) {
        self.evidence.active.record(at, rows, true);
    }

    /// Counts the time that both took for the same rows. The challenger's is too long if it is longer than 10 ms and than 1.5
    /// times what 99 % of the champion's runs took at most; that is known after 128 runs.
    pub fn time(&mut self, champion: Duration, challenger: Duration) {
        let latency = &mut self.evidence.latency;
        latency.champion.record(champion);
        latency.challenger.record(challenger);
        if self.limit > 0 {
            self.evidence.slow.record(challenger > Duration::from_nanos(self.limit));
        }
        if latency.champion.count().is_multiple_of(RUNS) {
            let usual = latency.champion.quantile(0.99).unwrap_or_default();
            self.limit = nanoseconds(SLOWER * usual).max(NEVER_SLOW);
        }
    }

    /// Takes a label.
    ///
    /// A value of [`Target::At`] is of the forecast that was made for then, one of [`Target::Row`] is of that row's own
    /// forecast, and [`Target::Window`] has none. [`Source::Metric`] tells values alone.
    pub fn label(&mut self, label: &Label) -> Joined {
        let Label { target, anomaly, value, source } = *label;
        let mut joined = Joined::default();
        let newest = self.newest();
        if let Some(anomaly) = anomaly.filter(|_| source != Source::Metric) {
            let places = match target {
                Target::Row(id) => self.pending.named(id, newest).into_iter().collect(),
                Target::At { series, at } => self.near(series, Some(at)).into_iter().collect(),
                Target::Window { series, from, to } => {
                    self.open_window(Window { series, from, to, anomaly, source });
                    if series == 0 { vec![] } else { self.pending.within(series, from, to, newest) }
                }
            };
            places.into_iter().for_each(|place| joined.add(self.judge(place, source, anomaly)));
        }
        if let Some(value) = value.filter(|value| value.is_finite()) {
            let place = match target {
                Target::Row(id) => self.pending.named(id, newest),
                Target::At { series, at } => {
                    self.near(series, self.horizon.and_then(|horizon| at.checked_sub(horizon)))
                }
                Target::Window { .. } => None,
            };
            joined.add(place.map_or_else(Joined::default, |place| self.score(place, source, value)));
        }
        joined
    }

    /// The latest time of any row.
    fn newest(&self) -> u64 {
        self.evidence.until.unwrap_or_default()
    }

    fn near(&self, series: u64, at: Option<u64>) -> Option<usize> {
        self.pending.nearest(series, at?, self.newest())
    }

    /// A row is or is not an anomaly, a source says.
    fn judge(&mut self, place: usize, source: Source, anomaly: bool) -> Joined {
        let row = self.pending.row(place);
        let (alarms, scores) = (row.alarms(), row.scores());
        if alarms.is_none() && scores.is_none() {
            return Joined::default();
        }
        if !row.first_label(source) {
            return Joined { labelled: 0, known: 1 };
        }
        let labels = self.evidence.labels.entry(source).or_default();
        if let Some((champion, challenger)) = alarms {
            if champion == challenger {
                labels.agreed(anomaly);
            }
            self.evidence.draws.labelled(row.series, row.at, (source, anomaly), champion, challenger);
        }
        if let Some((champion, challenger)) = scores {
            labels.brier.record(champion, challenger, anomaly);
        }
        Joined { labelled: 1, known: 0 }
    }

    /// What a row's forecast was of had this value, a source says.
    fn score(&mut self, place: usize, source: Source, value: f64) -> Joined {
        let row = self.pending.row(place);
        let Some((champion, challenger)) = row.forecasts() else {
            return Joined::default();
        };
        if !row.first_value(source) {
            return Joined { labelled: 0, known: 1 };
        }
        if row.first_score() {
            let loss = |forecast: f64| (value - forecast).abs() / self.unit;
            self.evidence.forecast.record(row.at, loss(champion), loss(challenger));
        }
        Joined { labelled: 1, known: 0 }
    }

    /// Keeps a window for rows that are still to come, in the place of the one that ends first if there are too many.
    fn open_window(&mut self, window: Window) {
        self.close_windows();
        if self.windows.contains(&window) {
            return;
        }
        self.windows.push(window);
        if self.windows.len() > MOST_WINDOWS
            && let Some(first) = (0..self.windows.len()).min_by_key(|number| self.windows[*number].to)
        {
            self.windows.remove(first);
        }
    }

    fn close_windows(&mut self) {
        let newest = self.newest();
        self.windows.retain(|window| newest.saturating_sub(window.to) <= KEPT_SECONDS);
    }
}

/// An answer without what is no number.
fn finite(answer: Answer) -> Answer {
    let number = |number: Option<f64>| number.filter(|number| number.is_finite());
    Answer { score: number(answer.score), forecast: number(answer.forecast), ..answer }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is greater is the greatest")]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
