//! What fires, as Alertmanager says by its webhook (version 4).
//!
//! A webhook may be lost, and a restart forgets: an alert that is not repeated within its time to live is over. The route's
//! `repeat_interval` must therefore be shorter than `--alert-ttl`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use crate::facts::Series;
use crate::finding::Anomalies;

/// The alert that is acted upon.
const ALERT: &str = "AnomalyDetected";
/// Alerts that are remembered: one for each of the collector's series.
pub const MOST: usize = 10_000;
/// Names of Kubernetes objects are not longer.
const NAME: usize = 253;

/// What Alertmanager posts. Fields that are not needed are left out, and may be anything.
#[derive(Debug, Deserialize)]
pub struct Webhook {
    /// Must be "4".
    pub version: String,
    /// Those of one group.
    pub alerts: Vec<Alert>,
}

/// One alert.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    /// `firing` or `resolved`.
    pub status: State,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Since when it has fired.
    pub starts_at: Timestamp,
}

/// Whether an alert fires.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Firing,
    /// It does not any more.
    Resolved,
}

/// How many alerts of a message were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Remembered, or forgotten because they are resolved.
    pub accepted: u64,
    /// Not the alert that is acted upon, or it names neither pod nor node.
    pub unknown: u64,
    /// No room.
    pub refused: u64,
}

struct Firing {
    since: Timestamp,
    heard: Instant,
}

/// The alerts that fire.
pub struct Alerts {
    ttl: Duration,
    firing: Mutex<HashMap<Series, Firing>>,
}

impl Alerts {
    /// None fires.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, firing: Mutex::default() }
    }

    /// Takes a message.
    pub fn take(&self, webhook: Webhook) -> Taken {
        let mut taken = Taken::default();
        let (heard, now) = (Instant::now(), Timestamp::now());
        let mut firing = self.lock();
        for alert in webhook.alerts {
            let Some(series) = series(&alert.labels) else {
                taken.unknown += 1;
                continue;
            };
            if alert.status == State::Resolved {
                firing.remove(&series);
            } else if firing.len() >= MOST && !firing.contains_key(&series) {
                taken.refused += 1;
                continue;
            } else {
                // Another clock may be ahead.
                firing.insert(series, Firing { since: alert.starts_at.min(now), heard });
            }
            taken.accepted += 1;
        }
        taken
    }

    /// What fires now.
    pub fn now(&self) -> Anomalies {
        let mut firing = self.lock();
        firing.retain(|_, alert| alert.heard.elapsed() < self.ttl);
        firing.iter().map(|(series, alert)| (series.clone(), alert.since)).collect()
    }

    /// Forgets all: whoever leads next is told.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Series, Firing>> {
        self.firing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn series(labels: &HashMap<String, String>) -> Option<Series> {
    let label = |name: &str| labels.get(name).filter(|v| !v.is_empty() && v.len() <= NAME).cloned();
    if labels.get("alertname").map(String::as_str) != Some(ALERT) {
        return None;
    }
    match (label("namespace"), label("pod"), label("node")) {
        (Some(namespace), Some(pod), _) => Some(Series::Pod(namespace, pod)),
        (_, None, Some(node)) => Some(Series::Node(node)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(status: &str, labels: serde_json::Value) -> Webhook {
        serde_json::from_value(serde_json::json!({"version": "4", "groupKey": "x", "alerts": [
            {"status": status, "labels": labels, "startsAt": "2026-01-01T00:00:00Z", "endsAt": "0001-01-01T00:00:00Z"}]}))
        .expect("a message")
    }

    fn pod(n: usize) -> serde_json::Value {
        serde_json::json!({"alertname": ALERT, "namespace": "ml", "pod": format!("p-{n}")})
    }

    #[test]
    fn resolved_alerts_are_over_and_others_are_none_of_ours() {
        let alerts = Alerts::new(Duration::from_secs(60));
        assert_eq!(alerts.take(webhook("firing", pod(1))).accepted, 1);
        assert_eq!(
            alerts.take(webhook("firing", serde_json::json!({"alertname": "HighCpu", "pod": "p-1"}))).unknown,
            1
        );
        assert_eq!(alerts.take(webhook("firing", serde_json::json!({"alertname": ALERT, "pod": "p-1"}))).unknown, 1);
        assert_eq!(alerts.take(webhook("firing", serde_json::json!({"alertname": ALERT, "node": "n-1"}))).accepted, 1);
        assert_eq!(alerts.now().len(), 2);
        alerts.take(webhook("resolved", pod(1)));
        assert_eq!(alerts.now().into_keys().collect::<Vec<_>>(), [Series::Node("n-1".into())]);
    }

    #[test]
    fn what_is_not_repeated_is_over() {
        let alerts = Alerts::new(Duration::ZERO);
        alerts.take(webhook("firing", pod(1)));
        assert!(alerts.now().is_empty());
    }

    #[test]
    fn there_is_room_for_so_many_and_those_that_are_known_are_kept() {
        let alerts = Alerts::new(Duration::from_secs(60));
        for n in 0..MOST {
            alerts.take(webhook("firing", pod(n)));
        }
        assert_eq!(alerts.take(webhook("firing", pod(MOST))).refused, 1);
        assert_eq!(alerts.take(webhook("firing", pod(0))).accepted, 1);
        alerts.take(webhook("resolved", pod(0)));
        assert_eq!(alerts.take(webhook("firing", pod(MOST))).accepted, 1);
    }
}
