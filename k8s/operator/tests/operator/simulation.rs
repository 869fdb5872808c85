//! Hours of failures in virtual time, against the decision and the history that the operator uses.
//!
//! The world here is made of pods that fail, crash loops that follow their replacements, PodDisruptionBudgets, alerts that come and go, and
//! operators that die between claim and action or act beside each other. What was really done is written down and judged.

mod world;

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;
use remediation_operator::decide::{View, decide};
use remediation_operator::facts::Workload;
use remediation_operator::policy::{Outcome, RemediationStatus, Verb};
use remediation_operator::rules::Rules;

use self::world::{Act, Event, Limits, World, event, limits, rules};

/// Budget and cool-downs, of what was really done.
fn judge(acts: &[Act], rules: &Rules) {
    let per = rules.per.as_secs();
    for act in acts {
        let window = acts.iter().filter(|other| other.at <= act.at && act.at - other.at < per).count();
        assert!(window <= rules.actions, "{window} actions within {per} s up to {}", act.at);
    }
    let mut last: HashMap<&str, (i64, u32)> = HashMap::new();
    for act in acts.iter().filter(|act| act.verb == Verb::Evict) {
        let times = match last.get(act.subject.as_str()) {
            None => 1,
            Some((at, times)) => {
                let (gap, pause) = (act.at - at, rules.cool_down(*times).as_secs());
                assert!(gap >= pause, "{} again after {gap} s, its cool-down is {pause} s", act.subject);
                if gap >= pause + rules.most.as_secs() { 1 } else { times + 1 }
            }
        };
        last.insert(&act.subject, (act.at, times));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn budget_concurrency_and_cool_downs_hold_whatever_happens(
        limits in limits(),
        events in prop::collection::vec((1_i64..120, event()), 1..240),
    ) {
        let rules = rules(&limits, false);
        let mut world = World::new();
        for (seconds, event) in events {
            world.step(&rules, &limits, seconds, event);
        }
        judge(&world.acts, &rules);
    }

    #[test]
    fn everything_that_fails_is_looked_after_in_the_end(
        limits in limits(),
        events in prop::collection::vec((1_i64..120, event()), 1..120),
    ) {
        let rules = rules(&limits, false);
        let mut world = World::new();
        for (seconds, event) in events {
            world.step(&rules, &limits, seconds, event);
        }
        // The storm is over: replacements are well from now on.
        world.doomed.clear();
        world.allowed = true;
        let end = world.now + 3 * 24 * 3600;
        while world.now < end && world.failing() > 0 {
            world.step(&rules, &limits, 30, Event::Calm);
        }
        prop_assert_eq!(world.failing(), 0);
        judge(&world.acts, &rules);
    }

    #[test]
    fn a_dry_run_does_nothing_and_says_as_much_as_the_budget_allows(
        limits in limits(),
        events in prop::collection::vec((1_i64..120, event()), 1..120),
    ) {
        let rules = rules(&limits, true);
        let mut world = World::new();
        for (seconds, event) in events {
            world.step(&rules, &limits, seconds, event);
            let would: Vec<Act> = world.status.actions.iter().map(|record| {
                prop_assert_eq!(record.outcome, Outcome::DryRun);
                Ok(Act { at: record.at.0.as_second(), verb: record.action, subject: record.subject.clone() })
            }).collect::<Result<_, TestCaseError>>()?;
            judge(&would, &rules);
        }
        prop_assert!(world.acts.is_empty());
    }
}

/// No flapping: a crash loop that follows its pod is acted upon ever more rarely, and not at all by a restart of the operator.
#[test]
fn a_workload_that_always_crashes_is_acted_upon_at_a_decreasing_rate() {
    let limits = Limits { actions: 100, per: 60, concurrent: 1, first: 10, most: 360 };
    let rules = rules(&limits, false);
    let mut world = World::new();
    world.happen(Event::CrashForEver(0));
    for _ in 0..24 * 3600 / 15 {
        world.step(&rules, &limits, 15, Event::Calm);
    }
    let times: Vec<i64> = world.acts.iter().map(|act| act.at).collect();
    let gaps: Vec<i64> = times.windows(2).map(|pair| (pair[1] - pair[0]) / 60).collect();
    assert_eq!(gaps, [10, 20, 40, 80, 160, 320, 360, 360], "minutes between evictions in a day");
}

/// The day of thousands of pods: one look stays short, and begins no more than a few things.
#[test]
fn thousands_of_pods_are_decided_on_at_once() {
    let limits = Limits { actions: 100, per: 60, concurrent: 100, first: 10, most: 60 };
    let rules = rules(&limits, false);
    let mut world = World::new();
    let pod = world.pods[0].as_ref().clone();
    world.pods = (0..20_000)
        .map(|n| {
            let mut pod = pod.clone();
            (pod.name, pod.uid) = (format!("p-{n}"), format!("u-{n}"));
            pod.workload = Some(Workload { kind: "Deployment".into(), name: format!("d-{}", n / 4) });
            pod.crash_loop = Some(("app".into(), 9));
            Arc::new(pod)
        })
        .collect();
    let begin = std::time::Instant::now();
    let decision = world.decide(&rules);
    assert_eq!(decision.actions.len(), remediation_operator::decide::AT_ONCE);
    assert_eq!(decision.held.len(), 20_000 - decision.actions.len());
    let took = begin.elapsed();
    assert!(took < std::time::Duration::from_secs(5), "{took:?}");
    println!("a decision on 20,000 failing pods took {took:?}");
}

/// A cool-down is that of the workload: another policy for the same pods does not get around it.
#[test]
fn two_policies_share_the_cool_downs_of_a_workload() {
    let limits = Limits { actions: 5, per: 60, concurrent: 5, first: 10, most: 60 };
    let rules = rules(&limits, false);
    let mut world = World::new();
    world.happen(Event::CrashForEver(0));
    let first = world.decide(&rules);
    assert_eq!(first.actions.len(), 1);
    let mut other = RemediationStatus::default();
    first.write(&mut other, &rules, world.time());
    let decision = decide(&View {
        namespace: "ml",
        name: "other",
        uid: "1",
        rules: &rules,
        status: &RemediationStatus::default(),
        others: &other.actions,
        pods: &world.pods,
        nodes: &HashMap::new(),
        anomalies: &world.anomalies,
        me: None,
        now: world.time() + SignedDuration::from_secs(30),
    });
    assert!(decision.actions.is_empty(), "{:?}", decision.actions);
}

/// Cool-downs outlive the budget's span and what is kept for people; what nothing needs is forgotten.
#[test]
fn the_history_keeps_what_cools_down_and_forgets_the_rest() {
    let limits = Limits { actions: 100, per: 1, concurrent: 100, first: 10, most: 60 };
    let rules = rules(&limits, false);
    let mut world = World::new();
    let pod = world.pods[0].as_ref().clone();
    world.pods = (0..50)
        .map(|n| {
            let mut pod = pod.clone();
            (pod.name, pod.uid) = (format!("p-{n}"), format!("u-{n}"));
            pod.workload = Some(Workload { kind: "Deployment".into(), name: format!("d-{n}") });
            pod.crash_loop = Some(("app".into(), 9));
            Arc::new(pod)
        })
        .collect();
    let look = |world: &mut World| {
        let (decision, now) = (world.decide(&rules), world.time());
        decision.write(&mut world.status, &rules, now);
        decision.actions.len()
    };
    for _ in 0..5 {
        assert_eq!(look(&mut world), 10);
    }
    world.now += 9 * 60;
    assert_eq!(look(&mut world), 0, "all of them cool down");
    assert_eq!(world.status.actions.len(), 50);
    for pod in &mut world.pods {
        Arc::make_mut(pod).crash_loop = None;
    }
    world.now += 61 * 60;
    look(&mut world);
    assert_eq!(world.status.actions.len(), 20, "for people to read");
}
