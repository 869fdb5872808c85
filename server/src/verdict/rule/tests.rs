//! What the rule makes of evidence.

use super::*;
use crate::verdict::active::Active;
use crate::verdict::draws::{Draws, SECONDS as HOUR};
use crate::verdict::state::Source;

const DAY: u64 = 24 * 3600;

/// Two days of a challenger whose forecast is off by `theirs` where the champion's is off by 3, and that gives these
/// alarms: of both, of the champion alone, and of the challenger alone.
fn seen(theirs: f64, [both, champion, challenger]: [u64; 3]) -> Evidence {
    let mut random = fastrand::Rng::with_seed(5);
    let mut evidence = Evidence { requests: 20_000, forecasts: 20_000, ..Evidence::default() };
    evidence.active = rows(0, 2 * DAY);
    evidence.series.extend([1, 2, 3]);
    for second in (0..2 * DAY).step_by(60) {
        evidence.forecast.record(second, 3.0 + random.f64(), theirs + random.f64());
    }
    let given = [(both, true, true), (champion, true, false), (challenger, false, true)];
    let given =
        given.into_iter().flat_map(|(count, champion, challenger)| (0..count).map(move |_| (champion, challenger)));
    for (series, (champion, challenger)) in (1..).zip(given) {
        evidence.draws.decided(series, HOUR * series, champion, challenger);
    }
    evidence.units.trials = 2000;
    evidence.slow.trials = 20_000;
    evidence
}

/// The same with the champion's alarms, where the champion's forecast is off by about so much, and the challenger's.
fn losing(champion: f64, challenger: f64) -> Evidence {
    let mut evidence = Evidence { forecast: Default::default(), ..seen(3.0, [120, 0, 0]) };
    let mut random = fastrand::Rng::with_seed(9);
    for second in (0..2 * DAY).step_by(60) {
        evidence.forecast.record(second, champion + random.f64(), challenger + random.f64());
    }
    evidence
}

/// Rows in each ten minutes of a time.
fn rows(from: u64, to: u64) -> Active {
    let mut active = Active::default();
    (from..to).step_by(600).for_each(|second| active.record(second, 70, false));
    active
}

/// Labels of a person on which exactly one is right.
fn label(evidence: &mut Evidence, anomaly: bool, right: u64, wrong: u64) {
    for hour in 1..=right + wrong {
        let right = hour <= right;
        evidence.draws.labelled(7, HOUR * hour, (Source::Human, anomaly), right != anomaly, right == anomaly);
    }
}

fn at(now: u64) -> Circumstances {
    Circumstances { now, ..Circumstances::default() }
}

#[track_caller]
fn says(verdict: &Verdict, decision: Decision, reason: &str) {
    assert_eq!(verdict.decision, decision, "{:?}", verdict.reasons);
    assert!(verdict.reasons.iter().any(|told| told.contains(reason)), "{reason}: {:?}", verdict.reasons);
    assert_eq!(verdict.estimate.is_empty(), decision != Decision::Hold, "{:?}", verdict.estimate);
}

#[track_caller]
fn decided(evidence: &Evidence, decision: Decision, reason: &str) {
    says(&Rule::default().decide(evidence, &at(2 * DAY)), decision, reason);
}

#[test]
fn a_better_forecast_with_the_same_decisions_is_promoted() {
    decided(&seen(2.0, [120, 2, 3]), Decision::Promote, "forecast is better");
    decided(&seen(3.0, [120, 2, 3]), Decision::Hold, "forecast is better");
    decided(&seen(4.0, [120, 2, 3]), Decision::Reject, "forecast is worse");
}

/// With the better forecast, all of them agree with the champion on 99 % of the rows, but for the second.
#[test]
fn challengers_that_decide_nothing_are_never_promoted() {
    decided(&seen(2.0, [0, 120, 0]), Decision::Reject, "misses 100 %");
    decided(&seen(2.0, [120, 0, 240]), Decision::Reject, "3.00 alarms for each");
    decided(&seen(2.0, [1, 119, 119]), Decision::Reject, "misses 99 %");
    decided(&seen(2.0, [20, 100, 100]), Decision::Reject, "misses 83 %");
    decided(&seen(2.0, [0, 0, 0]), Decision::Hold, "gives the champion's alarms");
}

