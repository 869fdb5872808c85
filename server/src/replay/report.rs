//! What a replay comes to: the verdict on each challenger at the time of the latest row, and when it would have been given first.

use serde::Serialize;

use super::{Contender, Replay};
use crate::judge::{self, GRACE, Judgement, Settings};
use crate::shadow::state::State;
use crate::verdict::buckets::SECONDS;
use crate::verdict::drift;
use crate::verdict::rule::{Circumstances, Decision, Rule};

/// The answer of `GET /models/{model}/verdict`, and what a replay adds to it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The verdicts at the time of the latest row.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// For each challenger, when anything but to hold was decided first.
    pub first: Vec<Option<First>>,
    /// What was read.
    pub replay: Read,
    /// What was counted, to be added to that of servers.
    pub shadow: State,
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
    settings: Settings,
    rule: Rule,
    first: Vec<Option<First>>,
    looked: u64,
}

impl Judge {
    /// Nothing decided yet, by a rule whose error this many challengers share.
    #[must_use]
    pub fn new(settings: Settings, challengers: usize) -> Self {
        Self { rule: settings.rule(challengers), settings, first: vec![], looked: 0 }
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
            let decision = self.rule.decide(evidence, &seen(replay, one)).decision;
            if decision != Decision::Hold {
                let age = replay.now.saturating_sub(evidence.since().unwrap_or(replay.now));
                #[expect(clippy::cast_precision_loss, reason = "for people")]
                let hours = age as f64 / 3600.0;
                *first = Some(First { decision, at: replay.now, hours });
            }
        }
    }

    /// The report at the time of the latest row.
    ///
    /// # Errors
    /// One sentence when nothing can be judged.
    pub fn report(self, replay: &Replay, read: Read) -> Result<Report, String> {
        let shadow = replay.state();
        let judgement = judge::judge(std::slice::from_ref(&shadow), &[], &self.settings, replay.now)?;
        Ok(Report { judgement, first: self.first, replay: read, shadow })
    }
}

fn seen(replay: &Replay, one: &Contender) -> Circumstances {
    let settle = replay.champion.signature.horizon().unwrap_or(0).saturating_add(GRACE);
    let (drifted, is_own) = drift::holding(&replay.drifts.state(), &one.recorder.drift());
    let trained = is_own.then(|| one.model.id.version.clone());
    Circumstances { now: replay.now, settle, drifted, trained, ..Circumstances::default() }
}
