//! One look at the world after the other: read, decide, claim, act, settle. Only the leader looks, one policy at a time.
//!
//! A look is bounded: so many actions a policy, so long a request. It ends between two actions when the leadership is lost or the process is
//! to end; what was claimed and not done stays claimed.

mod status;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::runtime::controller::Action;
use kube::runtime::finalizer::{self, finalizer};
use kube::{Api, Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use crate::act::{self, Actor, Ended};
use crate::alerts::Alerts;
use crate::decide::{self, Decision, View};
use crate::facts::{Node, Pod, Workload};
use crate::finding::Anomalies;
use crate::history;
use crate::lease::Leadership;
use crate::metrics::{Metrics, Reconciled};
use crate::policy::{Outcome, Record, RemediationPolicy, RemediationStatus};
use crate::report::Report;
use crate::retrain::Retrain;
use crate::rules::Rules;
use crate::watch::Store;

/// Keeps a policy until the nodes that it has cordoned are uncordoned.
const FINALIZER: &str = "onnxd.dev/uncordon";

/// What watches tell.
#[derive(Default)]
pub struct World {
    /// In all namespaces.
    pub pods: Arc<Store<Pod>>,
    /// All of them.
    pub nodes: Arc<Store<Node>>,
    /// In all namespaces.
    pub policies: Arc<Store<RemediationPolicy>>,
}

impl World {
    /// Whether everything was listed.
    pub fn complete(&self) -> bool {
        self.pods.complete() && self.nodes.complete() && self.policies.complete()
    }
}

/// Carries out policies.
pub struct Operator {
    /// The API server.
    pub client: Client,
    /// What there is.
    pub world: Arc<World>,
    /// What fires.
    pub alerts: Arc<Alerts>,
    /// Whether it may act.
    pub leadership: Leadership,
    /// Whether it is to end.
    pub stop: CancellationToken,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells.
    pub report: Report,
    /// Step Functions.
    pub retrain: Retrain,
    /// Namespace and name of its own pod, if it runs in one.
    pub pod: Option<(String, String)>,
    /// The longest that a request may take.
    pub patience: Duration,
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Late,
}

/// What is the same for all policies in one look.
struct Moment {
    now: Timestamp,
    pods: HashMap<String, Vec<Arc<Pod>>>,
    nodes: HashMap<String, Arc<Node>>,
    anomalies: Anomalies,
    records: HashMap<String, Vec<(String, Vec<Record>)>>,
    me: Option<(String, Workload)>,
}

impl Operator {
    fn may_act(&self) -> bool {
        self.leadership.holds() && !self.stop.is_cancelled()
    }

    /// Looks at all policies.
    pub async fn look(&mut self) {
        if !self.leadership.holds() {
            self.alerts.clear();
            self.report.clear();
            self.metrics.retain(|_, _| false);
            return;
        }
        if !self.world.complete() {
            return;
        }
        let mut policies = self.world.policies.all();
        policies.sort_by_key(|policy| (policy.namespace(), policy.name_any()));
        let known: HashSet<_> = policies.iter().map(|p| (p.namespace().unwrap_or_default(), p.name_any())).collect();
        self.metrics.retain(|namespace, name| known.contains(&(namespace.to_owned(), name.to_owned())));
        let moment = self.moment(&policies);
        for policy in policies {
            if !self.may_act() {
                return;
            }
            let outcome = self.guarded(policy, &moment).await;
            self.metrics.reconciled(outcome);
        }
    }

    fn moment(&self, policies: &[Arc<RemediationPolicy>]) -> Moment {
        let mut pods: HashMap<String, Vec<Arc<Pod>>> = HashMap::new();
        for pod in self.world.pods.all() {
            pods.entry(pod.namespace.clone()).or_default().push(pod);
        }
        let mut records: HashMap<String, Vec<(String, Vec<Record>)>> = HashMap::new();
        for policy in policies {
            let actions = policy.status.as_ref().map(|s| s.actions.clone()).unwrap_or_default();
            records.entry(policy.namespace().unwrap_or_default()).or_default().push((policy.name_any(), actions));
        }
        let me = self.pod.as_ref().and_then(|(namespace, name)| {
            let pod = pods.get(namespace)?.iter().find(|pod| pod.name == *name)?;
            Some((namespace.clone(), pod.workload.clone()?))
        });
        // As records keep it.
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let nodes = self.world.nodes.all().into_iter().map(|node| (node.name.clone(), node)).collect();
        Moment { now, pods, nodes, anomalies: self.alerts.now(), records, me }
    }

    /// Looks at one policy, with its finalizer in place.
    async fn guarded(&mut self, policy: Arc<RemediationPolicy>, moment: &Moment) -> Reconciled {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        let api: Api<RemediationPolicy> = Api::namespaced(self.client.clone(), &namespace);
        if policy.metadata.deletion_timestamp.is_none() && policy.finalizers().iter().any(|f| f == FINALIZER) {
            return self.policy(&api, &policy, moment).await;
        }
        let (client, mine) = (&self.client, &format!("{namespace}/{name}"));
        let bounded = tokio::time::timeout(
            self.patience * 4,
            finalizer(&api, FINALIZER, policy, |event| async move {
                if let finalizer::Event::Cleanup(_) = event {
                    uncordon_all(client, mine).await?;
                }
                Ok::<_, kube::Error>(Action::await_change())
            }),
        );
        match bounded.await {
            Ok(Ok(_)) => Reconciled::Ok,
            Ok(Err(finalizer::Error::AddFinalizer(error) | finalizer::Error::RemoveFinalizer(error)))
                if gone_or_changed(&error) =>
            {
                Reconciled::Conflict
            }
            Ok(Err(error)) => failed(&namespace, &name, "finalizer", &error),
            Err(_) => failed(&namespace, &name, "finalizer", &Fault::Late),
        }
    }

    async fn policy(
        &mut self,
        api: &Api<RemediationPolicy>,
        policy: &RemediationPolicy,
        moment: &Moment,
    ) -> Reconciled {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        let about = policy.object_ref(&());
        let before = policy.status.clone().unwrap_or_default();
        let rules = match Rules::read(&policy.spec) {
            Ok(rules) => rules,
            Err(mistakes) => {
                let told = mistakes.to_string();
                let after = status::invalid(&before, policy.metadata.generation, &told, moment.now);
                self.metrics.retain(|n, p| (n, p) != (&namespace, &name));
                if after != before {
                    if let Err(fault) = self.write(api, policy, after).await {
                        return wrote(&namespace, &name, &fault);
                    }
                    self.report.invalid(&about, &told).await;
                }
                return Reconciled::Invalid;
            }
        };
        let others = moment.records.get(&namespace).into_iter().flatten().filter(|(other, _)| *other != name);
        let others: Vec<Record> = others.flat_map(|(_, records)| records.iter().cloned()).collect();
        let uid = policy.uid().unwrap_or_default();
        let decision = decide::decide(&View {
            namespace: &namespace,
            name: &name,
            uid: &uid,
            rules: &rules,
            status: &before,
            others: &others,
            pods: moment.pods.get(&namespace).map(Vec::as_slice).unwrap_or_default(),
            nodes: &moment.nodes,
            anomalies: &moment.anomalies,
            me: moment.me.as_ref(),
            now: moment.now,
        });
        self.metrics.decided(&namespace, &name, &decision);
        let mut after = before.clone();
        decision.write(&mut after, &rules, moment.now);
        status::tell(&mut after, policy.metadata.generation, &rules, &decision, moment.now);
        let mut current = policy.clone();
        if after != before {
            current = match self.write(api, policy, after).await {
                Ok(written) => written,
                Err(fault) => return wrote(&namespace, &name, &fault),
            };
        }
        self.report.held(&about, &decision).await;
        self.carry_out(api, current, &rules, &decision).await
    }

    /// Does what was claimed, and writes how it ended.
    async fn carry_out(
        &mut self,
        api: &Api<RemediationPolicy>,
        policy: RemediationPolicy,
        rules: &Rules,
        decision: &Decision,
    ) -> Reconciled {
        if decision.actions.is_empty() {
            return Reconciled::Ok;
        }
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        let about = policy.object_ref(&());
        let mut after = policy.status.clone().unwrap_or_default();
        let mut told = Vec::new();
        for planned in &decision.actions {
            if !self.may_act() {
                break;
            }
            let dry = planned.record.outcome == Outcome::DryRun;
            let ended = if dry {
                Ended::Done
            } else {
                let (client, retrain, patience) = (&self.client, &self.retrain, self.patience);
                let actor = Actor { client, namespace: &namespace, name: &name, rules, retrain, patience };
                actor.act(planned).await
            };
            let (verb, target) = (planned.record.action, &planned.record.target);
            history::settle(&mut after.actions, verb, target, ended.outcome(), Timestamp::now());
            told.push((planned, ended));
        }
        let settled = if Some(&after) == policy.status.as_ref() || !self.leadership.holds() {
            Ok(())
        } else {
            self.write(api, &policy, after).await.map(drop)
        };
        for (planned, ended) in told {
            self.report.ended(&about, planned, &ended).await;
        }
        settled.map_or_else(|fault| wrote(&namespace, &name, &fault), |()| Reconciled::Ok)
    }

    /// Writes a status, if the policy is still the one that it was made from.
    async fn write(
        &self,
        api: &Api<RemediationPolicy>,
        policy: &RemediationPolicy,
        status: RemediationStatus,
    ) -> Result<RemediationPolicy, Fault> {
        let mut whole = policy.clone();
        whole.status = Some(status);
        let (name, params) = (policy.name_any(), PostParams::default());
        let written = tokio::time::timeout(self.patience, api.replace_status(&name, &params, &whole));
        Ok(written.await.map_err(|_| Fault::Late)??)
    }
}

/// What the API server says now, and not what was heard last: nothing may be left behind.
async fn uncordon_all(client: &Client, policy: &str) -> kube::Result<()> {
    let nodes: Api<core::Node> = Api::all(client.clone());
    for node in nodes.list(&ListParams::default()).await?.iter().filter_map(Node::read) {
        if node.cordoned_by.as_deref() == Some(policy) {
            act::uncordon(client, &node.name, &node.version).await?;
            tracing::info!(node = node.name, policy, "uncordoned, its policy is deleted");
        }
    }
    Ok(())
}

fn gone_or_changed(error: &kube::Error) -> bool {
    // 422: the test in the patch has failed, somebody else has changed the finalizers.
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict() || status.code == 422)
}

fn wrote(namespace: &str, name: &str, fault: &Fault) -> Reconciled {
    match fault {
        Fault::Api(error) if gone_or_changed(error) && !matches!(error, kube::Error::Api(s) if s.code == 422) => {
            Reconciled::Conflict
        }
        fault => failed(namespace, name, "status", fault),
    }
}

fn failed(namespace: &str, name: &str, what: &str, error: &dyn std::error::Error) -> Reconciled {
    tracing::warn!(namespace, policy = name, error = %Chain(error), "the policy's {what} could not be written; it is tried again");
    Reconciled::Failed
}

/// An error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
