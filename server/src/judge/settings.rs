//! What the user says of the verdict.

use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;

use crate::peers::Peers;
use crate::verdict::rule::{Kind, Rule};

/// The greatest error that may be chosen.
pub const MOST_ALPHA: f64 = 0.2;

/// Whether servers act on a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They tell it; someone else acts on it.
    #[default]
    Manual,
    /// They promote, reject and bring back by themselves.
    Auto,
}

impl FromStr for Mode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "manual" => Ok(Self::Manual),
            "auto" => Ok(Self::Auto),
            _ => Err(()),
        }
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "better" => Ok(Self::Better),
            "equivalent" => Ok(Self::Equivalent),
            _ => Err(()),
        }
    }
}

/// How a model's challengers are judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Whether servers act on it.
    pub mode: Mode,
    /// What a challenger must be.
    pub kind: Kind,
    /// Probability of ever promoting a challenger that is no better.
    pub alpha: f64,
    /// Time before which nobody is promoted.
    pub least_time: Duration,
    /// Time after which a challenger that was not promoted is rejected.
    pub most_time: Duration,
    /// Rows that both must have answered before anybody is promoted.
    pub least_rows: u64,
    /// Series that rows must have named before anybody is promoted.
    pub least_series: usize,
    /// How often servers judge.
    pub interval: Duration,
    /// Servers of the same models.
    pub peers: Peers,
}

impl Default for Settings {
    fn default() -> Self {
        let Rule { kind, alpha, least_time, most_time, least_requests: least_rows, least_series, .. } = Rule::default();
        let (mode, interval, peers) = (Mode::Manual, Duration::from_secs(30), Peers::default());
        Self { mode, kind, alpha, least_time, most_time, least_rows, least_series, interval, peers }
    }
}

impl Settings {
    /// The rule for this many challengers, which share its error.
    #[must_use]
    pub fn rule(&self, challengers: usize) -> Rule {
        let Self { kind, alpha, least_time, most_time, least_rows: least_requests, least_series, .. } = *self;
        let challengers = u32::try_from(challengers).unwrap_or(u32::MAX).max(1);
        Rule { kind, alpha, challengers, least_time, most_time, least_requests, least_series, ..Rule::default() }
    }
}
