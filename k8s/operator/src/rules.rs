//! A policy's spec, checked and with its texts read: what [`crate::decide`] works with.
//!
//! The API server has checked the schema; what a schema cannot say is checked here, and reported by the condition Ready.

use k8s_openapi::jiff::SignedDuration;
use kube::core::Selector;

use crate::policy::{RemediationPolicySpec, Span};

const DAY: SignedDuration = SignedDuration::from_hours(24);
const LONGEST: SignedDuration = SignedDuration::from_hours(30 * 24);

/// A policy, ready to be used.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which pods.
    pub selector: Selector,
    /// Restarts from which on a crash loop counts.
    pub crash_loop: Option<u32>,
    /// Kills, and in what time.
    pub oom_killed: Option<(u32, SignedDuration)>,
    /// Whether evicted pods count.
    pub evicted: bool,
    /// Whether failed pods count.
    pub failed: bool,
    /// For how long a pod may be not ready.
    pub not_ready: Option<SignedDuration>,
    /// For how long a node may be lost.
    pub node_lost: Option<SignedDuration>,
    /// For how long an anomaly may fire.
    pub anomalous: Option<SignedDuration>,
    /// Actions in any span of the length of `per`.
    pub actions: usize,
    /// That length.
    pub per: SignedDuration,
    /// Pods in replacement at once.
    pub concurrent: usize,
    /// The first cool-down.
    pub first: SignedDuration,
    /// The longest one.
    pub most: SignedDuration,
    /// Nothing is done.
    pub dry_run: bool,
    /// When nodes are cordoned.
    pub cordon: Option<Cordon>,
    /// When retraining is started.
    pub retraining: Option<Retraining>,
}

/// When nodes are cordoned.
#[derive(Clone, Debug)]
pub struct Cordon {
    /// Of the selected pods on the node.
    pub share: f64,
    /// Selected pods on the node, at least.
    pub pods: usize,
    /// Cordoned at once, at most.
    pub nodes: usize,
    /// Before it is uncordoned.
    pub quiet: SignedDuration,
}

/// When retraining is started.
#[derive(Clone, Debug)]
pub struct Retraining {
    /// Of the state machine.
    pub arn: String,
    /// Anomalous ones, at least.
    pub series: usize,
    /// For how long, at least.
    pub after: SignedDuration,
    /// Between two starts.
    pub cool_down: SignedDuration,
}

/// All that is wrong with a spec.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Mistakes(Vec<String>);

