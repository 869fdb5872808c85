//! What the decision needs to know of pods and nodes, taken from the API's objects once, when they come.
//!
//! A pod in full is some ten kilobytes, and most of it does not matter here. Fields that are missing, as in a pod that was just made, are
//! taken for harmless: nothing is done for what is not known.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

/// A pod or node with this annotation set to `false` is left alone.
pub const OPT_OUT: &str = "onnxd.dev/remediate";
/// On a node that was cordoned by the operator: which policy did it, as `namespace/name`.
pub const CORDONED_BY: &str = "onnxd.dev/cordoned-by";
/// Kills that are remembered of one pod: as many as a policy may name.
const KILLS: usize = 20;

/// How a pod came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finished {
    /// By the kubelet, for its node's sake.
    Evicted,
    /// For another reason.
    Failed,
}

/// A pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its identity: another pod may have had, or get, the same name.
    pub uid: String,
    /// The version of the object that this was read from.
    pub version: String,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Where it runs.
    pub node: Option<String>,
    /// Kind and name of what would make another one: its Deployment where a ReplicaSet's name shows it, else its controller.
    pub workload: Option<Workload>,
    /// It was asked to end.
    pub terminating: bool,
    /// It has succeeded.
    pub succeeded: bool,
    /// It has failed.
    pub finished: Option<Finished>,
    /// It was started by the kubelet, from a file.
    pub mirror: bool,
    /// Its annotation says to leave it alone.
    pub opted_out: bool,
    /// Its phase is Running.
    pub running: bool,
    /// Whether it takes traffic.
    pub ready: bool,
    /// Since when that is so.
    pub ready_since: Timestamp,
    /// The container that waits in CrashLoopBackOff with the most restarts.
    pub crash_loop: Option<(String, u32)>,
    /// When containers were killed for memory, as far as it was seen; each with the container's name.
    pub kills: Vec<(Timestamp, String)>,
}

/// What a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Workload {
    /// As records call it.
    pub fn subject(&self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}

impl Pod {
    /// Takes a pod apart. None for one without name or uid, which the API never sends.
    pub fn read(pod: &core::Pod) -> Option<Self> {
        let meta = &pod.metadata;
        let status = pod.status.clone().unwrap_or_default();
        let created = created(meta);
        let phase = status.phase.as_deref().unwrap_or("Pending");
        let containers: Vec<_> =
            [&status.container_statuses, &status.init_container_statuses].into_iter().flatten().flatten().collect();
        let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready");
        let crash_loop = containers.iter().filter(|c| waits_in_crash_loop(c)).max_by_key(|c| c.restart_count);
        let mut kills: Vec<_> = containers.iter().flat_map(|c| kills(c)).collect();
        kills.sort_unstable();
        kills.dedup();
        Some(Self {
            namespace: meta.namespace.clone()?,
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            version: meta.resource_version.clone().unwrap_or_default(),
            labels: meta.labels.clone().unwrap_or_default(),
            created,
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()).filter(|n| !n.is_empty()),
            workload: workload(meta),
            terminating: meta.deletion_timestamp.is_some(),
            succeeded: phase == "Succeeded",
            finished: (phase == "Failed").then(|| {
                if status.reason.as_deref() == Some("Evicted") { Finished::Evicted } else { Finished::Failed }
            }),
            mirror: has_annotation(meta, "kubernetes.io/config.mirror", None)
                || has_annotation(meta, "kubernetes.io/config.source", Some(|source| source != "api")),
            opted_out: has_annotation(meta, OPT_OUT, Some(|value| value == "false")),
            running: phase == "Running",
            ready: ready.is_some_and(|c| c.status == "True"),
            ready_since: ready
                .and_then(|c| c.last_transition_time.as_ref())
                .or(status.start_time.as_ref())
                .map_or(created, |t| t.0),
            crash_loop: crash_loop.map(|c| (c.name.clone(), u32::try_from(c.restart_count).unwrap_or(0))),
            kills,
        })
    }

    /// Takes over what was seen of the same pod before: its status tells of the last kill of a container only.
    pub fn remember(&mut self, before: &Self) {
        if before.uid != self.uid {
            return;
        }
        self.kills.extend(before.kills.iter().cloned());
        self.kills.sort_unstable();
        self.kills.dedup();
        let surplus = self.kills.len().saturating_sub(KILLS);
        self.kills.drain(..surplus);
    }
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

fn has_annotation(meta: &ObjectMeta, name: &str, wanted: Option<fn(&str) -> bool>) -> bool {
    let value = meta.annotations.as_ref().and_then(|a| a.get(name));
    value.is_some_and(|value| wanted.is_none_or(|wanted| wanted(value)))
}

fn waits_in_crash_loop(container: &core::ContainerStatus) -> bool {
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
    waiting.and_then(|w| w.reason.as_deref()) == Some("CrashLoopBackOff")
}

