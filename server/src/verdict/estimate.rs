//! What is missing for a promotion, in words and numbers: how much more it takes if all goes on as before, and how long
//! that is.

use std::time::Duration;

use serde::Serialize;

use super::buckets::{BURN_IN, MOST_MORE, least_that};
use super::draws::{Labelled, SOURCES};
use super::evidence::{Discordant, above, averaged, below, float};
use super::rule::{Case, Circumstances, Kind, NOT_WORSE, RIGHT, Rule, SAME, active, hours, most_right, names};
use super::state::{Events, Source};

/// The same of labels, of which it takes the longer to know the more there are.
const MOST_LABELS: u64 = 10_000_000;

/// What is missing for one condition.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Missing {
    /// The condition's name.
    pub condition: &'static str,
    /// What there has to be more of: buckets, hours, alarms, labels, requests, series or servers.
    pub unit: &'static str,
    /// How much more; `None` if as things are it is never enough, or if that is not known.
    pub more: Option<u64>,
    /// How long that takes at the rate so far.
    pub hours: Option<f64>,
    /// The same in words.
    pub text: String,
}

/// Time before which a rate is not known.
const LEAST_AGE: Duration = Duration::from_secs(3600);
/// Each of these counts at most once in so long.
const SLOT: Duration = Duration::from_secs(super::draws::SECONDS);
const BUCKET: Duration = Duration::from_secs(super::buckets::SECONDS);
/// Rows come this much more seldom than all the time, when it is worth telling.
const UNSTEADY: f64 = 1.2;

/// What a case is judged by.
pub(super) struct Outlook<'a> {
    pub(super) rule: &'a Rule,
    pub(super) case: &'a Case<'a>,
    pub(super) seen: &'a Circumstances,
}

