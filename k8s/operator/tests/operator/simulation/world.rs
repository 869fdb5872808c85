//! The world of the simulation, and an operator that dies in it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;
use remediation_operator::decide::{Decision, View, decide};
use remediation_operator::facts::{Finished, Node, Pod, Series, Workload};
use remediation_operator::finding::Anomalies;
use remediation_operator::history;
use remediation_operator::policy::{Outcome, RemediationPolicySpec, RemediationStatus, Verb};
use remediation_operator::rules::Rules;
use serde_json::json;

pub const WORKLOADS: usize = 6;
pub const REPLICAS: usize = 2;
/// A pod that was asked to end is gone so long after.
pub const LEAVES: i64 = 20;
/// A new pod is ready, or crashes again, so long after it was made.
pub const STARTS: i64 = 40;

/// What happens before a look.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Nothing.
    Calm,
    /// A pod begins a crash loop.
    Crash(usize),
    /// So do all that replace it.
    CrashForEver(usize),
    /// The kubelet evicts a pod; its controller makes another one.
    KubeletEvicts(usize),
    /// A pod's alert fires, or stops.
    Alert(usize),
    /// PodDisruptionBudgets allow nothing, or everything again.
    Budgets,
    /// The operator dies between claim and action.
    DiesBefore,
    /// The operator dies between action and settling.
    DiesAfter,
    /// Two operators look at once, and both believe that they lead.
    Both,
}

pub fn event() -> impl Strategy<Value = Event> {
    let pod = 0..WORKLOADS * REPLICAS;
    prop_oneof![
        6 => Just(Event::Calm),
        4 => pod.clone().prop_map(Event::Crash),
        1 => (0..WORKLOADS).prop_map(Event::CrashForEver),
        2 => pod.clone().prop_map(Event::KubeletEvicts),
        4 => pod.prop_map(Event::Alert),
        1 => Just(Event::Budgets),
        1 => Just(Event::DiesBefore),
        1 => Just(Event::DiesAfter),
        1 => Just(Event::Both),
    ]
}

#[derive(Clone, Debug)]
pub struct Limits {
    pub actions: u32,
    pub per: u32,
    pub concurrent: u32,
    pub first: u32,
    pub most: u32,
}

pub fn limits() -> impl Strategy<Value = Limits> {
    (1_u32..6, 5_u32..90, 1_u32..4, 1_u32..15, 1_u32..8).prop_map(|(actions, per, concurrent, first, factor)| Limits {
        actions,
        per,
        concurrent,
        first,
        most: first * factor,
    })
}

pub fn rules(limits: &Limits, dry_run: bool) -> Rules {
    let minutes = |n: u32| format!("{n}m");
    let spec: RemediationPolicySpec = serde_json::from_value(json!({
        "selector": {"matchLabels": {"app": "shop"}},
        "conditions": {"crashLoop": {"restarts": 3}, "evicted": true, "anomalous": {"for": "1m"}},
        "budget": {"actions": limits.actions, "per": minutes(limits.per)},
        "concurrent": limits.concurrent,
        "coolDown": {"first": minutes(limits.first), "most": minutes(limits.most)},
        "dryRun": dry_run,
    }))
    .expect("a spec");
    Rules::read(&spec).expect("rules")
}

/// What was really done.
#[derive(Clone, Debug)]
pub struct Act {
    pub at: i64,
    pub verb: Verb,
    pub subject: String,
}

pub struct World {
    pub now: i64,
    pub next: usize,
    pub pods: Vec<Arc<Pod>>,
    /// When pods that were asked to end are gone, by uid.
    pub leaving: HashMap<String, i64>,
    /// Workloads whose pods always crash.
    pub doomed: HashSet<usize>,
    /// Pods that replace one that the operator has evicted, and are not settled.
    pub replacements: HashSet<String>,
    /// Evicted by the operator, without a replacement yet.
    pub unmade: usize,
    pub anomalies: Anomalies,
    pub allowed: bool,
    pub acts: Vec<Act>,
    pub status: RemediationStatus,
}

/// The last workload has a Job, the one before is the operator's own; of the others, every second pod of the third opts out.
pub fn workload(n: usize) -> Workload {
    let kind = if n == WORKLOADS - 1 { "Job" } else { "Deployment" };
    Workload { kind: kind.into(), name: format!("w{n}") }
}

pub fn me() -> (String, Workload) {
    ("ml".into(), workload(WORKLOADS - 2))
}