impl Rules {
    /// Reads a spec.
    ///
    /// # Errors
    /// Every mistake, each with the field's name and what to write instead.
    pub fn read(spec: &RemediationPolicySpec) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let conditions = &spec.conditions;
        let mut span = |field: &str, text: &Span, most: SignedDuration| {
            duration(text, most).unwrap_or_else(|why| {
                mistakes.push(format!("{field} is {:?}: {why}", text.0));
                SignedDuration::ZERO
            })
        };
        let c = |name: &str| format!("spec.conditions.{name}");
        let oom_killed =
            conditions.oom_killed.as_ref().map(|o| (o.times, span(&c("oomKilled.within"), &o.within, DAY)));
        let not_ready = conditions.not_ready.as_ref().map(|n| span(&c("notReady.for"), &n.r#for, LONGEST));
        let node_lost = conditions.node_lost.as_ref().map(|n| span(&c("nodeLost.for"), &n.r#for, LONGEST));
        let anomalous = conditions.anomalous.as_ref().map(|a| span(&c("anomalous.for"), &a.r#for, LONGEST));
        let per = span("spec.budget.per", &spec.budget.per, LONGEST);
        let first = span("spec.coolDown.first", &spec.cool_down.first, LONGEST);
        let most = span("spec.coolDown.most", &spec.cool_down.most, LONGEST);
        let cordon = spec.cordon.as_ref().map(|c| Cordon {
            share: c.share,
            pods: c.pods as usize,
            nodes: c.nodes as usize,
            quiet: span("spec.cordon.quiet", &c.quiet, LONGEST),
        });
        let retraining = spec.retraining.as_ref().map(|r| Retraining {
            arn: r.state_machine_arn.clone(),
            series: r.series as usize,
            after: span("spec.retraining.after", &r.after, LONGEST),
            cool_down: span("spec.retraining.coolDown", &r.cool_down, LONGEST),
        });
        let selector = Selector::try_from(spec.selector.clone()).unwrap_or_else(|e| {
            mistakes.push(format!("spec.selector: {e}"));
            Selector::default()
        });
        let none = conditions.crash_loop.is_none() && oom_killed.is_none() && !conditions.evicted && !conditions.failed;
        if none && not_ready.is_none() && node_lost.is_none() && anomalous.is_none() {
            mistakes.push("spec.conditions is empty: name at least one, such as crashLoop: {}".into());
        }
        if first > most {
            mistakes.push(format!(
                "spec.coolDown.first ({}) is longer than spec.coolDown.most ({})",
                spec.cool_down.first.0, spec.cool_down.most.0
            ));
        }
        if first.is_zero() || per.is_zero() {
            mistakes.push("spec.coolDown.first and spec.budget.per must be at least 1s".into());
        }
        if let Some(cordon) = &cordon {
            if anomalous.is_none() {
                mistakes.push("spec.cordon needs spec.conditions.anomalous: it counts anomalous pods".into());
            }
            if !(cordon.share > 0.0 && cordon.share <= 1.0) {
                mistakes.push(format!("spec.cordon.share is {}: it is above 0 and at most 1", cordon.share));
            }
        }
        if !mistakes.is_empty() {
            mistakes.dedup();
            return Err(Mistakes(mistakes));
        }
        Ok(Self {
            selector,
            crash_loop: conditions.crash_loop.as_ref().map(|c| c.restarts),
            oom_killed,
            evicted: conditions.evicted,
            failed: conditions.failed,
            not_ready,
            node_lost,
            anomalous,
            actions: spec.budget.actions as usize,
            per,
            concurrent: spec.concurrent as usize,
            first,
            most,
            dry_run: spec.dry_run,
            cordon,
            retraining,
        })
    }

    /// How long a subject is left alone after it was acted upon for the `times`-th time in a row: doubled each time.
    pub fn cool_down(&self, times: u32) -> SignedDuration {
        let doubled = 1_i32.checked_shl(times.saturating_sub(1).min(30)).unwrap_or(i32::MAX);
        self.first.checked_mul(doubled).unwrap_or(self.most).min(self.most)
    }
}

fn duration(text: &Span, most: SignedDuration) -> Result<SignedDuration, String> {
    let read = humantime::parse_duration(&text.0).map_err(|e| format!("{e}; write it like 90s, 10m, 1h30m or 2d"))?;
    let read = SignedDuration::try_from(read).map_err(|_| "too long".to_owned())?;
    let longest = humantime::format_duration(most.unsigned_abs());
    if read > most { Err(format!("at most {longest} makes sense")) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RemediationPolicySpec;

    fn spec(json: serde_json::Value) -> RemediationPolicySpec {
        serde_json::from_value(json).expect("a spec")
    }

    #[test]
    fn every_mistake_is_told_at_once_with_its_field() {
        let spec = spec(serde_json::json!({
            "selector": {}, "conditions": {"notReady": {"for": "ten minutes"}},
            "budget": {"per": "400d"}, "coolDown": {"first": "7h"}, "cordon": {"share": 0.0},
        }));
        let told = Rules::read(&spec).expect_err("mistakes").to_string();
        for part in [
            "spec.conditions.notReady.for is \"ten minutes\"",
            "spec.budget.per is \"400d\"",
            "spec.coolDown.first (7h) is longer than spec.coolDown.most (6h)",
            "spec.cordon needs spec.conditions.anomalous",
            "spec.cordon.share is 0",
        ] {
            assert!(told.contains(part), "{part} is not in: {told}");
        }
    }

    #[test]
    fn a_policy_without_conditions_is_a_mistake() {
        let told = Rules::read(&spec(serde_json::json!({"selector": {}, "conditions": {}}))).expect_err("a mistake");
        assert!(told.to_string().contains("name at least one"), "{told}");
    }

    #[test]
    fn cool_downs_double_up_to_the_longest() {
        let spec = spec(serde_json::json!({"selector": {}, "conditions": {"failed": true},
            "coolDown": {"first": "10m", "most": "1h30m"}}));
        let rules = Rules::read(&spec).expect("rules");
        let minutes: Vec<_> = [1, 2, 3, 4, 5, 100].map(|n| rules.cool_down(n).as_mins()).into();
        assert_eq!(minutes, [10, 20, 40, 80, 90, 90]);
    }
}
