//! The rule: what evidence makes a verdict of promote, hold or reject, and what is missing for it.

use std::time::Duration;

use serde::Serialize;

use super::buckets::{BURN_IN, Improvement};
use super::evidence::{Discordant, above, float};
use super::state::{Events, Evidence};

/// The rule's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rule {
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
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            alpha: 0.01,
            alpha_reject: 0.05,
            challengers: 1,
            least_time: Duration::from_secs(24 * 3600),
            most_time: Duration::from_secs(14 * 24 * 3600),
            least_requests: 1000,
            least_pairs: 5,
            margin: 0.01,
            missed: 0.2,
            alarms: (0.67, 1.5),
            errors: 0.001,
            slow: 0.01,
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
}

/// A condition of the rule.
#[derive(Clone, Debug, Serialize)]
pub struct Condition {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was measured.
    pub value: Option<f64>,
    /// What is needed.
    pub needs: f64,
}

/// Guards that can each reject a challenger: errors, time, misses, two for the ratio of alarms, two for labels, the forecast.
const GUARDS: f64 = 8.0;
/// Evidence for "no worse", which is not what a promotion's error is about.
const NOT_WORSE: f64 = 20.0;
/// Share of the discordant pairs in which a challenger that is no worse is right.
const RIGHT: f64 = 1.0 / 3.0;
/// Labelled pairs without any disagreement that show the same.
const SAME: u64 = 100;

impl Rule {
    /// The verdict on evidence at a time.
    #[must_use]
    pub fn decide(&self, evidence: &Evidence, seen: &Circumstances) -> Verdict {
        let now = seen.now.saturating_sub(seen.settle);
        let shared = f64::from(self.challengers.max(1));
        // Two routes lead to a promotion.
        let alpha = self.alpha / shared / 2.0;
        let beta = self.alpha_reject / shared / GUARDS;
        let improvement = |alpha| evidence.forecast.improvement(self.least_pairs, now, alpha).filter(ready);
        let found = improvement(alpha);
        let age = Duration::from_secs(now.saturating_sub(evidence.since.unwrap_or(now)));
        let mut conditions = vec![];
        let mut check = |name, value: Option<f64>, needs, holds: bool| {
            conditions.push(Condition { name, holds, value, needs });
            holds
        };
        let exposed = [
            check("hours", Some(age.as_secs_f64() / 3600.0), hours(self.least_time), age >= self.least_time),
            check(
                "requests",
                Some(float(evidence.requests)),
                float(self.least_requests),
                evidence.requests >= self.least_requests,
            ),
        ];
        let lower = found.map(|found| found.lower);
        let no_forecast = evidence.forecast.pairs() == 0;
        let better = check("forecast is better", lower, 0.0, lower.is_some_and(|lower| lower > 0.0));
        let margin = -self.margin;
        let not_worse = no_forecast || lower.is_some_and(|lower| lower > margin);
        check("forecast is not worse", lower, margin, not_worse);
        let superior = (4.0 / (self.alpha / shared)).ln();
        let [recall, quiet] = [evidence.anomalies, evidence.normals].map(|labelled| labelled.discordant);
        let wins = [recall, quiet].map(Discordant::challenger_is_better);
        let catches_more = check("catches more", Some(wins[0]), superior, wins[0] >= superior);
        let alarms_less = check("fewer false alarms", Some(wins[1]), superior, wins[1] >= superior);
        let [recall_holds, quiet_holds] =
            [("catches no less", evidence.anomalies), ("no more false alarms", evidence.normals)].map(
                |(name, labelled)| {
                    let e = labelled.discordant.challenger_is_right_beyond(RIGHT);
                    let same = labelled.discordant.pairs() == 0 && labelled.concordant >= SAME;
                    check(name, Some(e), NOT_WORSE.ln(), same || e >= NOT_WORSE.ln())
                },
            );
        let ratio = evidence.alarms.ratio();
        let in_range = ratio.is_some_and(|ratio| (self.alarms.0..=self.alarms.1).contains(&ratio));
        let agrees = evidence.alarms.gives_beyond(1.0 - self.missed);
        let alike = check("gives the champion's alarms", Some(agrees), NOT_WORSE.ln(), agrees >= NOT_WORSE.ln())
            & check("alarms for each of the champion's", ratio, self.alarms.1, in_range);
        let decisions_hold = (recall_holds && quiet_holds) || alike;
        let route =
            better && decisions_hold || not_worse && (catches_more && quiet_holds || alarms_less && recall_holds);
        let against = self.against(evidence, improvement(beta), age, beta);
        let (decision, reasons) = if !against.is_empty() {
            (Decision::Reject, against)
        } else if route && exposed.iter().all(|holds| *holds) {
            let by = if better { "its forecast is better" } else { "its decisions are better" };
            (Decision::Promote, vec![format!("{by}, and nothing else is worse")])
        } else {
            let missing = conditions.iter().filter(|condition| !condition.holds);
            (Decision::Hold, missing.map(|condition| format!("not shown yet: {}", condition.name)).collect())
        };
        Verdict { decision, reasons, improvement: found, conditions }
    }

