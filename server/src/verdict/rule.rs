//! The rule: what evidence makes a verdict of promote, hold or reject, and what is missing for it.

use std::time::Duration;

use serde::Serialize;

use super::buckets::{BURN_IN, Improvement, Point};
use super::draws::{Raised, SOURCES, Told};
use super::estimate::{Missing, Outlook};
use super::evidence::{Discordant, above, averaged, below, float};
use super::state::{Events, Evidence, Source};

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
    /// Time before which nobody is promoted: a daily cycle. One that is equivalent needs none.
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
    /// The population stability index of the scores beyond which a person has to decide.
    pub most_psi: f64,
    /// Share of rows whose decision, or whose score by more than a thousandth, may differ in one that is equivalent.
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

/// A condition of the rule.
#[derive(Clone, Debug, Serialize)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was measured; of evidence, its logarithm.
    pub value: Option<f64>,
    /// What is needed.
    pub needs: f64,
}

/// Guards that can each reject a challenger: errors, time, misses, two for the ratio of alarms, two for labels, the forecast.
const GUARDS: f64 = 8.0;
/// Evidence for "no worse", which is not what a promotion's error is about.
pub(super) const NOT_WORSE: f64 = 20.0;
/// Share of the discordant pairs in which a challenger that is no worse is right.
pub(super) const RIGHT: f64 = 1.0 / 3.0;
/// Labelled pairs without any disagreement that show the same.
pub(super) const SAME: u64 = 100;
/// Scores without which the index of their distributions says nothing.
const LEAST_SCORES: u64 = 1000;

/// Names of the conditions, which do not change.
pub mod names {
    /// Time since the first pair.
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
}

/// Conditions, and what is said of those that do not hold.
#[derive(Default)]
struct Checked {
    conditions: Vec<Condition>,
    unmet: Vec<&'static str>,
    reasons: Vec<String>,
}

impl Checked {
    /// Looks at a condition, of which this is said if it does not hold; without words, it is not shown yet.
    fn check(&mut self, name: &'static str, (value, needs): (Option<f64>, f64), holds: bool, words: &str) -> bool {
        self.conditions.push(Condition { name, holds, value, needs });
        if !holds {
            self.unmet.push(name);
            let not_shown = || format!("not shown yet: {name}");
            self.reasons.push(if words.is_empty() { not_shown() } else { words.to_owned() });
        }
        holds
    }

    /// Evidence, as its logarithm, that has to reach this.
    fn evidence(&mut self, name: &'static str, e: f64, needs: f64) -> bool {
        self.check(name, (Some(e), needs), e >= needs, "")
    }
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
}

impl Rule {
    /// For the champion before, beside the one that took its place: whether it is to be brought back, which is not to
    /// take long.
    #[must_use]
    pub fn bring_back() -> Self {
        Self {
            alpha: 0.05,
            least_time: Duration::ZERO,
            most_time: Duration::MAX,
            least_requests: 0,
            least_series: 0,
            ..Self::default()
        }
    }

    /// Answers that are the same need no daily cycle to show it.
    pub(super) const fn least_time(&self) -> Duration {
        match self.kind {
            Kind::Better => self.least_time,
            Kind::Equivalent => Duration::ZERO,
        }
    }

    /// The verdict on evidence at a time.
    #[must_use]
    pub fn decide(&self, evidence: &Evidence, seen: &Circumstances) -> Verdict {
        let now = seen.now.saturating_sub(seen.settle);
        let shared = f64::from(self.challengers.max(1));
        let case = Case {
            evidence,
            raised: evidence.draws.alarms(),
            told: evidence.draws.labels(),
            now,
            age: Duration::from_secs(now.saturating_sub(evidence.since.unwrap_or(now))),
            // Two routes lead to a promotion, and two sides to the second.
            alpha: self.alpha / shared / 2.0,
            superior: (4.0 * shared / self.alpha).ln(),
            same: (shared / self.alpha).ln(),
        };
        let beta = self.alpha_reject / shared / GUARDS;
        let improvement = |alpha| evidence.forecast.improvement(self.least_pairs, now, alpha).filter(ready);
        let found = improvement(case.alpha);
        let mut exposure = Checked::default();
        self.exposure(&case, seen, &mut exposure);
        let mut shown = Checked::default();
        let route = match self.kind {
            Kind::Better => self.better(&case, found, &mut shown),
            Kind::Equivalent => self.equivalent(&case, &mut shown),
        };
        let against = match self.kind {
            Kind::Better => self.against(&case, improvement(beta), beta),
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
                    unmet.extend(shown.unmet);
                    reasons.extend(shown.reasons);
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
            band: evidence.forecast.band(self.least_pairs, now, case.alpha),
            estimate,
        }
    }