/// Where neither model decides anything, the forecast is all there is.
#[test]
fn models_that_only_forecast_are_compared_by_it() {
    let mut evidence = seen(2.0, [0, 0, 0]);
    evidence.units.trials = 0;
    decided(&evidence, Decision::Promote, "forecast is better");
}

#[test]
fn labels_decide_where_alarms_differ() {
    let mut evidence = seen(3.05, [100, 30, 30]);
    label(&mut evidence, true, 40, 5);
    label(&mut evidence, false, 30, 10);
    // It is worse by about a percent: whether by less, is not shown.
    decided(&evidence, Decision::Hold, "forecast is not worse");
    evidence.forecast = seen(2.96, [0; 3]).forecast;
    decided(&evidence, Decision::Promote, "its decisions are better");
    let mut worse = Draws::default();
    std::mem::swap(&mut worse, &mut evidence.draws);
    label(&mut evidence, true, 40, 5);
    label(&mut evidence, false, 5, 40);
    decided(&evidence, Decision::Reject, "more false alarms");
}

/// A few labels of each source are not added up to one that is enough: each is weighed for itself.
#[test]
fn sources_are_not_mixed() {
    let told = |sources: &[Source]| {
        let mut evidence = seen(3.0, [100, 30, 30]);
        for (hour, source) in (1..=16).zip(sources.iter().cycle()) {
            evidence.draws.labelled(7, HOUR * hour, (*source, true), false, true);
        }
        let verdict = Rule::default().decide(&evidence, &at(2 * DAY));
        verdict.conditions.iter().find(|condition| condition.name == names::CATCHES_MORE).expect("a condition").holds
    };
    assert!(told(&[Source::Human]), "16 of one source are enough");
    assert!(!told(&Source::LABELS), "four of each are not");
}

/// Labels on which both are right show that nothing is worse, if they are of enough hours; on which both are wrong, nothing.
#[test]
fn labels_that_agree_are_enough_for_no_worse() {
    let mut evidence = seen(2.0, [2, 0, 0]);
    let agree = |evidence: &mut Evidence, anomaly: bool, hours: u64, right: bool| {
        for hour in 1..=hours {
            let alarm = anomaly == right;
            evidence.draws.labelled(7, HOUR * hour, (Source::Chaos, anomaly), alarm, alarm);
        }
    };
    agree(&mut evidence, true, 30, true);
    agree(&mut evidence, false, 18, true);
    agree(&mut evidence, false, 40, false);
    let verdict = Rule::default().decide(&evidence, &at(2 * DAY));
    says(&verdict, Decision::Hold, "decisions are no worse");
    let missing = verdict.estimate.iter().find(|missing| missing.condition == names::NO_LOUDER);
    assert_eq!(missing.and_then(|missing| missing.more), Some(12), "{verdict:?}");
    agree(&mut evidence, false, 30, true);
    decided(&evidence, Decision::Promote, "forecast is better");
    // One that gives no alarms at all is not shown to be no worse by what both were right on.
    evidence.draws.decided(9, 100 * HOUR, true, false);
    evidence.draws.decided(9, 101 * HOUR, true, false);
    decided(&evidence, Decision::Hold, "decisions are no worse");
}

#[test]
fn challengers_share_the_error() {
    let evidence = seen(2.9, [120, 2, 3]);
    let [alone, shared] =
        [1, 3].map(|challengers| Rule { challengers, ..Rule::default() }.decide(&evidence, &at(2 * DAY)));
    let needs = |verdict: &Verdict| {
        verdict.conditions.iter().find(|condition| condition.name == names::CATCHES_MORE).expect("a condition").needs
    };
    assert!((needs(&shared) - needs(&alone) - 3_f64.ln()).abs() < 1e-12);
    assert!(shared.improvement.expect("buckets").lower < alone.improvement.expect("buckets").lower);
}

