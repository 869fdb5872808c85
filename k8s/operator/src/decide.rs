//! What is to be done now: a pure function of what is known, so that an hour of failures can be tried in a millisecond.
//!
//! All limits are here: the budget, pods in replacement, cool-downs, what is never touched, how many nodes may be cordoned. The
//! function says what to do and claims it; it does nothing itself.

mod nodes;
mod retraining;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::core::SelectorExt;

use crate::facts::{Node, Pod, Workload};
use crate::finding::{self, Anomalies, Finding, Kind, Protected};
use crate::history::{self, History};
use crate::policy::{Cordoned, Outcome, Record, RemediationStatus, Verb};
use crate::rules::Rules;

/// Actions that are begun at once: the rest waits for the next look, so that one look is short.
pub const AT_ONCE: usize = 10;
/// For how long a pod that was evicted may still look untouched: the news of it may be late.
const LATE: SignedDuration = SignedDuration::from_secs(60);
/// For how long a replacement may not exist yet. After that its workload was made smaller, or is gone.
const UNMADE: SignedDuration = SignedDuration::from_mins(5);

/// All that is known.
pub struct View<'a> {
    /// The policy's namespace.
    pub namespace: &'a str,
    /// The policy's name.
    pub name: &'a str,
    /// The policy's uid.
    pub uid: &'a str,
    /// What it says.
    pub rules: &'a Rules,
    /// What it remembers.
    pub status: &'a RemediationStatus,
    /// What other policies of the namespace remember.
    pub others: &'a [Record],
    /// The pods of the namespace.
    pub pods: &'a [Arc<Pod>],
    /// All nodes by name.
    pub nodes: &'a HashMap<String, Arc<Node>>,
    /// What fires.
    pub anomalies: &'a Anomalies,
    /// Namespace and workload of this operator.
    pub me: Option<&'a (String, Workload)>,
    /// In whole seconds, as records keep it.
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// What is claimed.
    pub record: Record,
    /// The version of the pod or node that this was decided on.
    pub version: String,
}

/// A pod that fails, and that nothing is done about now.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// Which.
    pub pod: Arc<Pod>,
    /// What is wrong with it.
    pub finding: Finding,
    /// What keeps it.
    pub why: Why,
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It never is.
    Protected(Protected),
    /// Its workload was acted upon, and is left alone until then.
    CoolDown(Timestamp),
    /// It was refused, and is tried again then.
    Refused(Timestamp),
    /// As many pods are in replacement as may be.
    Concurrent,
    /// The budget is spent.
    Budget,
    /// There is no room for another record.
    Full,
    /// Enough was begun at once.
    Later,
}

/// What to do, and what to tell.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// To be claimed, then done in this order.
    pub actions: Vec<Planned>,
    /// What waits.
    pub held: Vec<Held>,
    /// Pods that fail, those that are never touched left out.
    pub candidates: BTreeMap<Kind, usize>,
    /// What is left of the budget, after these actions.
    pub budget_left: usize,
    /// Since when anomalies have fired on many series.
    pub anomalous_since: Option<Timestamp>,
    /// The nodes that this policy has cordoned.
    pub cordoned: Vec<Cordoned>,
}

impl Decision {
    /// Writes the claims, and what was learned, into a status.
    pub fn write(&self, status: &mut RemediationStatus, rules: &Rules, now: Timestamp) {
        history::prune(&mut status.actions, rules, now);
        for planned in self.actions.iter().filter(|planned| planned.record.action != Verb::Uncordon) {
            status.last_action = Some(Time(now));
            history::insert(&mut status.actions, planned.record.clone());
        }
        status.anomalous_since = self.anomalous_since.map(Time);
        status.cordoned.clone_from(&self.cordoned);
    }
}

/// Counts down what may still be done in this look.
struct Limits {
    budget: usize,
    room: usize,
    replacements: usize,
    at_once: usize,
}

impl Limits {
    fn refuse(&self, verb: Verb) -> Option<Why> {
        if verb == Verb::Evict && self.replacements == 0 {
            Some(Why::Concurrent)
        } else if self.budget == 0 {
            Some(Why::Budget)
        } else if self.room == 0 {
            Some(Why::Full)
        } else if self.at_once == 0 {
            Some(Why::Later)
        } else {
            None
        }
    }

    fn take(&mut self, verb: Verb) {
        self.budget -= 1;
        self.room -= 1;
        self.at_once -= 1;
        if verb == Verb::Evict {
            self.replacements -= 1;
        }
    }
}

