//! When the retraining state machine is started.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::{Decision, Planned, View};
use crate::facts::{Pod, Series};
use crate::history::{self, History};
use crate::policy::{Outcome, Record, Verb};

/// An execution's name is made from what the status says, so that two operators, or one before and after a restart, ask for the same
/// one: Step Functions starts it once. A start that is not known to have ended well is therefore asked for again.
pub(super) fn decide(view: &View<'_>, selected: &[&Arc<Pod>], history: &History<'_>, decision: &mut Decision) {
    let Some(rule) = &view.rules.retraining else { return };
    let series = count(view, selected);
    if series < rule.series {
        return;
    }
    let since = view.status.anomalous_since.as_ref().map_or(view.now, |t| t.0);
    decision.anomalous_since = Some(since);
    let subject = format!("StateMachine/{}", rule.arn.rsplit(':').next().unwrap_or_default());
    let reason = format!("anomalies on {series} series, on {} or more since {since:.0}", rule.series);
    let persistent = history::later(since, rule.after);
    let before = history.latest(&subject);
    if let Some(before) = before.filter(|b| matches!(b.outcome, Outcome::Claimed | Outcome::Failed)) {
        if before.outcome == Outcome::Claimed || before.until.0 <= view.now {
            let target = before.target.clone();
            let record = Record { tries: before.tries, reason, ..claim(view, history, target, subject) };
            decision.actions.push(Planned { record, version: String::new() });
        }
        return;
    }
    let due = before.map_or(persistent, |before| persistent.max(before.until.0));
    if due <= view.now {
        let record = Record { reason, ..claim(view, history, name(view.uid, due), subject) };
        decision.actions.push(Planned { record, version: String::new() });
    }
}

fn claim(view: &View<'_>, history: &History<'_>, target: String, subject: String) -> Record {
    let pause = view.rules.retraining.as_ref().map(|rule| rule.cool_down).unwrap_or_default();
    let until = Time(history::later(view.now, pause));
    Record { until, times: 1, ..history.claim(view.rules, Verb::Retrain, &target, subject, view.now) }
}

/// At most 80 characters, of those that Step Functions takes.
fn name(uid: &str, due: Timestamp) -> String {
    let uid: String = uid.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    format!("alert-{uid}-{}", due.as_second())
}

/// Of selected pods, and of the nodes that they run on. Pods that are gone do not count.
fn count(view: &View<'_>, selected: &[&Arc<Pod>]) -> usize {
    let fires = |series: &Series| view.anomalies.contains_key(series);
    let pods = selected.iter().filter(|p| fires(&Series::Pod(p.namespace.clone(), p.name.clone()))).count();
    let nodes: HashSet<&String> = selected.iter().filter_map(|pod| pod.node.as_ref()).collect();
    pods + nodes.into_iter().filter(|name| fires(&Series::Node((*name).clone()))).count()
}
