//! Which nodes are cordoned, and which of them are uncordoned.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Decision, Limits, Planned, View, cooling};
use crate::facts::{Node, Pod};
use crate::finding;
use crate::history::History;
use crate::policy::{Cordoned, Verb};

#[derive(Default)]
struct Count {
    pods: usize,
    anomalous: usize,
}

pub(super) fn decide(
    view: &View<'_>,
    selected: &[&Arc<Pod>],
    history: &History<'_>,
    limits: &mut Limits,
    decision: &mut Decision,
) {
    let counts = count(view, selected);
    let mine = format!("{}/{}", view.namespace, view.name);
    let mut nodes: Vec<&Arc<Node>> = view.nodes.values().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let mut cordoned = nodes.iter().filter(|node| node.cordoned_by.is_some()).count();
    for node in nodes {
        let count = counts.get(node.name.as_str());
        if node.cordoned_by.as_ref() == Some(&mine) {
            keep(view, node, count, history, decision);
        } else if let Some(count) = count
            && worth(view, node, count, cordoned)
        {
            let subject = format!("Node/{}", node.name);
            let cooling = history.latest(&subject).is_some_and(|before| cooling(before, view.now).is_some());
            if cooling || limits.refuse(Verb::Cordon).is_some() {
                continue;
            }
            limits.take(Verb::Cordon);
            cordoned += 1;
            let mut record = history.claim(view.rules, Verb::Cordon, &node.name, subject, view.now);
            record.uid = Some(node.uid.clone());
            record.reason = format!("{} of its {} selected pods are anomalous", count.anomalous, count.pods);
            decision.actions.push(Planned { record, version: node.version.clone() });
        }
    }
}

fn count<'a>(view: &View<'_>, selected: &[&'a Arc<Pod>]) -> HashMap<&'a str, Count> {
    let mut counts: HashMap<&str, Count> = HashMap::new();
    for pod in selected.iter().filter(|p| p.finished.is_none() && !p.succeeded && !p.terminating) {
        let Some(node) = &pod.node else { continue };
        let count = counts.entry(node).or_default();
        count.pods += 1;
        let anomalous = finding::anomalous(view.rules, pod, view.anomalies, view.now).is_some();
        count.anomalous += usize::from(anomalous);
    }
    counts
}

#[expect(clippy::cast_precision_loss, reason = "numbers of pods on a node")]
fn worth(view: &View<'_>, node: &Node, count: &Count, cordoned: usize) -> bool {
    view.rules.cordon.as_ref().is_some_and(|rule| {
        let share = count.anomalous as f64 / count.pods as f64;
        let free = node.cordoned_by.is_none() && !node.unschedulable && !node.opted_out && cordoned < rule.nodes;
        free && count.pods >= rule.pods && share >= rule.share
    })
}

/// A node that this policy has cordoned stays so until it was quiet for long enough, or the policy does not want it any more. One that a
/// person has uncordoned is given up.
fn keep(view: &View<'_>, node: &Node, count: Option<&Count>, history: &History<'_>, decision: &mut Decision) {
    let before = view.status.cordoned.iter().find(|c| c.node == node.name);
    let quiet = count.is_none_or(|count| count.anomalous == 0);
    let since = before.and_then(|c| c.quiet_since.as_ref()).map_or(view.now, |t| t.0);
    let quiet_since = quiet.then_some(since);
    let over = match &view.rules.cordon {
        Some(rule) => quiet_since.is_some_and(|since| view.now.duration_since(since) >= rule.quiet),
        None => true,
    };
    if !view.rules.dry_run && (over || !node.unschedulable) {
        let subject = format!("Node/{}", node.name);
        let mut record = history.claim(view.rules, Verb::Uncordon, &node.name, subject, view.now);
        record.uid = Some(node.uid.clone());
        record.reason = if over { "it has been quiet for long enough" } else { "a person has uncordoned it" }.into();
        decision.actions.push(Planned { record, version: node.version.clone() });
    }
    decision.cordoned.push(Cordoned { node: node.name.clone(), quiet_since: quiet_since.map(Time) });
}
