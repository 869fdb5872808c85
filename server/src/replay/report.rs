//! What a replay comes to: the verdict on each challenger at the time of the latest row, and when it would have been given first.

use serde::Serialize;

use super::Replay;
use crate::shadow::state::{Compared, State, Version};
use crate::verdict::buckets::SECONDS;
use crate::verdict::rule::{Circumstances, Decision, Kind, Rule, Verdict};

/// How much later than its forecast says an actual value may come, in seconds.
const GRACE: u64 = 120;

/// The answer of `GET /models/{model}/verdict`, and what a replay adds to it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// What a challenger must be.
    pub rule: Kind,
    /// A replay changes nothing.
    pub mode: &'static str,
    /// The time of the latest row, in seconds of Unix time.
    pub at: u64,
    /// `epoch` of the `aliases.json`.
    pub epoch: u64,
    /// Who told what it stands on: this replay.
    pub servers: Servers,
    /// Whose answers counted.
    pub champion: Version,
    /// One for each challenger.
    pub verdicts: Vec<Judged>,
    /// There is none in a replay.
    pub previous: Option<()>,
    /// What was read.
    pub replay: Read,
    /// What was counted, to be added to that of servers.
    pub shadow: State,
}

/// The servers that a verdict stands on.
#[derive(Debug, Serialize)]
pub struct Servers {
    /// How many told.
    pub told: usize,
    /// Who did not.
    pub missing: Vec<String>,
}

/// What was read.
#[derive(Debug, Serialize)]
pub struct Read {
    /// The file.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Rows that the champion did not answer.
    pub unanswered: u64,
    /// Rows that told what the forecast is of.
    pub actuals: u64,
    /// Rows that said whether there was an anomaly.
    pub truths: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// What may not be as it was meant.
    pub warnings: Vec<String>,
}

/// The verdict on one challenger.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// challenger, challenger-2 or challenger-3.
    pub role: String,
    /// Which it is.
    #[serde(flatten)]
    pub version: Version,
    /// What is to be done, and why.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// When anything but to hold was decided first.
    pub first: Option<First>,
}

/// The first decision; servers that act on it do so then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct First {
    /// Promote or reject.
    pub decision: Decision,
    /// When, in seconds of Unix time.
    pub at: u64,
    /// Hours of data until then.
    pub hours: f64,
}

/// Decides while rows are replayed.
#[derive(Debug)]
pub struct Judge {
    rule: Rule,
    first: Vec<Option<First>>,
    looked: u64,
}

impl Judge {
    /// Nothing decided yet, by a rule whose error the challengers share.
    #[must_use]
    pub const fn new(rule: Rule) -> Self {
        Self { rule, first: vec![], looked: 0 }
    }

    /// Looks at what was counted, once in each ten minutes of the rows' time.
    pub fn look(&mut self, replay: &Replay) {
        let bucket = replay.now / SECONDS;
        if bucket == self.looked {
            return;
        }
        self.looked = bucket;
        self.first.resize(replay.contenders.len(), None);
        for (first, one) in self.first.iter_mut().zip(&replay.contenders) {
            if first.is_some() {
                continue;
            }
            let evidence = one.recorder.evidence();
            let decision = self.rule.decide(evidence, &seen(replay)).decision;
            if decision != Decision::Hold {
                let age = replay.now.saturating_sub(evidence.since.unwrap_or(replay.now));
                #[expect(clippy::cast_precision_loss, reason = "for people")]
                let hours = age as f64 / 3600.0;
                *first = Some(First { decision, at: replay.now, hours });
            }
        }
    }

    /// The report at the time of the latest row.
    #[must_use]
    pub fn report(&self, replay: &Replay, read: Read) -> Report {
        let state = replay.state();
        let judged = |(index, one): (usize, &Compared)| Judged {
            role: one.role.clone(),
            version: one.version.clone(),
            verdict: self.rule.decide(&one.evidence, &seen(replay)),
            first: self.first.get(index).copied().flatten(),
        };
        Report {
            model: state.model.clone(),
            rule: self.rule.kind,
            mode: "manual",
            at: replay.now,
            epoch: state.epoch,
            servers: Servers { told: 1, missing: vec![] },
            champion: state.champion.clone(),
            verdicts: state.challengers.iter().enumerate().map(judged).collect(),
            previous: None,
            replay: read,
            shadow: state,
        }
    }
}

fn seen(replay: &Replay) -> Circumstances {
    let settle = replay.champion.signature.horizon().unwrap_or(0).saturating_add(GRACE);
    let drifted = replay.drifts.state().alarms();
    Circumstances { now: replay.now, settle, drifted, ..Circumstances::default() }
}
