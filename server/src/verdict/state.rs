//! What was seen of a challenger beside the champion: the state that the servers add up, and how it is recorded.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::buckets::Buckets;
use super::evidence::{Alarms, Discordant};

/// The evidence on one challenger against one champion; the states of several servers add up, exactly and in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evidence {
    /// When the first pair was seen, in seconds of Unix time.
    pub since: Option<u64>,
    /// When the latest was.
    pub until: Option<u64>,
    /// Rows that both answered.
    pub requests: u64,
    /// Losses of the forecasts.
    pub forecast: Buckets,
    /// Decisions that are alarms.
    pub alarms: Alarms,
    /// Labelled as anomalies.
    pub anomalies: Labelled,
    /// Labelled as normal.
    pub normals: Labelled,
    /// Rows that the challenger failed on.
    pub errors: Events,
    /// Runs of the challenger that took too long.
    pub slow: Events,
}

/// Labelled pairs of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labelled {
    /// Where one is right and the other wrong.
    pub discordant: Discordant,
    /// Where both are right or both are wrong.
    pub concordant: u64,
}

/// How often something happened, that should be rare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// It happened.
    pub events: u64,
    /// It could have happened.
    pub trials: u64,
}

impl Evidence {
    /// Adds what was seen elsewhere.
    pub fn merge(&mut self, other: &Self) {
        self.since = self.since.into_iter().chain(other.since).min();
        self.until = self.until.max(other.until);
        self.requests += other.requests;
        self.forecast.merge(&other.forecast);
        self.alarms.merge(other.alarms);
        for (mine, theirs) in [(&mut self.anomalies, other.anomalies), (&mut self.normals, other.normals)] {
            mine.discordant.merge(theirs.discordant);
            mine.concordant += theirs.concordant;
        }
        for (mine, theirs) in [(&mut self.errors, other.errors), (&mut self.slow, other.slow)] {
            mine.events += theirs.events;
            mine.trials += theirs.trials;
        }
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

/// Counts the evidence on one challenger, and remembers rows until their labels come.
#[derive(Debug, Default)]
pub struct Recorder {
    evidence: Evidence,
}

/// What a recorder keeps over a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Saved {
    evidence: Evidence,
}

impl Recorder {
    /// An empty one. `horizon` is how far ahead the champion's forecast looks, in seconds.
    #[must_use]
    pub fn new(horizon: Option<u64>) -> Self {
        let _ = horizon;
        Self::default()
    }

    /// Goes on where another one was saved.
    #[must_use]
    pub fn restore(horizon: Option<u64>, saved: Saved) -> Self {
        Self { evidence: saved.evidence, ..Self::new(horizon) }
    }

    /// What is to be kept over a restart.
    #[must_use]
    pub fn save(&self) -> Saved {
        Saved { evidence: self.evidence.clone() }
    }

    /// The evidence up to now.
    #[must_use]
    pub const fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Counts a row that both models answered. `id` names it for labels that come later; 0 for none.
    pub fn record(&mut self, id: u64, row: &Row) {
        let _ = id;
        self.evidence.since = Some(self.evidence.since.map_or(row.at, |since| since.min(row.at)));
        self.evidence.until = self.evidence.until.max(Some(row.at));
        self.evidence.requests += 1;
        self.evidence.errors.trials += 1;
    }

    /// Counts rows that the challenger failed on, or that it answered with what is no number.
    pub const fn fail(&mut self, rows: u64) {
        self.evidence.errors.events += rows;
        self.evidence.errors.trials += rows;
    }

    /// Counts the time that both took for the same rows.
    pub fn time(&mut self, champion: Duration, challenger: Duration) {
        let _ = (champion, challenger);
    }

    /// Takes a label.
    pub fn label(&mut self, label: &Label) -> Joined {
        let _ = label;
        Joined::default()
    }
}

/// FNV-1a: the same on every server and in every version, since states of several servers and of before a restart are joined
/// by it.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
