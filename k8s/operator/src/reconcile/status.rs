//! The conditions Ready and Active of a policy.
//!
//! Messages name conditions and reasons, and no numbers or times: they would change the status, and so the API server's work, at each look.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::decide::{Decision, Why};
use crate::policy::RemediationStatus;
use crate::rules::Rules;

/// The status of a policy that makes no sense. Its history is kept.
pub(super) fn invalid(
    before: &RemediationStatus,
    generation: Option<i64>,
    mistakes: &str,
    now: Timestamp,
) -> RemediationStatus {
    let mut status = before.clone();
    status.observed_generation = generation;
    set(&mut status, generation, "Ready", false, "Invalid", mistakes.to_owned(), now);
    set(
        &mut status,
        generation,
        "Active",
        false,
        "Invalid",
        "nothing is done for a policy that makes no sense".into(),
        now,
    );
    status
}

/// Says what the decision was.
pub(super) fn tell(
    status: &mut RemediationStatus,
    generation: Option<i64>,
    rules: &Rules,
    decision: &Decision,
    now: Timestamp,
) {
    status.observed_generation = generation;
    set(status, generation, "Ready", true, "Valid", "the policy is carried out".into(), now);
    let failing: Vec<&str> = decision.candidates.keys().map(|kind| kind.name()).collect();
    let held: BTreeSet<(u8, &str, &str)> = decision.held.iter().filter_map(|held| words(held.why)).collect();
    let acts = !decision.actions.is_empty();
    if !acts && failing.is_empty() {
        set(status, generation, "Active", false, "Quiet", "nothing fails".into(), now);
        return;
    }
    let first = held.first().map(|(_, reason, _)| *reason);
    let reason = match first {
        _ if acts && rules.dry_run => "DryRun",
        _ if acts => "Acting",
        Some(reason) => reason,
        None => "Acting",
    };
    let mut message = format!("failing: {}", if failing.is_empty() { "nothing".into() } else { failing.join(", ") });
    if !held.is_empty() {
        let why: Vec<&str> = held.iter().map(|(_, _, words)| *words).collect();
        message = format!("{message}; waiting: {}", why.join(", "));
    }
    set(status, generation, "Active", true, reason, message, now);
}

/// What keeps something, with the reason that matters most first.
fn words(why: Why) -> Option<(u8, &'static str, &'static str)> {
    match why {
        Why::Protected(_) => None,
        Why::Full => Some((0, "HistoryFull", "the history has no room")),
        Why::Budget => Some((1, "BudgetSpent", "the budget is spent")),
        Why::Concurrent => Some((2, "ReplacementPending", "pods are in replacement")),
        Why::Refused(_) => Some((3, "Refused", "a PodDisruptionBudget refused, or the pod has changed")),
        Why::CoolDown(_) => Some((4, "CoolingDown", "the workload cools down")),
        Why::Later => Some((5, "Acting", "enough was begun at once")),
    }
}

fn set(
    status: &mut RemediationStatus,
    generation: Option<i64>,
    type_: &str,
    holds: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let value = if holds { "True" } else { "False" };
    let known = status.conditions.iter_mut().find(|c| c.type_ == type_);
    let since = known.as_ref().filter(|c| c.status == value).map_or(Time(now), |c| c.last_transition_time.clone());
    let condition = Condition {
        type_: type_.into(),
        status: value.into(),
        reason: reason.into(),
        message,
        observed_generation: generation,
        last_transition_time: since,
    };
    match known {
        Some(known) => *known = condition,
        None => status.conditions.push(condition),
    }
}