#[test]
fn what_fails_or_takes_its_time_is_rejected() {
    let mut evidence = seen(2.0, [120, 2, 3]);
    evidence.active.record(0, 32, true);
    evidence.slow.events = 1000;
    decided(&evidence, Decision::Reject, "5.00 % of its runs");
    // A batch that fails is one failure; such batches again and again are many.
    evidence.slow.events = 0;
    decided(&evidence, Decision::Promote, "forecast is better");
    for second in (0..DAY).step_by(600) {
        evidence.active.record(second, 1, true);
    }
    evidence.slow.events = 1000;
    decided(&evidence, Decision::Reject, "it fails on 0.87 %");
    decided(&evidence, Decision::Reject, "5.00 % of its runs");
    let verdict = Rule::default().decide(&seen(3.0, [120, 2, 3]), &at(14 * DAY));
    assert_eq!((verdict.decision, verdict.reasons.len()), (Decision::Reject, 1), "{verdict:?}");
}

#[test]
fn nobody_is_promoted_before_enough_was_seen() {
    let good = seen(2.0, [120, 2, 3]);
    decided(&Evidence { active: rows(2 * DAY - 3600, 2 * DAY), ..good.clone() }, Decision::Hold, "hours");
    // One row of long ago is no day of data.
    let mut old = rows(2 * DAY - 3600, 2 * DAY);
    old.record(0, 1, false);
    decided(&Evidence { active: old, ..good.clone() }, Decision::Hold, "hours");
    decided(&Evidence { requests: 10, ..good.clone() }, Decision::Hold, "requests");
    let mut unnamed = good.clone();
    unnamed.series.clear();
    decided(&unnamed, Decision::Hold, "send it with each row");
    unnamed.series.extend([1, 2]);
    decided(&unnamed, Decision::Hold, "series, 2 of 3");
    let verdict = |seen: Circumstances| Rule::default().decide(&good, &Circumstances { now: 2 * DAY, ..seen });
    let alone = verdict(Circumstances { missing: 1, ..Circumstances::default() });
    says(&alone, Decision::Hold, "1 of the servers did not tell its evidence");
    // What it has shown it does not wait for.
    assert_eq!((alone.reasons.len(), alone.estimate.len()), (1, 1), "{alone:?}");
    let drifted = Circumstances { drifted: vec!["cpu_zscore".to_owned()], ..Circumstances::default() };
    says(&verdict(drifted.clone()), Decision::Hold, "inputs are not as in training: cpu_zscore, so");
    let own = Circumstances { trained: Some("4".to_owned()), ..drifted };
    says(&verdict(own), Decision::Hold, "inputs are not as in version 4's training: cpu_zscore, so");
    let mut scored = good.clone();
    for number in 0..1000 {
        scored.scores.record(0.1 + f64::from(number) * 1e-4, 0.3 + f64::from(number) * 1e-4);
    }
    decided(&scored, Decision::Hold, "promote by hand");
}

#[test]
fn the_champion_before_is_brought_back_soon() {
    let mut evidence = seen(1.0, [120, 2, 3]);
    (evidence.active, evidence.requests) = (rows(DAY, DAY + 52 * 600), 500);
    evidence.forecast = Default::default();
    for second in (DAY..DAY + 52 * 600).step_by(60) {
        evidence.forecast.record(second, 4.0 + (second % 7) as f64 / 7.0, 1.0);
    }
    let now = Circumstances { drifted: vec!["x".into()], ..at(DAY + 52 * 600) };
    says(&Rule::default().decide(&evidence, &now), Decision::Hold, "hours");
    says(&Rule::bring_back().decide(&evidence, &now), Decision::Promote, "forecast is better");
    assert_eq!(Rule::bring_back().decide(&seen(3.0, [120, 2, 3]), &at(400 * DAY)).decision, Decision::Hold);
}

