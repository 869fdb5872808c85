//! The rule: what evidence makes a verdict of promote, hold or reject, and what is missing for it.

use std::time::Duration;

use serde::Serialize;

use super::buckets::{GREATEST_LOSS, Improvement, Point, SECONDS};
use super::draws::{Labelled, Raised, SOURCES, Told};
use super::estimate::{Missing, Outlook};
use super::evidence::{averaged, below, float};
use super::state::{Events, Evidence};
use checked::Checked;
pub use checked::{Condition, Route};

mod against;
mod checked;

/// What a challenger has to show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It is better than the champion.
    #[default]
    Better,
    /// It answers as the champion does: for another runtime, or numbers of fewer bits.
    Equivalent,
}

/// The rule's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rule {
    /// What is to be shown.
    pub kind: Kind,
    /// Probability of ever promoting a challenger that is no better.
    pub alpha: f64,
    /// Probability of ever rejecting one that is no worse.
    pub alpha_reject: f64,
    /// Challengers that share both.
    pub challengers: u32,
    /// Time before which nobody is promoted: a daily cycle.
    pub least_time: Duration,
    /// Time after which a challenger that is not promoted is rejected.
    pub most_time: Duration,
    /// Requests before which nobody is promoted.
    pub least_requests: u64,
    /// Series before which nobody is promoted.
    pub least_series: usize,
    /// Pairs without which a bucket does not count.
    pub least_pairs: u64,
    /// Share by which a forecast may be worse.
    pub margin: f64,
    /// Share of the champion's alarms that may be missed.
    pub missed: f64,
    /// Least and most alarms for each of the champion's.
    pub alarms: (f64, f64),
    /// Share of rows that may fail.
    pub errors: f64,
    /// Share of runs that may take too long.
    pub slow: f64,
    /// Whether nobody is promoted while inputs are not as in its training, or the champion's where that is not known.
    pub inputs: bool,
    /// The population stability index of the scores beyond which a person has to decide; infinite where it is not looked at.
    pub most_psi: f64,
    /// Share of rows whose decision, or whose score or forecast by more than a thousandth, may differ in one that is equivalent.
    pub differs: f64,
    /// Share of the champion's alarms that may be missed by one that is equivalent.
    pub equivalent_missed: f64,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            kind: Kind::Better,
            alpha: 0.01,
            alpha_reject: 0.05,
            challengers: 1,
            least_time: Duration::from_secs(24 * 3600),
            most_time: Duration::from_secs(14 * 24 * 3600),
            least_requests: 1000,
            least_series: 3,
            least_pairs: 5,
            margin: 0.01,
            missed: 0.2,
            alarms: (0.67, 1.5),
            errors: 0.001,
            slow: 0.01,
            inputs: true,
            most_psi: 0.25,
            differs: 0.001,
            equivalent_missed: 0.05,
        }
    }
}

/// What is to be done with a challenger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It has earned the champion's place.
    Promote,
    /// There is not enough evidence yet.
    Hold,
    /// It is worse, or had its time.
    Reject,
}

/// What a verdict depends on beside the evidence.
#[derive(Clone, Debug, Default)]
pub struct Circumstances {
    /// The time, in seconds of Unix time.
    pub now: u64,
    /// How long after a request its actual value may still come, in seconds.
    pub settle: u64,
    /// Features whose values are not distributed as in training.
    pub drifted: Vec<String>,
    /// The version of whose training that is said; `None` for the champion's.
    pub trained: Option<String>,
    /// Servers that did not tell their evidence.
    pub missing: usize,
}

/// A decision and what it stands on.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What is to be done.
    pub decision: Decision,
    /// Why it is rejected or promoted; what it waits for.
    pub reasons: Vec<String>,
    /// The improvement of the forecast, at the rule's alpha.
    pub improvement: Option<Improvement>,
    /// Every condition that was looked at.
    pub conditions: Vec<Condition>,
    /// The improvement after each bucket, also before it is used; at most 100 points.
    pub band: Vec<Point>,
    /// For a hold, what is missing, and how long it takes.
    pub estimate: Vec<Missing>,
}