pub fn protected(pod: &Pod) -> bool {
    let kind = pod.workload.as_ref().expect("a workload");
    pod.opted_out || kind.kind == "Job" || *kind == me().1
}

impl World {
    pub fn new() -> Self {
        let mut world = Self {
            now: 1_800_000_000,
            next: 0,
            pods: Vec::new(),
            leaving: HashMap::new(),
            doomed: HashSet::new(),
            replacements: HashSet::new(),
            unmade: 0,
            anomalies: Anomalies::new(),
            allowed: true,
            acts: Vec::new(),
            status: RemediationStatus::default(),
        };
        for n in 0..WORKLOADS * REPLICAS {
            world.make(n % WORKLOADS, n == 2);
        }
        world.now += 3600;
        world.settle();
        world
    }

    pub fn time(&self) -> Timestamp {
        Timestamp::from_second(self.now).expect("a time")
    }

    pub fn make(&mut self, n: usize, opted_out: bool) -> String {
        self.next += 1;
        let uid = format!("uid-{}", self.next);
        self.pods.push(Arc::new(Pod {
            namespace: "ml".into(),
            name: format!("w{n}-{}", self.next),
            uid: uid.clone(),
            version: "1".into(),
            labels: [("app".to_owned(), "shop".to_owned())].into(),
            created: self.time(),
            node: None,
            workload: Some(workload(n)),
            terminating: false,
            succeeded: false,
            finished: None,
            mirror: false,
            opted_out,
            running: true,
            ready: false,
            ready_since: self.time(),
            crash_loop: None,
            kills: Vec::new(),
        }));
        uid
    }

    pub fn number(pod: &Pod) -> usize {
        pod.workload.as_ref().and_then(|w| w.name[1..].parse().ok()).expect("a number")
    }