#[test]
fn one_that_is_equivalent_shows_it_without_labels() {
    let rule = Rule { kind: Kind::Equivalent, ..Rule::default() };
    let events = |events, trials| Events { events, trials };
    let mut evidence = seen(3.0, [0; 3]);
    evidence.missed = events(0, 120);
    (evidence.units, evidence.far, evidence.off) = (events(1, 20_000), events(0, 20_000), events(0, 20_000));
    let now = at(2 * DAY);
    says(&rule.decide(&evidence, &now), Decision::Promote, "its answers are those of the champion");
    let young = Evidence { active: rows(0, 3600), ..evidence.clone() };
    says(&rule.decide(&young, &now), Decision::Hold, "hours");
    let nothing = Evidence { units: events(0, 0), far: events(0, 0), off: events(0, 0), ..evidence.clone() };
    says(&rule.decide(&nothing, &now), Decision::Hold, "could be compared yet");
    // Models without scores are not asked for any.
    let no_scores = Evidence { far: events(0, 0), ..evidence.clone() };
    says(&rule.decide(&no_scores, &now), Decision::Promote, "its answers are those of the champion");
    evidence.off = events(20_000, 20_000);
    says(&rule.decide(&evidence, &now), Decision::Reject, "forecasts otherwise by more than a thousandth on 100.00 %");
    (evidence.far, evidence.off) = (events(15, 20_000), events(0, 20_000));
    says(&rule.decide(&evidence, &now), Decision::Hold, "within a thousandth");
    evidence.far = events(100, 20_000);
    says(&rule.decide(&evidence, &now), Decision::Reject, "scores otherwise by more than a thousandth on 0.50 %");
    evidence.units = events(100, 20_000);
    says(&rule.decide(&evidence, &now), Decision::Reject, "decides otherwise on 0.50 %");
    evidence.units = events(0, 20_000);
    evidence.missed = events(24, 120);
    says(&rule.decide(&evidence, &now), Decision::Reject, "gives no alarm on 20.00 % of the champion's alarms");
}

/// Fewer of the champion's alarms, because those were false; more alarms, because it catches more.
#[test]
fn guards_leave_alone_what_labels_explain() {
    let mut quiet = seen(3.0, [30, 60, 0]);
    decided(&quiet, Decision::Reject, "misses 67 %");
    label(&mut quiet, false, 30, 0);
    let verdict = Rule::default().decide(&quiet, &at(2 * DAY));
    assert_ne!(verdict.decision, Decision::Reject, "{verdict:?}");
    let mut more = seen(3.0, [30, 0, 90]);
    decided(&more, Decision::Reject, "4.00 alarms for each");
    label(&mut more, true, 30, 0);
    let verdict = Rule::default().decide(&more, &at(2 * DAY));
    assert_ne!(verdict.decision, Decision::Reject, "{verdict:?}");
}

/// Without actual values nothing is known of the forecast; nor is anything when losses are beyond what is counted.
#[test]
fn a_forecast_that_was_not_seen_is_not_shown() {
    let mut evidence = seen(3.0, [100, 0, 0]);
    label(&mut evidence, true, 30, 0);
    label(&mut evidence, false, 30, 0);
    evidence.forecast = Default::default();
    decided(&evidence, Decision::Hold, "forecast is not worse");
    evidence.forecasts = 0;
    decided(&evidence, Decision::Promote, "its decisions are better");
    decided(&losing(60.0, 5000.0), Decision::Hold, "outputs_semantics.<forecast>.range");
}

/// Whose losses are clipped looks better than it is: nothing speaks for it, and everything for the other.
#[test]
fn clipped_losses_speak_for_the_other() {
    decided(&losing(5000.0, 2.0), Decision::Promote, "forecast is better");
    decided(&losing(2.0, 5000.0), Decision::Reject, "forecast is worse");
    decided(&losing(5000.0, 6000.0), Decision::Hold, "outputs_semantics.<forecast>.range");
}

/// A champion that gives no alarm is replaced by one that labels show to be right.
#[test]
fn a_silent_champion_is_replaced_by_labels() {
    let mut evidence = Evidence { forecasts: 0, ..seen(3.0, [0, 0, 40]) };
    label(&mut evidence, true, 40, 0);
    decided(&evidence, Decision::Hold, "gives no more false alarms");
    for slot in 1..=40 {
        evidence.draws.labelled(7, HOUR * slot, (Source::Human, false), false, false);
    }
    decided(&evidence, Decision::Promote, "its decisions are better");
}

/// Where there is nothing to compare, nothing is asked for that cannot come.
#[test]
fn scores_alone_are_not_compared() {
    let evidence = Evidence { forecasts: 0, units: Events::default(), ..seen(3.0, [0; 3]) };
    let verdict = Rule::default().decide(&evidence, &at(2 * DAY));
    says(&verdict, Decision::Hold, "scores alone are not compared");
    assert_eq!((verdict.reasons.len(), verdict.estimate.len()), (1, 1), "{verdict:?}");
}