    /// What speaks against a challenger, each beyond doubt.
    fn against(&self, evidence: &Evidence, found: Option<Improvement>, age: Duration, beta: f64) -> Vec<String> {
        let enough = -beta.ln();
        let percent = 100.0;
        let rate = |events: Events| percent * float(events.events) / float(events.trials.max(1));
        let beyond = |events: Events, limit: f64| above(events.events, events.trials, limit) >= enough;
        let mut reasons = vec![];
        if beyond(evidence.errors, self.errors) {
            let errors = rate(evidence.errors);
            reasons.push(format!("it fails on {errors:.2} % of the rows, beyond {:.2} %", percent * self.errors));
        }
        if beyond(evidence.slow, self.slow) {
            let slow = rate(evidence.slow);
            reasons.push(format!("{slow:.2} % of its runs take too long, beyond {:.2} %", percent * self.slow));
        }
        let alarms = evidence.alarms;
        if alarms.misses_beyond(self.missed) >= enough {
            let misses = percent * (1.0 - alarms.positive_agreement().unwrap_or_default());
            reasons.push(format!(
                "it misses {misses:.0} % of the champion's alarms, beyond {:.0} %",
                percent * self.missed
            ));
        }
        let (least, most) = self.alarms;
        if alarms.ratio_above(most) >= enough || alarms.ratio_below(least) >= enough {
            let ratio = alarms.ratio().map_or("countless".to_owned(), |ratio| format!("{ratio:.2}"));
            reasons.push(format!("it gives {ratio} alarms for each of the champion's, outside of {least} to {most}"));
        }
        for (labelled, what) in [(evidence.anomalies, "catches less"), (evidence.normals, "gives more false alarms")] {
            if labelled.discordant.champion_is_better() >= enough {
                let Discordant { challenger, champion } = labelled.discordant;
                reasons.push(format!(
                    "it {what}: where labels decide, it is right {challenger} times and wrong {champion}"
                ));
            }
        }
        if let Some(found) = found.filter(|found| found.upper < -self.margin) {
            reasons.push(format!("its forecast is worse by at least {:.1} %", -percent * found.upper));
        }
        if age >= self.most_time {
            reasons.push(format!("it was not promoted within {:.0} days", hours(self.most_time) / 24.0));
        }
        reasons
    }
}

const fn ready(found: &Improvement) -> bool {
    found.buckets >= BURN_IN
}

fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3600.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::evidence::Alarms;
    use crate::verdict::state::Labelled;

    const DAY: u64 = 24 * 3600;

    /// Two days of a challenger whose forecast is off by `theirs` where the champion's is off by 3, and that gives these alarms.
    fn seen(theirs: f64, alarms: Alarms) -> Evidence {
        let mut random = fastrand::Rng::with_seed(5);
        let mut evidence = Evidence { since: Some(0), requests: 20_000, alarms, ..Evidence::default() };
        for second in (0..2 * DAY).step_by(60) {
            evidence.forecast.record(second, 3.0 + random.f64(), theirs + random.f64());
        }
        evidence.errors.trials = 20_000;
        evidence.slow.trials = 20_000;
        evidence
    }

    fn alarms(both: u64, champion: u64, challenger: u64) -> Alarms {
        Alarms { both, champion, challenger, neither: 20_000 - both - champion - challenger }
    }

    #[track_caller]
    fn decided(evidence: &Evidence, decision: Decision, reason: &str) {
        let verdict = Rule::default().decide(evidence, &Circumstances { now: 2 * DAY, ..Circumstances::default() });
        assert_eq!(verdict.decision, decision, "{verdict:?}");
        assert!(verdict.reasons.iter().any(|told| told.contains(reason)), "{reason}: {:?}", verdict.reasons);
    }

    #[test]
    fn a_better_forecast_with_the_same_decisions_is_promoted() {
        decided(&seen(2.0, alarms(120, 2, 3)), Decision::Promote, "forecast is better");
        decided(&seen(3.0, alarms(120, 2, 3)), Decision::Hold, "forecast is better");
        decided(&seen(4.0, alarms(120, 2, 3)), Decision::Reject, "forecast is worse");
    }

    /// With the better forecast, all of them agree with the champion on 99 % of the rows, but for the second.
    #[test]
    fn challengers_that_decide_nothing_are_never_promoted() {
        decided(&seen(2.0, alarms(0, 120, 0)), Decision::Reject, "misses 100 %");
        decided(&seen(2.0, alarms(120, 0, 19_880)), Decision::Reject, "166.67 alarms for each");
        decided(&seen(2.0, alarms(1, 119, 119)), Decision::Reject, "misses 99 %");
        decided(&seen(2.0, alarms(20, 100, 100)), Decision::Reject, "misses 83 %");
        decided(&seen(2.0, alarms(0, 0, 0)), Decision::Hold, "gives the champion's alarms");
    }

    #[test]
    fn labels_decide_where_alarms_differ() {
        let labelled =
            |challenger, champion| Labelled { discordant: Discordant { challenger, champion }, concordant: 0 };
        let mut evidence = seen(3.05, alarms(100, 30, 30));
        evidence.anomalies = labelled(40, 5);
        evidence.normals = labelled(20, 10);
        // It is worse by about a percent: whether by less, is not shown.
        decided(&evidence, Decision::Hold, "forecast is not worse");
        evidence.forecast = seen(3.0, alarms(0, 0, 0)).forecast;
        decided(&evidence, Decision::Promote, "its decisions are better");
        evidence.normals = labelled(5, 40);
        decided(&evidence, Decision::Reject, "more false alarms");
    }

    #[test]
    fn what_fails_or_takes_its_time_is_rejected() {
        let mut evidence = seen(2.0, alarms(120, 2, 3));
        evidence.errors.events = 100;
        evidence.slow.events = 1000;
        decided(&evidence, Decision::Reject, "it fails on 0.50 %");
        decided(&evidence, Decision::Reject, "5.00 % of its runs");
        let verdict = Rule::default()
            .decide(&seen(3.0, alarms(120, 2, 3)), &Circumstances { now: 14 * DAY, ..Circumstances::default() });
        assert_eq!((verdict.decision, verdict.reasons.len()), (Decision::Reject, 1), "{verdict:?}");
    }

    #[test]
    fn nobody_is_promoted_before_a_day() {
        let evidence = Evidence { since: Some(2 * DAY - 3600), ..seen(2.0, alarms(120, 2, 3)) };
        decided(&evidence, Decision::Hold, "hours");
        decided(&Evidence { requests: 10, ..seen(2.0, alarms(120, 2, 3)) }, Decision::Hold, "requests");
    }

    #[test]
    fn states_add_up() {
        let (mut a, b) = (seen(2.0, alarms(1, 2, 3)), seen(4.0, alarms(4, 5, 6)));
        let mut other = b.clone();
        other.merge(&a);
        a.merge(&b);
        assert_eq!(a, other);
        assert_eq!((a.requests, a.alarms.both, a.errors.trials), (40_000, 5, 40_000));
    }
}