/// Guards that can each reject a challenger: errors, time, misses, two for the ratio of alarms, two for labels, the forecast.
const GUARDS: f64 = 8.0;
/// Evidence for "no worse", which is not what a promotion's error is about.
pub(super) const NOT_WORSE: f64 = 20.0;
/// Share of the discordant pairs in which a challenger that is no worse is right.
pub(super) const RIGHT: f64 = 1.0 / 3.0;
/// Half hours in which both were right, without any in which just one was, that show the same.
pub(super) const SAME: u64 = 30;
/// Scores without which the index of their distributions says nothing.
const LEAST_SCORES: u64 = 1000;

/// Names of the conditions, which do not change.
pub mod names {
    /// Ten minutes in which rows came, in hours.
    pub const HOURS: &str = "hours";
    /// Rows that both answered.
    pub const REQUESTS: &str = "requests";
    /// Series that were named.
    pub const SERIES: &str = "series";
    /// Servers that did not tell their evidence.
    pub const SERVERS: &str = "servers";
    /// Features that are distributed otherwise than in training.
    pub const INPUTS: &str = "inputs as in training";
    /// The population stability index of the scores.
    pub const SCORES: &str = "scores as the champion's";
    /// The lower bound of the improvement.
    pub const BETTER: &str = "forecast is better";
    /// The lower bound of the improvement.
    pub const NOT_WORSE: &str = "forecast is not worse";
    /// Evidence from labelled anomalies.
    pub const CATCHES_MORE: &str = "catches more";
    /// Evidence from labelled normal rows.
    pub const QUIETER: &str = "fewer false alarms";
    /// Evidence from labelled anomalies.
    pub const CATCHES_NO_LESS: &str = "catches no less";
    /// Evidence from labelled normal rows.
    pub const NO_LOUDER: &str = "no more false alarms";
    /// Evidence from the champion's alarms.
    pub const GIVES: &str = "gives the champion's alarms";
    /// The ratio of alarms.
    pub const RATIO: &str = "alarms for each of the champion's";
    /// Evidence from decisions, of one that is equivalent.
    pub const DECIDES: &str = "decides as the champion does";
    /// Evidence from scores, of one that is equivalent.
    pub const NEAR: &str = "scores within a thousandth";
    /// Evidence from forecasts, of one that is equivalent.
    pub const OFF: &str = "forecasts within a thousandth";
    /// Rows on which anything could be compared, of one that is equivalent.
    pub const COMPARED: &str = "answers to compare";
}

/// The evidence with what is counted from it once.
pub(super) struct Case<'a> {
    pub(super) evidence: &'a Evidence,
    pub(super) raised: Raised,
    pub(super) told: Told,
    /// The time up to which all values have come.
    pub(super) now: u64,
    pub(super) age: Duration,
    /// The error of one route to a promotion.
    pub(super) alpha: f64,
    /// Evidence from labels that a challenger is better.
    pub(super) superior: f64,
    /// Evidence that one is equivalent.
    pub(super) same: f64,
    /// Whether labels show, though not beyond doubt, that it catches more, and that it gives fewer false alarms: then it is no
    /// wonder that it gives more alarms than the champion, or fewer.
    pub(super) catches_more: bool,
    pub(super) quieter: bool,
}

impl Rule {
    /// For the champion before, beside the one that took its place: whether it is to be brought back, which is not to
    /// take long, and not to wait for inputs or scores to be as before.
    #[must_use]
    pub fn bring_back() -> Self {
        Self {
            alpha: 0.05,
            least_time: Duration::ZERO,
            most_time: Duration::MAX,
            least_requests: 0,
            least_series: 0,
            inputs: false,
            most_psi: f64::INFINITY,
            ..Self::default()
        }
    }