#[test]
fn what_is_open_is_told_by_route() {
    let verdict = Rule::default().decide(&seen(3.0, [120, 2, 3]), &at(2 * DAY));
    assert_eq!(
        verdict.reasons,
        [
            "by its forecast, not shown yet: forecast is better",
            "by its decisions, not shown yet: catches more or gives fewer false alarms, and is no worse at the other (by labels); \
             forecast is not worse",
        ]
    );
    let route = |name| verdict.conditions.iter().find(|condition| condition.name == name).expect("a condition").route;
    assert_eq!((route(names::HOURS), route(names::BETTER)), (None, Some(Route::Forecast)));
    assert_eq!((route(names::NOT_WORSE), route(names::NO_LOUDER)), (Some(Route::Decisions), Some(Route::Both)));
    let none = Rule::default().decide(&Evidence::default(), &at(0));
    let rounded = none
        .conditions
        .iter()
        .filter_map(|condition| condition.value)
        .all(|value| value.to_bits() != (-0.0f64).to_bits() && (value == 0.0 || value.abs() > 1e-9));
    assert!(rounded, "{none:?}");
    decided(&losing(0.1, 40.0), Decision::Reject, "its forecast is worse by more than 10 times");
}

/// What is told to be missing is enough, and one less is not.
#[test]
fn estimates_are_the_least_that_is_enough() {
    let rule = Rule::default();
    let find = |evidence: &Evidence, name: &str| {
        let verdict = rule.decide(evidence, &at(2 * DAY));
        verdict.estimate.into_iter().find(|missing| missing.condition == name).expect("it is missing")
    };
    let holds = |evidence: &Evidence, name: &str| {
        let verdict = rule.decide(evidence, &at(2 * DAY));
        verdict.conditions.iter().find(|condition| condition.name == name).expect("a condition").holds
    };
    let few = find(&seen(3.0, [10, 0, 0]), names::GIVES);
    assert_eq!((few.unit, few.more), ("alarms", Some(6)), "{few:?}");
    assert!(holds(&seen(3.0, [16, 0, 0]), names::GIVES) && !holds(&seen(3.0, [15, 0, 0]), names::GIVES));
    let never = find(&seen(3.0, [10, 10, 0]), names::GIVES);
    assert_eq!((never.more, never.hours), (None, None), "{never:?}");

    let mut labelled = seen(3.0, [10, 0, 0]);
    label(&mut labelled, true, 3, 0);
    let more = find(&labelled, names::CATCHES_MORE).more.expect("it is right on each");
    let with = |right| {
        let mut evidence = seen(3.0, [10, 0, 0]);
        label(&mut evidence, true, right, 0);
        holds(&evidence, names::CATCHES_MORE)
    };
    assert!(with(3 + more) && !with(2 + more), "{more}");
    assert_eq!(find(&labelled, names::QUIETER).more, None);

    let slightly = seen(2.95, [10, 0, 0]);
    let found = find(&slightly, names::BETTER);
    let never = find(&seen(3.01, [10, 0, 0]), names::BETTER);
    assert!(found.unit == "buckets" && found.more.is_some_and(|more| more > 100), "{found:?}");
    assert_eq!((never.more, never.hours), (None, None), "{never:?}");
    let mut early = seen(2.9, [10, 0, 0]);
    early.forecast = Default::default();
    for second in (2 * DAY - 5 * 600..2 * DAY).step_by(60) {
        early.forecast.record(second, 3.0, 0.0);
    }
    assert_eq!(find(&early, names::BETTER).more, Some(45), "burn-in");
    let young = Evidence { active: rows(2 * DAY - 6 * 3600, 2 * DAY), requests: 250, ..slightly };
    let hours = find(&young, names::HOURS);
    assert_eq!((hours.more, hours.hours), (Some(18), Some(18.0)), "{hours:?}");
    let requests = find(&young, names::REQUESTS);
    assert_eq!((requests.more, requests.hours), (Some(750), Some(18.0)), "{requests:?}");
}

#[test]
fn states_add_up() {
    let (mut a, b) = (seen(2.0, [1, 2, 3]), seen(4.0, [4, 5, 6]));
    let mut other = b.clone();
    other.merge(&a);
    a.merge(&b);
    assert_eq!(a, other);
    assert_eq!((a.requests, a.active.failed().trials), (40_000, 2 * 288 * 70));
}