fn kills(container: &core::ContainerStatus) -> impl Iterator<Item = (Timestamp, String)> {
    let states = [&container.state, &container.last_state];
    states.into_iter().flatten().filter_map(|state| state.terminated.as_ref()).filter_map(|end| {
        let killed = end.reason.as_deref() == Some("OOMKilled");
        end.finished_at.as_ref().filter(|_| killed).map(|at| (at.0, container.name.clone()))
    })
}

/// A ReplicaSet of a Deployment is named after it, with the hash of the template that its pods have as a label. That saves the right to
/// read ReplicaSets, and a rollout does not end a cool-down.
fn workload(meta: &ObjectMeta) -> Option<Workload> {
    let owner = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true))?;
    let hash = meta.labels.as_ref().and_then(|l| l.get("pod-template-hash"));
    let deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(match deployment {
        Some(name) => Workload { kind: "Deployment".into(), name: name.into() },
        None => Workload { kind: owner.kind.clone(), name: owner.name.clone() },
    })
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The version of the object that this was read from.
    pub version: String,
    /// Nothing new is put on it.
    pub unschedulable: bool,
    /// The policy that has cordoned it, as `namespace/name`.
    pub cordoned_by: Option<String>,
    /// Its annotation says to leave it alone.
    pub opted_out: bool,
    /// Since when it has not answered.
    pub lost_since: Option<Timestamp>,
}

impl Node {
    /// Takes a node apart. None for one without name or uid, which the API never sends.
    pub fn read(node: &core::Node) -> Option<Self> {
        let meta = &node.metadata;
        let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let lost = conditions.into_iter().find(|c| c.type_ == "Ready" && c.status == "Unknown");
        Some(Self {
            name: meta.name.clone()?,
            uid: meta.uid.clone()?,
            version: meta.resource_version.clone().unwrap_or_default(),
            unschedulable: node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false),
            cordoned_by: meta.annotations.as_ref().and_then(|a| a.get(CORDONED_BY)).cloned(),
            opted_out: has_annotation(meta, OPT_OUT, Some(|value| value == "false")),
            lost_since: lost.and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0),
        })
    }
}

/// A series on which the alert AnomalyDetected fires.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Series {
    /// A pod, by namespace and name.
    Pod(String, String),
    /// A node, by name.
    Node(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(json: serde_json::Value) -> Pod {
        let read: core::Pod = serde_json::from_value(json).expect("a pod");
        Pod::read(&read).expect("facts")
    }

    #[test]
    fn a_bare_minimum_is_harmless() {
        let pod = pod(serde_json::json!({"metadata": {"namespace": "ml", "name": "a", "uid": "1"}}));
        assert!(!pod.terminating && !pod.succeeded && pod.finished.is_none() && !pod.running && pod.workload.is_none());
    }

    #[test]
    fn a_deployment_is_known_by_the_name_of_its_replica_set() {
        let owned = |owner: &str, kind: &str, labels: serde_json::Value| {
            let owners = serde_json::json!([{"apiVersion": "apps/v1", "kind": kind, "name": owner, "uid": "2", "controller": true}]);
            pod(serde_json::json!({"metadata": {"namespace": "ml", "name": "a", "uid": "1", "labels": labels, "ownerReferences": owners}}))
                .workload
                .expect("an owner")
                .subject()
        };
        let hash = serde_json::json!({"pod-template-hash": "5d8"});
        assert_eq!(owned("web-5d8", "ReplicaSet", hash.clone()), "Deployment/web");
        assert_eq!(owned("other", "ReplicaSet", hash), "ReplicaSet/other");
        assert_eq!(owned("db", "StatefulSet", serde_json::json!({})), "StatefulSet/db");
    }

    #[test]
    fn kills_of_the_same_pod_are_gathered_and_bounded() {
        let at = |minute: usize| {
            pod(
                serde_json::json!({"metadata": {"namespace": "ml", "name": "a", "uid": "1"}, "status": {"containerStatuses": [
                {"name": "app", "image": "", "imageID": "", "ready": false, "restartCount": minute, "lastState": {"terminated":
                    {"exitCode": 137, "reason": "OOMKilled", "finishedAt": format!("2026-01-01T00:{minute:02}:00Z")}}}]}}),
            )
        };
        let mut known = at(0);
        for minute in [0, 1, 1, 2] {
            let mut next = at(minute);
            next.remember(&known);
            known = next;
        }
        assert_eq!(known.kills.len(), 3);
        for minute in 3..60 {
            let mut next = at(minute);
            next.remember(&known);
            known = next;
        }
        assert_eq!(known.kills.len(), KILLS);
        let mut other = at(0);
        other.uid = "2".into();
        other.kills.clear();
        other.remember(&known);
        assert!(other.kills.is_empty(), "another pod of that name");
    }
}