    /// The verdict on evidence at a time.
    #[must_use]
    pub fn decide(&self, evidence: &Evidence, seen: &Circumstances) -> Verdict {
        let now = seen.now.saturating_sub(seen.settle);
        let shared = f64::from(self.challengers.max(1));
        let told = evidence.draws.labels();
        let case = Case {
            evidence,
            raised: evidence.draws.alarms(),
            told,
            now,
            age: Duration::from_secs(now.saturating_sub(evidence.since().unwrap_or(now))),
            catches_more: wins(told.anomalies) >= NOT_WORSE.ln(),
            quieter: wins(told.normals) >= NOT_WORSE.ln(),
            // Two routes lead to a promotion, and two sides to the second.
            alpha: self.alpha / shared / 2.0,
            superior: (4.0 * shared / self.alpha).ln(),
            same: (shared / self.alpha).ln(),
        };
        let beta = self.alpha_reject / shared / GUARDS;
        let (champion_clipped, clipped) = evidence.forecast.are_clipped();
        let [found, surely] = evidence.forecast.improvements(self.least_pairs, now, [case.alpha, beta]);
        // What is clipped looks better than it is.
        let found = found.filter(|found| found.ready && !clipped);
        let surely = surely.filter(|found| found.ready && !champion_clipped);
        let mut exposure = Checked::default();
        self.exposure(&case, seen, &mut exposure);
        let mut shown = Checked::default();
        let route = match self.kind {
            Kind::Better => self.better(&case, found, &mut shown),
            Kind::Equivalent => self.equivalent(&case, &mut shown),
        };
        let against = match self.kind {
            Kind::Better => self.against(&case, surely, beta),
            Kind::Equivalent => self.against_equivalence(&case, beta),
        };
        let mut unmet = exposure.unmet;
        let (decision, reasons) = match route {
            _ if !against.is_empty() => (Decision::Reject, against),
            Some(by) if unmet.is_empty() => (Decision::Promote, vec![by.to_owned()]),
            _ => {
                let mut reasons = exposure.reasons;
                // What has shown enough waits for nothing else.
                if route.is_none() {
                    reasons.extend(match self.kind {
                        Kind::Better => self.open(&case, &shown),
                        Kind::Equivalent => shown.reasons,
                    });
                    unmet.extend(shown.unmet);
                }
                (Decision::Hold, reasons)
            }
        };
        let estimate = match decision {
            Decision::Hold => Outlook { rule: self, case: &case, seen }.of(&unmet),
            Decision::Promote | Decision::Reject => vec![],
        };
        Verdict {
            decision,
            reasons,
            improvement: found,
            conditions: exposure.conditions.into_iter().chain(shown.conditions).collect(),
            band: if clipped { vec![] } else { evidence.forecast.band(self.least_pairs, now, case.alpha) },
            estimate,
        }
    }

    /// Whether what was seen stands for what is to come.
    fn exposure(&self, case: &Case<'_>, seen: &Circumstances, checked: &mut Checked) {
        let Case { evidence, .. } = *case;
        let (active, least) = (active(evidence), self.least_time);
        checked.check(names::HOURS, (Some(hours(active)), hours(least)), active >= least, "");
        let requests = (Some(float(evidence.requests)), float(self.least_requests));
        checked.check(names::REQUESTS, requests, evidence.requests >= self.least_requests, "");
        let (series, least) = (evidence.series.len(), self.least_series);
        let words = if series == 0 {
            format!("no row named its `series`: send it with each row, from at least {least} of them")
        } else {
            format!("not shown yet: series, {series} of {least}")
        };
        let counted = |count: usize| float(count as u64);
        checked.check(names::SERIES, (Some(counted(series)), counted(least)), series >= least, &words);
        let words = format!(
            "{} of the servers did not tell its evidence: mend what is named, or leave it out of --peers",
            seen.missing
        );
        checked.check(names::SERVERS, (Some(counted(seen.missing)), 0.0), seen.missing == 0, &words);
        if self.inputs {
            let drifted = seen.drifted.join(", ");
            let whose = seen.trained.as_ref().map(|version| format!("version {version}'s ")).unwrap_or_default();
            let words = format!(
                "inputs are not as in {whose}training: {drifted}, so that what is compared does not stand for them"
            );
            checked.check(names::INPUTS, (Some(counted(seen.drifted.len())), 0.0), drifted.is_empty(), &words);
        }
        let most = self.most_psi;
        if most.is_finite() {
            let psi = (evidence.scores.pairs() >= LEAST_SCORES).then(|| evidence.scores.psi());
            let words = format!(
                "its scores are not distributed as the champion's (PSI {:.2}, beyond {most}): promote by hand if that is meant",
                psi.unwrap_or_default()
            );
            checked.check(names::SCORES, (psi, most), psi.is_none_or(|psi| psi <= most), &words);
        }
    }

