//! The verdict on a model's challengers: what all of its servers saw, added up, under the rule and its settings.
//!
//! It is pure: states and the time come in, the answer of `GET /models/{model}/verdict` comes out. A server, several of them and
//! the command line all decide by the same function. What a decision is made of is in [`crate::verdict`], who asks the servers
//! in [`crate::peers`], and who acts on it in `engine/judging.rs`.

mod merge;
mod settings;
mod shown;

use std::collections::BTreeMap;

use serde::Serialize;

pub use self::settings::{MOST_ALPHA, Mode, Settings};
pub use self::shown::{Counted, Drifted, Quantiles, Shown, Sides};
use crate::promotion::Change;
use crate::shadow::state::{State, Version};
use crate::verdict::drift;
use crate::verdict::rule::{Circumstances, Decision, Kind, Rule, Verdict, names};
use merge::{Contender, Merged};

/// How much later than its forecast says an actual value may come, in seconds.
pub(crate) const GRACE: u64 = 120;
/// Evidence that is kept with a change, in bytes; a record of the ledger holds more than twice that.
const EVIDENCE_BYTES: usize = 384 << 10;

/// The answer of `GET /models/{model}/verdict`.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// The model's name.
    pub model: String,
    /// What a challenger must be.
    pub rule: Kind,
    /// Whether servers act on it.
    pub mode: Mode,
    /// When it was judged, in seconds of Unix time.
    pub at: u64,
    /// `epoch` of the `aliases.json` that it is about.
    pub epoch: u64,
    /// Who told what it stands on.
    pub servers: Servers,
    /// What answers.
    pub champion: Version,
    /// One for each challenger, in the order of `aliases.json`.
    pub verdicts: Vec<Judged>,
    /// The champion before: promote means that it should come back.
    pub previous: Option<Judged>,
    /// How far the features that came are from those of the champion's training, by name. While any drifts, nobody is promoted
    /// whose own training is not known.
    pub drift: BTreeMap<String, Drifted>,
}

/// The servers of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Servers {
    /// How many told what they saw of this champion.
    pub told: usize,
    /// Who did not, and why. Nothing is decided while there are any.
    pub missing: Vec<String>,
}

/// The verdict on one version.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// challenger, challenger-2, challenger-3 or previous.
    pub role: String,
    /// Which it is.
    #[serde(flatten)]
    pub version: Version,
    /// What is to be done, and why.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What people look at beside the decision.
    #[serde(flatten)]
    pub shown: Shown,
    /// How far the features that came are from those of its own training, where that is known. It is not promoted while any
    /// drifts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub drift: BTreeMap<String, Drifted>,
}

/// Conditions whose value is a natural logarithm of evidence, and their names in metrics, which dashboards rely on.
pub const EVIDENCE: [(&str, &str); 8] = [
    (names::CATCHES_MORE, "catches_more"),
    (names::QUIETER, "fewer_false_alarms"),
    (names::CATCHES_NO_LESS, "catches_no_less"),
    (names::NO_LOUDER, "no_more_false_alarms"),
    (names::GIVES, "gives_alarms"),
    (names::DECIDES, "same_decisions"),
    (names::NEAR, "same_scores"),
    (names::OFF, "same_forecasts"),
];

impl Judged {
    /// The evidence for each condition that needs some, as natural logarithms, by its name in metrics.
    pub fn log_e(&self) -> impl Iterator<Item = (&'static str, f64)> + use<'_> {
        self.verdict.conditions.iter().filter_map(|condition| {
            let (_, test) = EVIDENCE.into_iter().find(|(name, _)| *name == condition.name)?;
            Some((test, condition.value?))
        })
    }
}

/// What a judgement asks for.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// promote, reject, or rollback for the champion before.
    pub kind: StepKind,
    /// Of which version.
    pub of: &'a Judged,
}

/// The kinds of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A challenger becomes the champion.
    Promote,
    /// The champion before becomes the champion again.
    BringBack,
    /// A challenger is taken out.
    Reject,
}

impl Step<'_> {
    /// The change of `aliases.json` that does it.
    #[must_use]
    pub fn change(&self) -> Change {
        let version = self.of.version.version.clone();
        match self.kind {
            StepKind::Promote => Change::Promote(Some(version)),
            StepKind::BringBack => Change::RollBack(Some(version)),
            StepKind::Reject => Change::Reject(version),
        }
    }

    /// Why, in one sentence.
    #[must_use]
    pub fn reason(&self) -> String {
        format!("version {}: {}", self.of.version.version, self.of.verdict.reasons.join("; "))
    }
}

