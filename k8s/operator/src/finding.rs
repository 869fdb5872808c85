//! What is wrong with a pod by a policy's conditions, and why a pod may not be touched. Nothing here counts or remembers.

use std::collections::HashMap;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use crate::facts::{Finished, Node, Pod, Series, Workload};
use crate::rules::Rules;

/// A condition of a policy, as the metric's label and Events call it. In the order in which pods are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Evicted by the kubelet.
    Evicted,
    /// Failed for good.
    Failed,
    /// Its node does not answer.
    NodeLost,
    /// CrashLoopBackOff.
    CrashLoop,
    /// Killed for memory again and again.
    OomKilled,
    /// Not ready for too long.
    NotReady,
    /// Its alert fires.
    Anomalous,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Evicted,
        Self::Failed,
        Self::NodeLost,
        Self::CrashLoop,
        Self::OomKilled,
        Self::NotReady,
        Self::Anomalous,
    ];

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Failed => "failed",
            Self::NodeLost => "node_lost",
            Self::CrashLoop => "crash_loop",
            Self::OomKilled => "oom_killed",
            Self::NotReady => "not_ready",
            Self::Anomalous => "anomalous",
        }
    }
}

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// By which condition; the first one that holds.
    pub kind: Kind,
    /// Since when.
    pub since: Timestamp,
    /// In words.
    pub reason: String,
}

/// Since when each series fires.
pub type Anomalies = HashMap<Series, Timestamp>;

/// Looks at one pod.
pub fn look(rules: &Rules, pod: &Pod, node: Option<&Node>, anomalies: &Anomalies, now: Timestamp) -> Option<Finding> {
    let found = |kind, since, reason| Some(Finding { kind, since, reason });
    if let Some(finished) = pod.finished {
        return match finished {
            Finished::Evicted if rules.evicted => {
                found(Kind::Evicted, pod.ready_since, "the kubelet evicted it".into())
            }
            Finished::Failed if rules.failed => found(Kind::Failed, pod.ready_since, "it has failed for good".into()),
            _ => None,
        };
    }
    if pod.succeeded {
        return None;
    }
    if let (Some(patience), Some(node)) = (rules.node_lost, node)
        && let Some(since) = node.lost_since
        && now.duration_since(since) >= patience
    {
        return found(Kind::NodeLost, since, format!("its node {} has not answered since {since:.0}", node.name));
    }
    if let (Some(least), Some((container, restarts))) = (rules.crash_loop, &pod.crash_loop)
        && *restarts >= least
    {
        return found(
            Kind::CrashLoop,
            pod.ready_since,
            format!("container {container} is in CrashLoopBackOff after {restarts} restarts"),
        );
    }
    if let Some((times, within)) = rules.oom_killed {
        let recent: Vec<_> = pod.kills.iter().filter(|(at, _)| now.duration_since(*at) < within).collect();
        if let Some((since, container)) = recent.first()
            && recent.len() >= times as usize
        {
            let words = format!("container {container} was killed for memory; {} kills since {since:.0}", recent.len());
            return found(Kind::OomKilled, *since, words);
        }
    }
    if let Some(patience) = rules.not_ready
        && pod.running
        && !pod.ready
        && now.duration_since(pod.ready_since) >= patience
    {
        return found(Kind::NotReady, pod.ready_since, format!("it has not been ready since {:.0}", pod.ready_since));
    }
    anomalous(rules, pod, anomalies, now)
        .and_then(|since| found(Kind::Anomalous, since, format!("AnomalyDetected has fired since {since:.0}")))
}

/// Since when the pod's alert has fired, if that is long enough.
///
/// A pod cannot be anomalous for longer than it exists: an alert that began before it was about the pod that had its name.
pub fn anomalous(rules: &Rules, pod: &Pod, anomalies: &Anomalies, now: Timestamp) -> Option<Timestamp> {
    let patience: SignedDuration = rules.anomalous?;
    let fires = anomalies.get(&Series::Pod(pod.namespace.clone(), pod.name.clone()))?;
    let since = (*fires).max(pod.created);
    (now.duration_since(since) >= patience).then_some(since)
}

/// Why a pod is never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protected {
    /// It is on its way out already.
    Terminating,
    /// Its annotation says so.
    OptedOut,
    /// The kubelet would start it again from its file.
    Mirror,
    /// It is the operator, or another replica of it.
    Myself,
    /// Nothing would bring it back.
    Bare,
    /// Its Job counts failures itself, and could not any more.
    Job,
    /// Its replacement would be for the same node.
    DaemonSetOnLostNode,
}

/// Why this pod may not be touched, if so.
pub fn protected(pod: &Pod, finding: Kind, me: Option<&(String, Workload)>) -> Option<Protected> {
    let kind = pod.workload.as_ref().map(|w| w.kind.as_str());
    let mine =
        me.is_some_and(|(namespace, workload)| *namespace == pod.namespace && pod.workload.as_ref() == Some(workload));
    if pod.terminating {
        Some(Protected::Terminating)
    } else if pod.opted_out {
        Some(Protected::OptedOut)
    } else if pod.mirror || kind == Some("Node") {
        Some(Protected::Mirror)
    } else if mine {
        Some(Protected::Myself)
    } else if kind == Some("Job") {
        Some(Protected::Job)
    } else if kind.is_none() {
        Some(Protected::Bare)
    } else if kind == Some("DaemonSet") && finding == Kind::NodeLost {
        Some(Protected::DaemonSetOnLostNode)
    } else {
        None
    }
}