    /// The two routes of one that is better; tells what it is better by.
    fn better(&self, case: &Case<'_>, found: Option<Improvement>, checked: &mut Checked) -> Option<&'static str> {
        let Evidence { requests, forecasts, units, .. } = *case.evidence;
        if requests > 0 && forecasts == 0 && units.trials == 0 {
            let words = "the champion decides and forecasts nothing, and scores alone are not compared: declare a decision or a \
                         forecast in outputs_semantics, ask for --verdict-rule equivalent, or promote it by hand";
            checked.check(names::COMPARED, (Some(0.0), 1.0), false, words);
            return None;
        }
        let lower = found.map(|found| found.lower);
        let better = lower.is_some_and(|lower| lower > 0.0);
        checked.of(Route::Forecast).check(names::BETTER, (lower, 0.0), better, "");
        let margin = -self.margin;
        // It is not what the promotion is for: what was not seen would make it a matter of weeks.
        let seen = found.map(|found| found.seen);
        let not_worse = case.evidence.forecasts == 0 || seen.is_some_and(|seen| seen > margin);
        checked.of(Route::Decisions).check(names::NOT_WORSE, (seen, margin), not_worse, "");
        let Told { anomalies, normals } = case.told;
        let catches_more = checked.evidence(names::CATCHES_MORE, wins(anomalies), case.superior);
        let quieter = checked.evidence(names::QUIETER, wins(normals), case.superior);
        let any = case.raised.any;
        let ratio = any.ratio();
        let (least, most) = self.alarms;
        let in_range = ratio.is_some_and(|ratio| (least..=most).contains(&ratio));
        // Outside of it, labels may say why.
        let explained = match ratio {
            Some(ratio) => in_range || ratio < least && case.quieter || ratio > most && case.catches_more,
            None => any.challenger > 0 && case.catches_more,
        };
        checked.of(Route::Both);
        let mut no_worse = |name, labelled: [Labelled; SOURCES]| {
            let e = averaged(labelled.map(|labelled| labelled.pairs.challenger_is_right_beyond(RIGHT)));
            let none = labelled.iter().all(|labelled| labelled.pairs.pairs() == 0);
            let same = none && explained && most_right(&labelled) >= SAME;
            checked.check(name, (Some(e), NOT_WORSE.ln()), same || e >= NOT_WORSE.ln(), "")
        };
        let catches_no_less = no_worse(names::CATCHES_NO_LESS, anomalies);
        let no_louder = no_worse(names::NO_LOUDER, normals);
        checked.of(Route::Forecast);
        let agrees = case.raised.first.gives_beyond(1.0 - self.missed);
        let gives = checked.evidence(names::GIVES, agrees, NOT_WORSE.ln());
        checked.check(names::RATIO, (ratio, most), in_range, "");
        // Models that only forecast have no decisions that could be worse.
        let decides = case.evidence.units.trials > 0;
        let decisions_hold = !decides || (catches_no_less && no_louder) || (gives && in_range);
        if better && decisions_hold {
            return Some("its forecast is better, and nothing else is worse");
        }
        let decides_better = catches_more && no_louder || quieter && catches_no_less;
        (not_worse && decides_better).then_some("its decisions are better, and nothing else is worse")
    }

    /// What is open of each route, of those that the models have the answers for.
    fn open(&self, case: &Case<'_>, checked: &Checked) -> Vec<String> {
        if checked.unmet.contains(&names::COMPARED) {
            return checked.reasons.clone();
        }
        let Evidence { forecasts, units, .. } = *case.evidence;
        let holds = |name| checked.holds(name);
        let mut reasons = vec![];
        if case.evidence.forecast.are_clipped().1 {
            reasons.push(format!(
                "its forecast shows nothing: more than 5 % of its errors are beyond {GREATEST_LOSS} units, which are hundredths of \
                 outputs_semantics.<forecast>.range in the champion's manifest, or else of the value"
            ));
        }
        let mut say = |by: &str, open: Vec<&str>| {
            reasons.push(format!("by its {by}, not shown yet: {}", open.join("; ")));
        };
        let labelled = holds(names::CATCHES_NO_LESS) && holds(names::NO_LOUDER);
        let like = holds(names::GIVES) && holds(names::RATIO);
        let no_worse = units.trials > 0 && !labelled && !like;
        if forecasts > 0 || units.trials == 0 {
            let words = "decisions are no worse (gives the champion's alarms at a like rate, or labels show it)";
            let open = [(!holds(names::BETTER), names::BETTER), (no_worse, words)];
            say("forecast", open.into_iter().filter_map(|(open, words)| open.then_some(words)).collect());
        }
        if units.trials > 0 || forecasts == 0 {
            let words = match (holds(names::CATCHES_MORE), holds(names::QUIETER)) {
                (false, false) => "catches more or gives fewer false alarms, and is no worse at the other (by labels)",
                (true, _) => "gives no more false alarms (by labels)",
                (false, true) => "catches no less (by labels)",
            };
            let better = holds(names::CATCHES_MORE) && holds(names::NO_LOUDER)
                || holds(names::QUIETER) && holds(names::CATCHES_NO_LESS);
            let open = [(!better, words), (!holds(names::NOT_WORSE), names::NOT_WORSE)];
            say("decisions", open.into_iter().filter_map(|(open, words)| open.then_some(words)).collect());
        }
        reasons
    }

    /// What one that is equivalent has to show, of all outputs that the champion has.
    fn equivalent(&self, case: &Case<'_>, checked: &mut Checked) -> Option<&'static str> {
        let Evidence { units, far, off, missed, .. } = *case.evidence;
        let rare = |events: Events, limit| below(events.events, events.trials, limit);
        let compared = units.trials.max(far.trials).max(off.trials);
        let mut shown = vec![];
        if compared == 0 {
            let words = "neither decisions nor scores nor forecasts could be compared yet";
            shown.push(checked.check(names::COMPARED, (Some(0.0), 1.0), false, words));
        }
        if units.trials > 0 {
            shown.push(checked.evidence(names::DECIDES, rare(units, self.differs), case.same));
            shown.push(checked.evidence(names::GIVES, rare(missed, self.equivalent_missed), case.same));
        }
        for (name, events) in [(names::NEAR, far), (names::OFF, off)] {
            if events.trials > 0 {
                shown.push(checked.evidence(name, rare(events, self.differs), case.same));
            }
        }
        shown.iter().all(|holds| *holds).then_some("its answers are those of the champion")
    }
}

/// Evidence from labels of all sources that it is right more often than the champion.
fn wins(labelled: [Labelled; SOURCES]) -> f64 {
    averaged(labelled.map(|labelled| labelled.pairs.challenger_is_better()))
}

/// Half hours in which both were right, by the source that has most of them.
pub(super) fn most_right(labelled: &[Labelled; SOURCES]) -> u64 {
    labelled.iter().map(|labelled| labelled.right).max().unwrap_or_default()
}

/// Ten minutes in which rows came, together.
pub(super) fn active(evidence: &Evidence) -> Duration {
    Duration::from_secs(SECONDS) * u32::try_from(evidence.active.buckets()).unwrap_or(u32::MAX)
}

pub(super) fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3600.0
}

#[cfg(test)]
mod tests;