impl Judgement {
    /// The one thing to do now; `None` to wait. A change makes a new epoch, on which all is judged anew, so that one at a time
    /// is done: first whatever mends the champion, then the best challenger, then whoever is to go.
    #[must_use]
    pub fn step(&self) -> Option<Step<'_>> {
        let of = |decision| self.verdicts.iter().filter(move |judged| judged.verdict.decision == decision);
        let lower = |judged: &Judged| judged.verdict.improvement.map_or(f64::NEG_INFINITY, |found| found.lower);
        let back = self.previous.iter().find(|judged| judged.verdict.decision == Decision::Promote);
        // Of two that are as good, the first in `aliases.json` is taken.
        let best = || of(Decision::Promote).rev().max_by(|a, b| lower(a).total_cmp(&lower(b)));
        back.map(|of| Step { kind: StepKind::BringBack, of })
            .or_else(|| best().map(|of| Step { kind: StepKind::Promote, of }))
            .or_else(|| of(Decision::Reject).next().map(|of| Step { kind: StepKind::Reject, of }))
    }

    /// What stands in the ledger beside a change: all of it, as long as it is not too long for a record.
    #[must_use]
    pub fn evidence(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let fits = |value: &serde_json::Value| value.to_string().len() <= EVIDENCE_BYTES;
        // What is drawn only goes first, then what is counted beside the decision; names and reasons of versions are short.
        for part in ["band", "scores", "statistics", "latency", "estimate", "drift"] {
            if fits(&value) {
                return value;
            }
            let verdicts = value["verdicts"].as_array_mut().into_iter().flatten();
            verdicts.filter_map(|judged| judged.as_object_mut()).for_each(|judged| drop(judged.remove(part)));
            if let Some(previous) = value["previous"].as_object_mut() {
                previous.remove(part);
            }
        }
        if !fits(&value) {
            value["servers"]["missing"] = serde_json::json!(self.servers.missing.len());
        }
        value
    }
}

/// Judges a model's challengers. `states` are what its servers told, `missing` the servers that told nothing and why, `now` is in
/// seconds of Unix time.
///
/// The highest epoch that any server is on is the one that is judged. Servers that are not on it yet, or that have another
/// champion on it, count as missing; a server that told twice counts once. Where the rows have the times of a recording, now is the latest.
///
/// # Errors
/// One sentence when no server told anything.
pub fn judge(states: &[State], missing: &[String], settings: &Settings, now: u64) -> Result<Judgement, String> {
    let merged = Merged::of(states, missing)?;
    let now = merged.recorded.unwrap_or(now);
    let seen = Circumstances {
        now,
        settle: merged.horizon.unwrap_or(0).saturating_add(GRACE),
        missing: merged.missing.len(),
        ..Circumstances::default()
    };
    let back = Rule::bring_back();
    let rule = |one: &Contender| {
        let beside = usize::try_from(one.evidence.beside).unwrap_or(usize::MAX);
        settings.rule(merged.challengers.len().max(beside))
    };
    Ok(Judgement {
        rule: settings.kind,
        mode: settings.mode,
        at: now,
        epoch: merged.epoch,
        verdicts: {
            let run = merged.challengers.iter().map(|one| judged(one, &rule(one), &seen, &merged));
            run.chain(merged.refused.iter().map(|(one, reasons)| refused(one, reasons, &merged))).collect()
        },
        previous: merged.previous.as_ref().map(|one| judged(one, &back, &seen, &merged)),
        drift: shown::drift(&merged.drift),
        servers: Servers { told: merged.told, missing: merged.missing },
        champion: merged.champion,
        model: merged.model,
    })
}

fn judged(one: &Contender, rule: &Rule, seen: &Circumstances, merged: &Merged) -> Judged {
    let (drifted, is_own) = drift::holding(&merged.drift, &one.drift);
    let trained = is_own.then(|| one.version.version.clone());
    let seen = Circumstances { missing: seen.missing + one.lacking.len(), drifted, trained, ..*seen };
    Judged {
        role: one.role.clone(),
        version: one.version.clone(),
        verdict: complete(rule.decide(&one.evidence, &seen), &merged.missing, &one.lacking),
        shown: Shown::of(one),
        drift: shown::drift(&one.drift),
    }
}

/// What could not be loaded or answered wrongly when it was tried out has lost, without any further evidence.
fn refused(one: &Contender, reasons: &[String], merged: &Merged) -> Judged {
    let verdict = Verdict {
        decision: Decision::Reject,
        reasons: reasons.to_vec(),
        improvement: None,
        conditions: vec![],
        band: vec![],
        estimate: vec![],
    };
    Judged {
        role: one.role.clone(),
        version: one.version.clone(),
        verdict: complete(verdict, &merged.missing, &one.lacking),
        shown: Shown::of(one),
        drift: BTreeMap::new(),
    }
}

/// Says who is missing, and holds what would be rejected without them: what they saw may say the opposite.
fn complete(mut verdict: Verdict, missing: &[String], lacking: &[String]) -> Verdict {
    if missing.is_empty() && lacking.is_empty() {
        return verdict;
    }
    if verdict.decision != Decision::Hold {
        verdict.decision = Decision::Hold;
        let reasons = verdict.reasons.join("; ");
        verdict.reasons = vec![format!("not all servers have told, else it would be decided: {reasons}")];
    }
    verdict.reasons.extend(missing.iter().cloned());
    verdict.reasons.extend(lacking.iter().cloned());
    verdict
}
