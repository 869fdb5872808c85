//! Every metric: name, help, labels. The names are a contract with alerts and dashboards.
//!
//! Counters are kept by the exporter. What mirrors a state is written from that state at each scrape, so that no series outlives the
//! policy that it is about.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use metrics::{Counter, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::decide::{Decision, Why};
use crate::finding::Kind;
use crate::policy::Verb;

const ACTIONS: (&str, &str) = (
    "remediation_actions_total",
    "Actions by outcome: done, dry_run, refused (by a PodDisruptionBudget), budget and cool_down (a pod began to wait), failed.",
);
const ALERTS: (&str, &str) = (
    "remediation_alerts_total",
    "Alerts received: accepted, refused (no token, not Alertmanager's JSON, no room, does not lead), unknown (another alert, or it names neither pod nor node).",
);
const RECONCILES: (&str, &str) =
    ("remediation_reconciles_total", "Looks at a policy: ok, conflict (it was changed meanwhile), invalid, failed.");
const CANDIDATES: (&str, &str) = ("remediation_candidates", "Pods that fail by a condition of the policy.");
const BUDGET_LEFT: (&str, &str) = ("remediation_budget_left", "Actions that the policy's budget allows now.");
const ANOMALIES: (&str, &str) = ("remediation_anomalies", "Series on which AnomalyDetected fires now.");
const LEADER: (&str, &str) = ("remediation_leader", "1 for the replica that acts.");
const BUILD_INFO: (&str, &str) = ("remediation_build_info", "1, with the operator's version.");

static METADATA: Metadata<'static> = Metadata::new("remediation", Level::INFO, None);

/// How an action ended, as the label says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acted {
    /// It was done.
    Done,
    /// It would have been.
    DryRun,
    /// A PodDisruptionBudget did not allow it.
    Refused,
    /// It waits for the budget, or for pods in replacement.
    Budget,
    /// It waits for a cool-down.
    CoolDown,
    /// An error.
    Failed,
}

impl Acted {
    const ALL: [Self; 6] = [Self::Done, Self::DryRun, Self::Refused, Self::Budget, Self::CoolDown, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::DryRun => "dry_run",
            Self::Refused => "refused",
            Self::Budget => "budget",
            Self::CoolDown => "cool_down",
            Self::Failed => "failed",
        }
    }

    /// The label of what is held, if it has one.
    pub fn held(why: Why) -> Option<Self> {
        match why {
            Why::CoolDown(_) => Some(Self::CoolDown),
            Why::Budget | Why::Concurrent | Why::Full => Some(Self::Budget),
            Why::Refused(_) | Why::Protected(_) | Why::Later => None,
        }
    }
}

/// The label of an action.
pub fn action(verb: Verb) -> &'static str {
    match verb {
        Verb::Evict => "evict",
        Verb::Delete => "delete",
        Verb::Cordon => "cordon",
        Verb::Uncordon => "uncordon",
        Verb::Retrain => "retrain",
    }
}

/// How a look at a policy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// All was done that could be.
    Ok,
    /// The policy was changed meanwhile.
    Conflict,
    /// The policy makes no sense.
    Invalid,
    /// The API server did not take the status.
    Failed,
}

struct Policy {
    candidates: BTreeMap<Kind, usize>,
    budget_left: usize,
}

/// The registry.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    policies: Mutex<BTreeMap<(String, String), Policy>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for (name, help) in [ACTIONS, ALERTS, RECONCILES] {
            recorder.describe_counter(name.into(), None, help.into());
        }
        let metrics = Self { handle: recorder.handle(), recorder, policies: Mutex::default() };
        // From the start, so that a rate sees the first one.
        for outcome in ["accepted", "refused", "unknown"] {
            metrics.alerts(outcome, 0);
        }
        for verb in Verb::ALL {
            for outcome in Acted::ALL {
                metrics.action(verb, outcome).increment(0);
            }
        }
        metrics
    }
}

impl Metrics {
    fn counter(&self, name: &'static str, labels: &[(&'static str, &'static str)]) -> Counter {
        let labels: Vec<_> = labels.iter().map(|(name, value)| Label::from_static_parts(name, value)).collect();
        self.recorder.register_counter(&Key::from_parts(name, labels), &METADATA)
    }

    /// An action ended, or began to wait.
    pub fn acted(&self, verb: Verb, outcome: Acted) {
        self.action(verb, outcome).increment(1);
    }

    fn action(&self, verb: Verb, outcome: Acted) -> Counter {
        self.counter(ACTIONS.0, &[("action", action(verb)), ("outcome", outcome.name())])
    }

    /// Alerts came: accepted, refused or unknown.
    pub fn alerts(&self, outcome: &'static str, number: u64) {
        self.counter(ALERTS.0, &[("outcome", outcome)]).increment(number);
    }

    /// A policy was looked at.
    pub fn reconciled(&self, outcome: Reconciled) {
        let outcome = match outcome {
            Reconciled::Ok => "ok",
            Reconciled::Conflict => "conflict",
            Reconciled::Invalid => "invalid",
            Reconciled::Failed => "failed",
        };
        self.counter(RECONCILES.0, &[("outcome", outcome)]).increment(1);
    }

    /// What was decided for a policy.
    pub fn decided(&self, namespace: &str, name: &str, decision: &Decision) {
        let policy = Policy { candidates: decision.candidates.clone(), budget_left: decision.budget_left };
        self.lock().insert((namespace.to_owned(), name.to_owned()), policy);
    }

    /// Forgets the policies that are not among these.
    pub fn retain(&self, known: impl Fn(&str, &str) -> bool) {
        self.lock().retain(|(namespace, name), _| known(namespace, name));
    }

    /// The page of `/metrics`.
    pub fn page(&self, leads: bool, anomalies: usize) -> String {
        let mut page = self.handle.render();
        gauge(&mut page, LEADER, [(String::new(), usize::from(leads))]);
        gauge(&mut page, ANOMALIES, [(String::new(), anomalies)]);
        let policies = self.lock();
        let of = |(namespace, name): &(String, String)| format!("namespace={namespace:?},policy={name:?}");
        gauge(&mut page, BUDGET_LEFT, policies.iter().map(|(key, policy)| (of(key), policy.budget_left)));
        let candidates = policies.iter().flat_map(|(key, policy)| {
            let count = |kind: &Kind| policy.candidates.get(kind).copied().unwrap_or(0);
            Kind::ALL.map(|kind| (format!("{},condition={:?}", of(key), kind.name()), count(&kind)))
        });
        gauge(&mut page, CANDIDATES, candidates);
        gauge(&mut page, BUILD_INFO, [(format!("version={:?}", env!("CARGO_PKG_VERSION")), 1)]);
        page
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(String, String), Policy>> {
        self.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn gauge(page: &mut String, (name, help): (&str, &str), series: impl IntoIterator<Item = (String, usize)>) {
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} gauge");
    for (labels, value) in series {
        let _ = if labels.is_empty() {
            writeln!(page, "{name} {value}")
        } else {
            writeln!(page, "{name}{{{labels}}} {value}")
        };
    }
}