impl Outlook<'_> {
    /// What is missing for each of these conditions.
    pub(super) fn of(&self, unmet: &[&'static str]) -> Vec<Missing> {
        unmet.iter().map(|condition| self.missing(condition)).collect()
    }

    fn missing(&self, condition: &'static str) -> Missing {
        let Case { evidence, told, .. } = self.case;
        match condition {
            names::HOURS => {
                let (so_far, age) = (hours(active(evidence)), hours(self.case.age));
                let left = hours(self.rule.least_time.saturating_sub(active(evidence)));
                // Where rows come in half of the time, it takes twice as long.
                let pace = if so_far > 0.0 { (age / so_far).max(1.0) } else { 1.0 };
                let mut text = format!("{left:.1} more hours with rows, for a daily cycle");
                if pace > UNSTEADY {
                    text = format!("{text}: {} at the rate so far", lasting(pace * left));
                }
                Missing { condition, unit: "hours", more: Some(ceiling(left)), hours: Some(pace * left), text }
            }
            names::REQUESTS => {
                let more = self.rule.least_requests.saturating_sub(evidence.requests);
                self.counted(condition, "requests", Some(more), evidence.requests, format!("{more} more requests"))
            }
            names::SERIES => {
                let more = self.rule.least_series.saturating_sub(evidence.series.len());
                let text = format!("rows of {more} more series, named by `series`");
                Missing { condition, unit: "series", more: Some(more as u64), hours: None, text }
            }
            names::SERVERS => {
                let missing = self.seen.missing;
                let text = if missing == 1 {
                    "the evidence of another server".to_owned()
                } else {
                    format!("the evidence of {missing} more servers")
                };
                Missing { condition, unit: "servers", more: Some(missing as u64), hours: None, text }
            }
            names::INPUTS => {
                let text =
                    "inputs as they were in training, or a model that was trained on what they are now".to_owned();
                Missing { condition, unit: "requests", more: None, hours: None, text }
            }
            names::SCORES => {
                let text = "a person who looks at the scores and promotes it by hand".to_owned();
                Missing { condition, unit: "requests", more: None, hours: None, text }
            }
            names::BETTER => self.forecast(condition, 0.0),
            names::NOT_WORSE => self.forecast(condition, -self.rule.margin),
            names::CATCHES_MORE => self.labels(condition, told.anomalies, 0.5, "anomalies"),
            names::QUIETER => self.labels(condition, told.normals, 0.5, "normal rows"),
            names::CATCHES_NO_LESS => self.labels(condition, told.anomalies, RIGHT, "anomalies"),
            names::NO_LOUDER => self.labels(condition, told.normals, RIGHT, "normal rows"),
            names::GIVES if self.rule.kind == Kind::Equivalent => {
                self.rare(condition, evidence.missed, self.rule.equivalent_missed, ["alarms", "are missed"])
            }
            names::GIVES => self.alarms(condition),
            names::DECIDES => {
                self.rare(condition, evidence.units, self.rule.differs, ["requests", "are decided otherwise"])
            }
            names::NEAR => self.rare(condition, evidence.far, self.rule.differs, ["requests", "are scored otherwise"]),
            names::OFF => self.rare(condition, evidence.off, self.rule.differs, ["requests", "are forecast otherwise"]),
            names::COMPARED => {
                let text = "rows that both answer with a decision, a score or a forecast".to_owned();
                Missing { condition, unit: "requests", more: None, hours: None, text }
            }
            _ => self.ratio(condition),
        }
    }

    /// Something of which there were so many up to now.
    fn counted(
        &self,
        condition: &'static str,
        unit: &'static str,
        more: Option<u64>,
        so_far: u64,
        text: String,
    ) -> Missing {
        // The rate of the first minutes says nothing.
        let known = so_far > 0 && self.case.age >= LEAST_AGE;
        let each = match unit {
            "alarms" | "labels" => hours(SLOT),
            "buckets" => hours(BUCKET),
            _ => 0.0,
        };
        let each = each.max(hours(self.case.age) / float(so_far.max(1)));
        let has = hours(self.rule.most_time.saturating_sub(self.case.age));
        let hours = more.filter(|_| known).map(|more| float(more) * each);
        let text = hours.map_or_else(
            || text.clone(),
            |hours| {
                let late = if hours > has { format!(", of which it has {}", lasting(has)) } else { String::new() };
                format!("{text}: {} at the rate so far{late}", lasting(hours))
            },
        );
        Missing { condition, unit, more, hours, text }
    }

    fn forecast(&self, condition: &'static str, share: f64) -> Missing {
        let Case { evidence, now, alpha, .. } = self.case;
        let least = self.rule.least_pairs;
        let found = evidence.forecast.improvement(least, *now, *alpha);
        let buckets = found.map_or(0, |found| found.buckets);
        let burn_in = BURN_IN.saturating_sub(buckets) as u64;
        if evidence.forecast.are_clipped().1 {
            let text = "forecasts nearer to what came, or the range of what they are of in the champion's manifest: \
                        outputs_semantics.<forecast>.range"
                .to_owned();
            return Missing { condition, unit: "requests", more: None, hours: None, text };
        }
        let more = evidence
            .forecast
            .more(least, *now, *alpha, share, condition == names::BETTER)
            .map(|more| more.max(burn_in));
        let mean = found.map_or(0.0, |found| found.mean);
        let stands = format!("{} by {:.1} %", if mean < 0.0 { "worse" } else { "better" }, 100.0 * mean.abs());
        let text = match more {
            Some(more) if mean > share => format!("{more} more buckets of 10 minutes, if its forecast stays {stands}"),
            None if mean > share && buckets > 1 => {
                format!("its forecast is {stands} up to now: that takes more than the 14 days that are kept")
            }
            _ if buckets < 2 => {
                format!(
                    "at least {burn_in} more buckets of 10 minutes, each with {least} forecasts whose actual value was sent"
                )
            }
            _ => format!("its forecast is {stands} up to now: that is never enough"),
        };
        let more = more.or((buckets < 2).then_some(burn_in));
        self.counted(condition, "buckets", more, buckets as u64, text)
    }

    /// Labels on which exactly one is right, of the source that has most of them.
    fn labels(&self, condition: &'static str, labelled: [Labelled; SOURCES], share: f64, of: &str) -> Missing {
        let pairs = labelled.map(|labelled| labelled.pairs);
        let best = (0..SOURCES).max_by_key(|number| pairs[*number].pairs()).expect("there are four");
        let now = pairs[best];
        if now.pairs() == 0 && share < 0.5 {
            let right = most_right(&labelled);
            let more = SAME.saturating_sub(right);
            let rate = if more == 0 { ", and alarms at a like rate" } else { "" };
            let text = format!(
                "{more} more half hours with {of} labelled by one source on which both are right, without any on which just one is{rate}"
            );
            return self.counted(condition, "labels", (more > 0).then_some(more), right, text);
        }
        if now.pairs() == 0 {
            let text = format!("no labels of {of} on which exactly one of both is right yet");
            return self.counted(condition, "labels", None, 0, text);
        }
        let right = float(now.challenger) / float(now.pairs());
        let (e, needs): (fn(Discordant) -> f64, _) = if share < 0.5 {
            (|pairs| pairs.challenger_is_right_beyond(RIGHT), NOT_WORSE.ln())
        } else {
            (Discordant::challenger_is_better, self.case.superior)
        };
        let mut all = pairs.map(e);
        let shown = |more: u64| {
            let challenger = share_of(right, more);
            let later = Discordant { challenger, champion: more.saturating_sub(challenger) };
            let mut sum = now;
            sum.merge(later);
            all[best] = e(sum);
            averaged(all) >= needs
        };
        let more = if right > share { least_that(MOST_LABELS, shown) } else { None };
        let source = source(Source::LABELS[best]);
        let text = more.map_or_else(
            || format!("it is right in {:.0} % of the half hours in which labels of {source} decide: that is never enough", 100.0 * right),
            |more| {
                format!(
                    "{more} more half hours with labels of {of} by {source} on which exactly one is right, if it stays right on {:.0} %",
                    100.0 * right
                )
            },
        );
        self.counted(condition, "labels", more, now.pairs(), text)
    }

    fn alarms(&self, condition: &'static str) -> Missing {
        let first = self.case.raised.first;
        let (limit, needs) = (1.0 - self.rule.missed, NOT_WORSE.ln());
        let share = first.share().unwrap_or(1.0);
        let shown = |more: u64| {
            let given = first.given.saturating_add(share_of(share, more));
            above(given, first.alarms().saturating_add(more), limit) >= needs
        };
        let more = if share > limit { least_that(MOST_MORE, shown) } else { None };
        let text = more.map_or_else(
            || format!("it gives {:.0} % of the champion's alarms: that is never enough", 100.0 * share),
            |more| {
                format!(
                    "{more} more half hours with alarms of the champion's, if it gives {:.0} % of them",
                    100.0 * share
                )
            },
        );
        self.counted(condition, "alarms", more, first.alarms(), text)
    }

    fn ratio(&self, condition: &'static str) -> Missing {
        let (least, most) = self.rule.alarms;
        let text = self.case.raised.any.ratio().map_or_else(
            || "the champion gave no alarm yet".to_owned(),
            |ratio| {
                format!("it gives {ratio:.2} alarms for each of the champion's, where {least} to {most} are the same")
            },
        );
        self.counted(condition, "alarms", None, 0, text)
    }

    fn rare(&self, condition: &'static str, events: Events, limit: f64, [of, what]: [&'static str; 2]) -> Missing {
        let rate = float(events.events) / float(events.trials.max(1));
        let shown = |more: u64| {
            let later = events.events.saturating_add(share_of(rate, more));
            below(later, events.trials.saturating_add(more), limit) >= self.case.same
        };
        let more = if rate < limit { least_that(MOST_MORE, shown) } else { None };
        let percent = 100.0 * rate;
        let text = more.map_or_else(
            || format!("{percent:.2} % of the {of} {what}: that is never enough"),
            |more| format!("{more} more {of}, one of each series in 10 minutes, if {percent:.2} % of them {what}"),
        );
        self.counted(condition, of, more, events.trials, text)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number that is no less than zero"
)]
fn share_of(share: f64, number: u64) -> u64 {
    (share * float(number)).round() as u64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "hours are no less than zero")]
fn ceiling(hours: f64) -> u64 {
    hours.ceil() as u64
}

fn lasting(hours: f64) -> String {
    if hours < 48.0 { format!("{hours:.0} hours") } else { format!("{:.0} days", hours / 24.0) }
}

const fn source(source: Source) -> &'static str {
    match source {
        Source::Human => "human",
        Source::Alertmanager => "alertmanager",
        Source::Chaos => "chaos",
        Source::Incident => "incident",
        Source::Metric => "metric",
    }
}