    /// Whether what was seen stands for what is to come.
    fn exposure(&self, case: &Case<'_>, seen: &Circumstances, checked: &mut Checked) {
        let Case { evidence, age, .. } = *case;
        let least = self.least_time();
        checked.check(names::HOURS, (Some(hours(age)), hours(least)), age >= least, "");
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
        let words = format!("{} of the servers did not tell its evidence", seen.missing);
        checked.check(names::SERVERS, (Some(counted(seen.missing)), 0.0), seen.missing == 0, &words);
        let drifted = seen.drifted.join(", ");
        let words =
            format!("inputs are not as in training: {drifted}, so that what is compared does not stand for them");
        checked.check(names::INPUTS, (Some(counted(seen.drifted.len())), 0.0), drifted.is_empty(), &words);
        let psi = (evidence.scores.pairs() >= LEAST_SCORES).then(|| evidence.scores.psi());
        let most = self.most_psi;
        let words = format!(
            "its scores are not distributed as the champion's (PSI {:.2}, beyond {most}): promote by hand if that is meant",
            psi.unwrap_or_default()
        );
        checked.check(names::SCORES, (psi, most), psi.is_none_or(|psi| psi <= most), &words);
    }

    /// The two routes of one that is better; tells what it is better by.
    fn better(&self, case: &Case<'_>, found: Option<Improvement>, checked: &mut Checked) -> Option<&'static str> {
        let lower = found.map(|found| found.lower);
        let no_forecast = case.evidence.forecast.pairs() == 0;
        let better = lower.is_some_and(|lower| lower > 0.0);
        checked.check(names::BETTER, (lower, 0.0), better, "");
        let margin = -self.margin;
        let not_worse = no_forecast || lower.is_some_and(|lower| lower > margin);
        checked.check(names::NOT_WORSE, (lower, margin), not_worse, "");
        let Told { anomalies, normals } = case.told;
        let wins = |pairs: [Discordant; SOURCES]| averaged(pairs.map(Discordant::challenger_is_better));
        let catches_more = checked.evidence(names::CATCHES_MORE, wins(anomalies), case.superior);
        let quieter = checked.evidence(names::QUIETER, wins(normals), case.superior);
        let mut no_worse = |name, pairs: [Discordant; SOURCES], anomalies: bool| {
            let e = averaged(pairs.map(|pairs| pairs.challenger_is_right_beyond(RIGHT)));
            let none = pairs.iter().all(|pairs| pairs.pairs() == 0);
            let same = none && agreed(case.evidence, anomalies) >= SAME;
            checked.check(name, (Some(e), NOT_WORSE.ln()), same || e >= NOT_WORSE.ln(), "")
        };
        let catches_no_less = no_worse(names::CATCHES_NO_LESS, anomalies, true);
        let no_louder = no_worse(names::NO_LOUDER, normals, false);
        let agrees = case.raised.first.gives_beyond(1.0 - self.missed);
        let gives = checked.evidence(names::GIVES, agrees, NOT_WORSE.ln());
        let ratio = case.raised.any.ratio();
        let in_range = ratio.is_some_and(|ratio| (self.alarms.0..=self.alarms.1).contains(&ratio));
        checked.check(names::RATIO, (ratio, self.alarms.1), in_range, "");
        // Models that only forecast have no decisions that could be worse.
        let decides = case.evidence.units.trials > 0;
        let decisions_hold = !decides || (catches_no_less && no_louder) || (gives && in_range);
        if better && decisions_hold {
            return Some("its forecast is better, and nothing else is worse");
        }
        let decides_better = catches_more && no_louder || quieter && catches_no_less;
        (not_worse && decides_better).then_some("its decisions are better, and nothing else is worse")
    }

    /// What one that is equivalent has to show.
    fn equivalent(&self, case: &Case<'_>, checked: &mut Checked) -> Option<&'static str> {
        let rare = |events: Events| below(events.events, events.trials, self.differs);
        let gives = case.raised.first.gives_beyond(1.0 - self.equivalent_missed);
        let shown = [
            checked.evidence(names::DECIDES, rare(case.evidence.units), case.same),
            checked.evidence(names::GIVES, gives, case.same),
            checked.evidence(names::NEAR, rare(case.evidence.far), case.same),
        ];
        shown.iter().all(|holds| *holds).then_some("its answers are those of the champion")
    }

    /// What speaks against a challenger, each beyond doubt.
    fn against(&self, case: &Case<'_>, found: Option<Improvement>, beta: f64) -> Vec<String> {
        let enough = -beta.ln();
        let mut reasons = self.fails(case, self.missed, enough);
        let alarms = case.raised.any;
        let (least, most) = self.alarms;
        if alarms.ratio_above(most) >= enough || alarms.ratio_below(least) >= enough {
            let ratio = alarms.ratio().map_or("countless".to_owned(), |ratio| format!("{ratio:.2}"));
            reasons.push(format!("it gives {ratio} alarms for each of the champion's, outside of {least} to {most}"));
        }
        let Told { anomalies, normals } = case.told;
        for (pairs, what) in [(anomalies, "catches less"), (normals, "gives more false alarms")] {
            if averaged(pairs.map(Discordant::champion_is_better)) >= enough {
                let mut all = Discordant::default();
                pairs.into_iter().for_each(|pairs| all.merge(pairs));
                let Discordant { challenger, champion } = all;
                reasons.push(format!(
                    "it {what}: where labels decide, it is right {challenger} times and wrong {champion}"
                ));
            }
        }
        if let Some(found) = found.filter(|found| found.upper < -self.margin) {
            reasons.push(format!("its forecast is worse by at least {:.1} %", -PERCENT * found.upper));
        }
        reasons.extend(self.expired(case));
        reasons
    }

    /// What speaks against one being equivalent, each beyond doubt.
    fn against_equivalence(&self, case: &Case<'_>, beta: f64) -> Vec<String> {
        let enough = -beta.ln();
        let mut reasons = self.fails(case, self.equivalent_missed, enough);
        let (units, far) = (case.evidence.units, case.evidence.far);
        for (events, what) in [(units, "decides otherwise"), (far, "scores otherwise by more than a thousandth")] {
            if beyond(events, self.differs, enough) {
                let limit = PERCENT * self.differs;
                reasons.push(format!("it {what} on {:.2} % of the rows, beyond {limit:.2} %", rate(events)));
            }
        }
        reasons.extend(self.expired(case));
        reasons
    }

    /// Guards of both kinds.
    fn fails(&self, case: &Case<'_>, missed: f64, enough: f64) -> Vec<String> {
        let Evidence { errors, slow, .. } = *case.evidence;
        let mut reasons = vec![];
        if beyond(errors, self.errors, enough) {
            let limit = PERCENT * self.errors;
            reasons.push(format!("it fails on {:.2} % of the rows, beyond {limit:.2} %", rate(errors)));
        }
        if beyond(slow, self.slow, enough) {
            let limit = PERCENT * self.slow;
            reasons.push(format!("{:.2} % of its runs take too long, beyond {limit:.2} %", rate(slow)));
        }
        let first = case.raised.first;
        if first.misses_beyond(missed) >= enough {
            let misses = PERCENT * (1.0 - first.share().unwrap_or_default());
            let limit = PERCENT * missed;
            reasons.push(format!("it misses {misses:.0} % of the champion's alarms, beyond {limit:.0} %"));
        }
        reasons
    }

    fn expired(&self, case: &Case<'_>) -> Option<String> {
        let days = hours(self.most_time) / 24.0;
        (case.age >= self.most_time).then(|| format!("it was not promoted within {days:.0} days"))
    }
}

/// Rows of one kind on which both are right or both are wrong, by the source that labelled most of them.
pub(super) fn agreed(evidence: &Evidence, anomalies: bool) -> u64 {
    let labels = Source::LABELS.iter().filter_map(|source| evidence.labels.get(source));
    labels.map(|labels| if anomalies { labels.anomalies } else { labels.normals }).max().unwrap_or_default()
}

const PERCENT: f64 = 100.0;

fn rate(events: Events) -> f64 {
    PERCENT * float(events.events) / float(events.trials.max(1))
}

fn beyond(events: Events, limit: f64, enough: f64) -> bool {
    above(events.events, events.trials, limit) >= enough
}

const fn ready(found: &Improvement) -> bool {
    found.buckets >= BURN_IN
}

pub(super) fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3600.0
}

#[cfg(test)]
mod tests;