    /// What kubelets and controllers do.
    pub fn settle(&mut self) {
        let gone: Vec<String> =
            self.leaving.iter().filter(|(_, at)| **at <= self.now).map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.leaving.remove(&uid);
            let index = self.pods.iter().position(|pod| pod.uid == uid).expect("it was there");
            let pod = self.pods.remove(index);
            self.anomalies.remove(&Series::Pod(pod.namespace.clone(), pod.name.clone()));
            if pod.finished.is_none() {
                let made = self.make(Self::number(&pod), pod.opted_out);
                self.unmade -= 1;
                self.replacements.insert(made);
            }
        }
        let (now, doomed) = (self.now, self.doomed.clone());
        for pod in &mut self.pods {
            if pod.ready || pod.terminating || pod.finished.is_some() || now - pod.created.as_second() < STARTS {
                continue;
            }
            let pod = Arc::make_mut(pod);
            if doomed.contains(&Self::number(pod)) {
                pod.crash_loop = Some(("app".into(), 5));
            }
            pod.ready = pod.crash_loop.is_none();
            self.replacements.remove(&pod.uid);
        }
    }

    pub fn happen(&mut self, event: Event) {
        let alive: Vec<usize> = (0..self.pods.len()).filter(|i| self.pods[*i].finished.is_none()).collect();
        let pick = |n: usize| alive[n % alive.len()];
        match event {
            Event::Crash(n) => self.crash(pick(n)),
            Event::CrashForEver(n) => {
                self.doomed.insert(n);
                let all: Vec<usize> = alive.into_iter().filter(|i| Self::number(&self.pods[*i]) == n).collect();
                for i in all {
                    self.crash(i);
                }
            }
            Event::KubeletEvicts(n) => {
                let i = pick(n);
                if self.pods[i].terminating {
                    return;
                }
                let pod = Arc::make_mut(&mut self.pods[i]);
                (pod.finished, pod.ready, pod.running) = (Some(Finished::Evicted), false, false);
                let (n, opted_out, uid) = (Self::number(pod), pod.opted_out, pod.uid.clone());
                let made = self.make(n, opted_out);
                if self.replacements.remove(&uid) {
                    self.replacements.insert(made);
                }
            }
            Event::Alert(n) => {
                let pod = &self.pods[pick(n)];
                let series = Series::Pod(pod.namespace.clone(), pod.name.clone());
                let now = self.time();
                if self.anomalies.remove(&series).is_none() {
                    self.anomalies.insert(series, now);
                }
            }
            Event::Budgets => self.allowed = !self.allowed,
            Event::Calm | Event::DiesBefore | Event::DiesAfter | Event::Both => {}
        }
    }

    pub fn crash(&mut self, i: usize) {
        // One that has just started is not ready, and is left to start.
        if !self.pods[i].terminating && self.pods[i].ready {
            let pod = Arc::make_mut(&mut self.pods[i]);
            (pod.ready, pod.crash_loop) = (false, Some(("app".into(), 5)));
        }
    }

    pub fn decide(&self, rules: &Rules) -> Decision {
        decide(&View {
            namespace: "ml",
            name: "shop",
            uid: "0",
            rules,
            status: &self.status,
            others: &[],
            pods: &self.pods,
            nodes: &HashMap::<String, Arc<Node>>::new(),
            anomalies: &self.anomalies,
            me: Some(&me()),
            now: self.time(),
        })
    }

    /// One look of an operator: what it has decided on `seen` is claimed if the status is still that one.
    pub fn look(&mut self, rules: &Rules, decision: &Decision, seen: &RemediationStatus, event: Event) {
        if self.status != *seen {
            return; // The API server answers 409.
        }
        let now = self.time();
        decision.write(&mut self.status, rules, now);
        assert!(self.status.actions.len() <= history::ROOM);
        if matches!(event, Event::DiesBefore) {
            return;
        }
        let mut settled = self.status.clone();
        for planned in &decision.actions {
            let record = &planned.record;
            if record.outcome == Outcome::DryRun {
                continue;
            }
            let outcome =
                self.act(record.action, &record.target, record.uid.as_deref().expect("a uid"), &record.subject);
            history::settle(&mut settled.actions, record.action, &record.target, outcome, self.time());
        }
        if !matches!(event, Event::DiesAfter) {
            self.status = settled;
        }
    }

    pub fn act(&mut self, verb: Verb, name: &str, uid: &str, subject: &str) -> Outcome {
        let Some(index) = self.pods.iter().position(|pod| pod.uid == uid) else { return Outcome::Done };
        let pod = &self.pods[index];
        assert_eq!(pod.name, name);
        assert!(!protected(pod), "{name} is never touched");
        assert!(!pod.terminating, "{name} is on its way out already");
        if verb == Verb::Evict && !self.allowed {
            return Outcome::Refused;
        }
        self.acts.push(Act { at: self.now, verb, subject: subject.to_owned() });
        if pod.finished.is_some() {
            assert_eq!(verb, Verb::Delete);
            self.pods.remove(index);
        } else {
            assert_eq!(verb, Verb::Evict);
            let pod = Arc::make_mut(&mut self.pods[index]);
            (pod.terminating, pod.ready) = (true, false);
            self.replacements.remove(uid);
            self.leaving.insert(uid.to_owned(), self.now + LEAVES);
            self.unmade += 1;
        }
        Outcome::Done
    }

    pub fn in_replacement(&self) -> usize {
        let (pods, alive) = (&self.pods, |uid: &String| {
            let pod = self.pods.iter().find(|pod| pod.uid == *uid);
            pod.is_some_and(|pod| pod.finished.is_none() && !pod.ready && pod.crash_loop.is_none())
        });
        let anomalous = |uid: &String| {
            let pod = pods.iter().find(|pod| pod.uid == *uid);
            pod.is_some_and(|pod| self.anomalies.contains_key(&Series::Pod(pod.namespace.clone(), pod.name.clone())))
        };
        self.unmade + self.replacements.iter().filter(|uid| alive(uid) && !anomalous(uid)).count()
    }

    pub fn step(&mut self, rules: &Rules, limits: &Limits, seconds: i64, event: Event) {
        self.now += seconds;
        self.settle();
        self.happen(event);
        let seen = self.status.clone();
        let decision = self.decide(rules);
        self.look(rules, &decision, &seen, event);
        if matches!(event, Event::Both) {
            self.look(rules, &decision, &seen, Event::Calm);
        }
        assert!(self.in_replacement() <= limits.concurrent as usize, "too many pods are in replacement");
    }

    pub fn failing(&self) -> usize {
        let fails = |pod: &&Arc<Pod>| {
            pod.finished.is_some()
                || pod.crash_loop.is_some()
                || self.anomalies.contains_key(&Series::Pod(pod.namespace.clone(), pod.name.clone()))
        };
        self.pods.iter().filter(fails).filter(|pod| !protected(pod) && !pod.terminating).count()
    }
}