/// Decides.
pub fn decide(view: &View<'_>) -> Decision {
    let rules = view.rules;
    let mut records = view.status.actions.clone();
    history::prune(&mut records, rules, view.now);
    let history = History::new(&records, view.others, rules.dry_run);
    let selected: Vec<&Arc<Pod>> =
        view.pods.iter().filter(|p| p.namespace == view.namespace && rules.selector.matches(&p.labels)).collect();
    let findings: HashMap<&str, Finding> = selected
        .iter()
        .filter_map(|pod| {
            let node = pod.node.as_ref().and_then(|name| view.nodes.get(name));
            let found = finding::look(rules, pod, node.map(Arc::as_ref), view.anomalies, view.now)?;
            Some((pod.uid.as_str(), found))
        })
        .collect();
    let failing: HashSet<&str> = findings.keys().copied().collect();
    let mut limits = Limits {
        budget: rules.actions.saturating_sub(history.spent(rules, view.now)),
        room: history::ROOM.saturating_sub(records.len()),
        replacements: rules.concurrent.saturating_sub(replacing(&selected, &records, &failing, view.now)),
        at_once: AT_ONCE,
    };
    let mut decision = Decision::default();
    // First, so that what is evicted is not put on the same node again.
    nodes::decide(view, &selected, &history, &mut limits, &mut decision);
    pods(view, &selected, findings, &history, &mut limits, &mut decision);
    retraining::decide(view, &selected, &history, &mut decision);
    decision.budget_left = limits.budget;
    decision
}

fn pods(
    view: &View<'_>,
    selected: &[&Arc<Pod>],
    mut findings: HashMap<&str, Finding>,
    history: &History<'_>,
    limits: &mut Limits,
    decision: &mut Decision,
) {
    let mut failing: Vec<(&Arc<Pod>, Finding)> =
        selected.iter().filter_map(|pod| Some((*pod, findings.remove(pod.uid.as_str())?))).collect();
    failing
        .sort_by(|(a, why_a), (b, why_b)| (why_a.kind, why_a.since, &a.name).cmp(&(why_b.kind, why_b.since, &b.name)));
    let mut begun: HashSet<String> = HashSet::new();
    for (pod, finding) in failing {
        let mut hold = |finding, why| decision.held.push(Held { pod: Arc::clone(pod), finding, why });
        if let Some(protected) = finding::protected(pod, finding.kind, view.me) {
            hold(finding, Why::Protected(protected));
            continue;
        }
        *decision.candidates.entry(finding.kind).or_default() += 1;
        // What is finished has been replaced already: deleting it takes nothing away, and only the budget binds.
        let (verb, subject) = match (&pod.workload, pod.finished) {
            (Some(workload), None) => (Verb::Evict, workload.subject()),
            _ => (Verb::Delete, format!("Pod/{}", pod.name)),
        };
        if let Some(why) = history.latest(&subject).and_then(|before| cooling(before, view.now)) {
            hold(finding, why);
            continue;
        }
        if begun.contains(&subject) {
            hold(finding, Why::CoolDown(history::later(view.now, view.rules.first)));
            continue;
        }
        if let Some(why) = limits.refuse(verb) {
            hold(finding, why);
            continue;
        }
        limits.take(verb);
        begun.insert(subject.clone());
        let mut record = history.claim(view.rules, verb, &pod.name, subject, view.now);
        record.uid = Some(pod.uid.clone());
        record.reason = finding.reason;
        decision.actions.push(Planned { record, version: pod.version.clone() });
    }
}

fn cooling(before: &Record, now: Timestamp) -> Option<Why> {
    let until = before.until.0;
    let why = if before.outcome == Outcome::Refused { Why::Refused(until) } else { Why::CoolDown(until) };
    (now < until).then_some(why)
}

/// How many of the selected pods are in replacement: on their way out, whoever asked for it; or evicted by this policy, with a replacement
/// that does not exist yet, or that exists and is neither ready nor failing itself.
fn replacing(selected: &[&Arc<Pod>], records: &[Record], failing: &HashSet<&str>, now: Timestamp) -> usize {
    let leaving = selected.iter().filter(|pod| pod.terminating && pod.finished.is_none()).count();
    let by_uid: HashMap<&str, &Arc<Pod>> = selected.iter().map(|pod| (pod.uid.as_str(), *pod)).collect();
    let mut taken: HashSet<&str> = HashSet::new();
    let mut unsettled = 0;
    // The newest first: a replacement may have been replaced itself.
    for record in records.iter().rev().filter(|r| r.action == Verb::Evict) {
        if !matches!(record.outcome, Outcome::Claimed | Outcome::Done | Outcome::Failed) {
            continue;
        }
        let age = now.duration_since(record.at.0);
        if let Some(pod) = record.uid.as_deref().and_then(|uid| by_uid.get(uid)) {
            unsettled += usize::from(!pod.terminating && age < LATE);
            continue;
        }
        let replacement = selected
            .iter()
            .filter(|pod| pod.workload.as_ref().is_some_and(|w| w.subject() == record.subject))
            .filter(|pod| !pod.terminating && !pod.succeeded && pod.finished.is_none() && pod.created >= record.at.0)
            .filter(|pod| !taken.contains(pod.uid.as_str()))
            // Nobody knows which pod took whose place: the one that is furthest from ready, so that no more are begun than may be.
            .min_by_key(|pod| pod.ready || failing.contains(pod.uid.as_str()));
        match replacement {
            Some(pod) => {
                taken.insert(&pod.uid);
                unsettled += usize::from(!pod.ready && !failing.contains(pod.uid.as_str()));
            }
            None => unsettled += usize::from(age < UNMADE),
        }
    }
    leaving + unsettled
}
