//! Challengers whose decisions are worth nothing, beside a champion on pods with rare alarms: none is ever promoted,
//! though its forecast is better and nearly all of its rows agree.

use fastrand::Rng;
use onnxd::verdict::buckets::SECONDS;
use onnxd::verdict::rule::{Circumstances, Decision, Rule, Verdict};
use onnxd::verdict::state::{Answer, Label, Recorder, Row, Source, Target};

use crate::normal;

const PODS: u64 = 20;
const MINUTES: u64 = 5 * 24 * 60;
const HORIZON: u64 = 300;
/// Of the champion, in standard deviations.
const THRESHOLD: f64 = 6.0;

/// Deviations of a pod by minute: noise, and once a day, on average, a fault of 3 to 5 minutes.
fn pod(random: &mut Rng) -> Vec<f64> {
    let mut deviations: Vec<f64> = (0..MINUTES).map(|_| normal(random)).collect();
    for start in 0..deviations.len() - 5 {
        if random.u32(..24 * 60) == 0 {
            let (height, minutes) = (9.0 + 10.0 * random.f64(), random.usize(3..=5));
            deviations[start..start + minutes].iter_mut().for_each(|deviation| *deviation += height);
        }
    }
    deviations
}

/// The first verdict other than a hold, or the last one, of looks at each ten minutes. `decides` tells the challenger's
/// alarm from the pod's deviations and the minute.
fn verdict(decides: impl Fn(&mut Rng, &[f64], usize) -> bool) -> Verdict {
    let mut random = Rng::with_seed(8);
    let pods: Vec<Vec<f64>> = (0..PODS).map(|_| pod(&mut random)).collect();
    let mut recorder = Recorder::new(Some(HORIZON));
    let rule = Rule::default();
    let mut last = None;
    for minute in 0..MINUTES as usize {
        let at = minute as u64 * 60;
        for (series, deviations) in (1..).zip(&pods) {
            let actual = 50.0 + deviations[minute];
            let label =
                Label { target: Target::At { series, at }, anomaly: None, value: Some(actual), source: Source::Metric };
            recorder.label(&label);
            let alarm = decides(&mut random, deviations, minute);
            let champion = Answer {
                alarm: Some(deviations[minute] > THRESHOLD),
                forecast: Some(50.0 + 2.0 * normal(&mut random)),
                score: None,
            };
            let challenger = Answer { alarm: Some(alarm), forecast: Some(50.0), score: None };
            recorder.record(0, &Row { series, at, champion, challenger });
        }
        let now = at + 60;
        if now.is_multiple_of(SECONDS) {
            let seen = Circumstances { now, settle: HORIZON + 120, ..Circumstances::default() };
            let verdict = rule.decide(recorder.evidence(), &seen);
            if verdict.decision != Decision::Hold {
                return verdict;
            }
            last = Some(verdict);
        }
    }
    last.expect("a look")
}

#[track_caller]
fn rejected(verdict: &Verdict, reason: &str) {
    assert_eq!(verdict.decision, Decision::Reject, "{:?}", verdict.reasons);
    assert!(verdict.reasons.iter().any(|told| told.contains(reason)), "{reason}: {:?}", verdict.reasons);
}

#[test]
fn silent_ones_are_rejected() {
    rejected(&verdict(|_, _, _| false), "it misses 100 % of the champion's alarms");
}

#[test]
fn ones_that_always_alarm_are_rejected() {
    rejected(&verdict(|_, _, _| true), "alarms for each of the champion's, outside of");
}

#[test]
fn random_ones_of_the_same_rate_are_rejected() {
    // A fault a day of four minutes.
    rejected(&verdict(|random, _, _| random.u32(..24 * 60) < 4), "of the champion's alarms, beyond 20 %");
}

#[test]
fn ones_that_are_five_minutes_late_are_rejected() {
    let late = |_: &mut Rng, deviations: &[f64], minute: usize| minute >= 5 && deviations[minute - 5] > THRESHOLD;
    rejected(&verdict(late), "of the champion's alarms, beyond 20 %");
}

#[test]
fn sane_ones_are_promoted_for_their_forecast() {
    for threshold in [5.0, 7.0] {
        let verdict = verdict(|random, deviations, minute| deviations[minute] + 0.1 * normal(random) > threshold);
        assert_eq!(verdict.decision, Decision::Promote, "{threshold}: {:?}", verdict.reasons);
    }
}
