//! Tells people what happens: Events (events.k8s.io) on pods, nodes and policies, one log line each, and the metric.
//!
//! What waits is told once, when it begins to wait, and not at each look.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use crate::act::Ended;
use crate::decide::{Decision, Held, Planned, Why};
use crate::finding::Protected;
use crate::metrics::{Acted, Metrics};
use crate::policy::{Outcome, Verb};

/// An Event's note may not be longer.
const NOTE: usize = 1000;

/// Tells.
pub struct Report {
    recorder: Recorder,
    metrics: Arc<Metrics>,
    patience: Duration,
    /// What was told of pods that wait, by policy and pod.
    told: HashMap<(String, String), Told>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Budget,
    CoolDown,
    Bare,
    Other,
}

impl Report {
    /// `identity` is the operator's pod.
    pub fn new(client: Client, identity: String, metrics: Arc<Metrics>, patience: Duration) -> Self {
        let reporter = Reporter { controller: "onnxd.dev/remediation-operator".into(), instance: Some(identity) };
        Self { recorder: Recorder::new(client, reporter), metrics, patience, told: HashMap::new() }
    }

    /// An action was done, or would have been.
    pub async fn ended(&mut self, policy: &ObjectReference, planned: &Planned, ended: &Ended) {
        let record = &planned.record;
        let dry = record.outcome == Outcome::DryRun;
        let acted = match ended {
            _ if dry => Acted::DryRun,
            Ended::Done => Acted::Done,
            Ended::Refused(_) => Acted::Refused,
            Ended::Changed | Ended::Failed(_) => Acted::Failed,
        };
        self.metrics.acted(record.action, acted);
        let error = match ended {
            Ended::Done => None,
            Ended::Refused(why) => Some(format!("refused for now: {why}")),
            Ended::Changed => Some("it has changed meanwhile; it is looked at again".into()),
            Ended::Failed(why) => Some(why.clone()),
        };
        let (namespace, by) = (policy.namespace.as_deref(), policy.name.as_deref());
        let (action, target, reason) = (record.action, &record.target, &record.reason);
        match &error {
            None => tracing::info!(namespace, policy = by, ?action, target, reason, dry_run = dry, "acted"),
            Some(error) => tracing::warn!(namespace, policy = by, ?action, target, reason, error, "not done"),
        }
        let (done, would, kind) = match record.action {
            Verb::Evict => ("Rescheduled", "WouldReschedule", Some("Pod")),
            Verb::Delete => ("CleanedUp", "WouldCleanUp", Some("Pod")),
            Verb::Cordon => ("Cordoned", "WouldCordon", Some("Node")),
            Verb::Uncordon => ("Uncordoned", "WouldUncordon", Some("Node")),
            Verb::Retrain => ("RetrainingStarted", "WouldRetrain", None),
        };
        let (type_, event) = match ended {
            Ended::Done if dry => (EventType::Normal, would),
            Ended::Done => (EventType::Normal, done),
            Ended::Refused(_) => (EventType::Warning, "RemediationRefused"),
            Ended::Changed | Ended::Failed(_) => (EventType::Warning, "RemediationFailed"),
        };
        let about = kind.map(|kind| ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(kind.into()),
            name: Some(target.clone()),
            // Events of nodes lie in the namespace default, and older servers want to read that here as well.
            namespace: if kind == "Pod" { policy.namespace.clone() } else { Some("default".into()) },
            uid: record.uid.clone(),
            ..ObjectReference::default()
        });
        let what = if kind.is_none() { format!("execution {target}: {reason}") } else { reason.clone() };
        let note = error.map_or(what.clone(), |error| format!("{what}; {error}"));
        self.publish(type_, event, note, about.as_ref().unwrap_or(policy), about.is_some().then_some(policy)).await;
    }

    /// What waits.
    pub async fn held(&mut self, policy: &ObjectReference, decision: &Decision) {
        let by = policy.uid.clone().unwrap_or_default();
        let mut before: HashMap<_, _> = HashMap::new();
        self.told.retain(|key, told| {
            let other = key.0 != by;
            if !other {
                before.insert(key.clone(), *told);
            }
            other
        });
        let mut spent = false;
        for held in &decision.held {
            let told = match held.why {
                Why::Protected(Protected::Bare) => Told::Bare,
                Why::Protected(_) | Why::Refused(_) | Why::Later => Told::Other,
                Why::CoolDown(_) => Told::CoolDown,
                Why::Budget | Why::Concurrent | Why::Full => Told::Budget,
            };
            let key = (by.clone(), held.pod.uid.clone());
            let news = before.get(&key) != Some(&told);
            self.told.insert(key, told);
            if !news {
                continue;
            }
            if let Some(acted) = Acted::held(held.why) {
                let verb = if held.pod.finished.is_some() { Verb::Delete } else { Verb::Evict };
                self.metrics.acted(verb, acted);
            }
            spent |= held.why == Why::Budget;
            if told == Told::Bare {
                self.bare(policy, held).await;
            }
        }
        if spent {
            let note = "pods fail, and the budget is spent: they wait".to_owned();
            self.publish(EventType::Warning, "BudgetSpent", note, policy, None).await;
        }
    }

    /// The policy makes no sense.
    pub async fn invalid(&mut self, policy: &ObjectReference, why: &str) {
        tracing::warn!(namespace = policy.namespace, policy = policy.name, why, "the policy makes no sense");
        self.publish(EventType::Warning, "InvalidPolicy", why.to_owned(), policy, None).await;
    }

    /// Forgets what waits, for whoever leads next.
    pub fn clear(&mut self) {
        self.told.clear();
    }

    async fn bare(&self, policy: &ObjectReference, held: &Held) {
        let note = format!("{}; it has no controller, nothing would bring it back, so it is left", held.finding.reason);
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: Some(held.pod.name.clone()),
            namespace: Some(held.pod.namespace.clone()),
            uid: Some(held.pod.uid.clone()),
            ..ObjectReference::default()
        };
        self.publish(EventType::Warning, "NotRescheduled", note, &about, Some(policy)).await;
    }

    async fn publish(
        &self,
        type_: EventType,
        reason: &str,
        mut note: String,
        about: &ObjectReference,
        related: Option<&ObjectReference>,
    ) {
        if let Some((end, _)) = note.char_indices().nth(NOTE) {
            note.truncate(end);
        }
        while note.len() > NOTE {
            note.pop();
        }
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Remediate".into(),
            secondary: related.cloned(),
        };
        let published = tokio::time::timeout(self.patience, self.recorder.publish(&event, about)).await;
        let error = match published {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".into(),
        };
        tracing::warn!(reason, error, "an Event is lost");
    }
}
