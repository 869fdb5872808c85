//! Each condition, on real pods of real Deployments: what is done, what is not, and what is told.

use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use remediation_operator::policy::{Outcome, Verb};
use serde_json::json;

use crate::cluster::apply;
use crate::fixture::{TOKEN, ago, count, test, until};

#[test]
fn a_crash_loop_of_a_deployment_is_evicted_and_replaced() {
    test("crash-loop", |t| async move {
        let pods = t.deployment("shop", "crash-a", 2).await;
        t.policy("web", json!({"conditions": {"crashLoop": {"restarts": 5}}})).await;
        let operator = t.operator().await;
        t.condition("web", "Active", "Quiet").await;
        let name = pods[0].name_any();
        t.crash_loop(&name, 4).await;
        t.crash_loop(&name, 5).await;
        t.gone(&pods[0]).await;
        let after = t.of("shop", 2).await;
        assert!(after.iter().any(|pod| pod.uid() == pods[1].uid()), "the other one stays");
        let record =
            until("the record", || async { t.records("web").await.pop().filter(|r| r.outcome == Outcome::Done) }).await;
        assert_eq!(
            (record.action, record.target.as_str(), record.subject.as_str()),
            (Verb::Evict, name.as_str(), "Deployment/shop")
        );
        assert_eq!(record.reason, "container app is in CrashLoopBackOff after 5 restarts");
        let event = t.event(&t.namespace, "Rescheduled", &name).await;
        assert_eq!(event.note, Some(record.reason));
        assert_eq!(event.related.and_then(|r| r.name).as_deref(), Some("web"), "it names the policy");
        assert_eq!(operator.metric(r#"remediation_actions_total{action="evict",outcome="done"}"#).await, 1.0);
        // The crash loop follows its pod: it cools down.
        let next = after.iter().find(|pod| pod.uid() != pods[1].uid()).expect("a replacement");
        t.crash_loop(&next.name_any(), 9).await;
        t.condition("web", "Active", "CoolingDown").await;
        assert!(t.is_there(next).await);
        assert_eq!(operator.metric(r#"remediation_actions_total{action="evict",outcome="cool_down"}"#).await, 1.0);
        let series =
            format!(r#"remediation_candidates{{namespace="{}",policy="web",condition="crash_loop"}}"#, t.namespace);
        assert_eq!(operator.metric(&series).await, 1.0);
        let series = format!(r#"remediation_budget_left{{namespace="{}",policy="web"}}"#, t.namespace);
        assert_eq!(operator.metric(&series).await, 4.0);
    });
}

#[test]
fn a_disruption_budget_refuses_and_then_allows() {
    test("budget", |t| async move {
        let pods = t.deployment("shop", "budget-a", 2).await;
        let disruptions = |least: u32| {
            json!({"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "shop", "namespace": t.namespace},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"of": "shop"}}}})
        };
        apply(&t.admin, disruptions(2)).await;
        t.policy("web", json!({"conditions": {"notReady": {"for": "10m"}}, "budget": {"actions": 1}})).await;
        let operator = t.operator().await;
        t.not_ready(&pods[0].name_any(), 3600).await;
        t.event(&t.namespace, "RemediationRefused", &pods[0].name_any()).await;
        t.condition("web", "Active", "Refused").await;
        assert!(t.is_there(&pods[0]).await);
        let record = t.records("web").await.pop().expect("a record");
        assert_eq!((record.outcome, record.times), (Outcome::Refused, 0));
        assert!(operator.metric(r#"remediation_actions_total{action="evict",outcome="refused"}"#).await >= 1.0);
        let series = format!(r#"remediation_budget_left{{namespace="{}",policy="web"}}"#, t.namespace);
        until("the refusal is not paid for", || async { (operator.metric(&series).await >= 1.0).then_some(()) }).await;
        apply(&t.admin, disruptions(1)).await;
        t.not_ready(&pods[0].name_any(), 3600).await;
        t.gone(&pods[0]).await;
        let records = until("it is done", || async {
            let records = t.records("web").await;
            records.iter().any(|r| r.outcome == Outcome::Done).then_some(records)
        })
        .await;
        assert_eq!(records.len(), 1, "one record goes on: {records:?}");
    });
}

#[test]
fn what_is_left_of_evicted_and_failed_pods_is_deleted() {
    test("finished", |t| async move {
        let pods = t.deployment("shop", "finished-a", 3).await;
        t.policy("web", json!({"conditions": {"evicted": true, "failed": true}})).await;
        let operator = t.operator().await;
        t.pod_status(&pods[0].name_any(), json!({"phase": "Failed", "reason": "Evicted"})).await;
        t.pod_status(&pods[1].name_any(), json!({"phase": "Failed", "reason": "Error"})).await;
        t.gone(&pods[0]).await;
        t.gone(&pods[1]).await;
        t.event(&t.namespace, "CleanedUp", &pods[1].name_any()).await;
        until("both are counted", || async {
            (operator.metric(r#"remediation_actions_total{action="delete",outcome="done"}"#).await == 2.0).then_some(())
        })
        .await;
        assert_eq!(count(&t.records("web").await, Verb::Delete), 2, "no cool-down: they were replaced long ago");
        assert!(t.is_there(&pods[2]).await);
    });
}

#[test]
fn memory_kills_are_counted_over_restarts_of_the_container() {
    test("memory", |t| async move {
        let pods = t.deployment("shop", "memory-a", 1).await;
        let spec = json!({"conditions": {"oomKilled": {"times": 3, "within": "1h"}, "failed": true}});
        t.policy("web", spec).await;
        let operator = t.operator().await;
        operator.leads().await;
        for kill in 0..3 {
            assert!(t.is_there(&pods[0]).await, "{kill} kills are not enough");
            let container = json!({"name": "app", "image": "app", "imageID": "", "ready": true, "restartCount": kill + 1,
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": ago(300 - 60 * kill)}}});
            t.pod_status(&pods[0].name_any(), json!({"containerStatuses": [container]})).await;
            // A status tells of the last kill only, so each must be seen: whoever has seen this one, later, has seen that.
            let marker = t.deployment(&format!("marker-{kill}"), "memory-a", 1).await;
            t.pod_status(&marker[0].name_any(), json!({"phase": "Failed"})).await;
            t.gone(&marker[0]).await;
        }
        t.gone(&pods[0]).await;
        let records = t.records("web").await;
        let record = records.iter().find(|r| r.action == Verb::Evict).expect("a record");
        assert!(record.reason.contains("was killed for memory; 3 kills"), "{}", record.reason);
    });
}

#[test]
fn pods_on_a_lost_node_are_rescheduled_those_of_a_daemon_set_are_not() {
    test("lost", |t| async move {
        t.node("lost-a").await;
        t.node("lost-b").await;
        let lost = t.deployment("shop", "lost-a", 1).await;
        let well = t.deployment("cart", "lost-b", 1).await;
        let owner = json!({"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "logs", "uid": "1", "controller": true}]});
        let daemon = t.bare("daemon", owner).await;
        t.policy("web", json!({"conditions": {"nodeLost": {"for": "5m"}}})).await;
        let _operator = t.operator().await;
        t.condition("web", "Active", "Quiet").await;
        t.node_ready("lost-a", "Unknown", 60).await;
        t.node_ready("lost-a", "Unknown", 600).await;
        t.gone(&lost[0]).await;
        assert!(t.is_there(&well[0]).await && t.is_there(&daemon).await);
    });
}

#[test]
fn an_anomalous_pod_is_rescheduled_unless_its_alert_is_resolved() {
    test("anomalous", |t| async move {
        let shop = t.deployment("shop", "anomalous-a", 1).await;
        let cart = t.deployment("cart", "anomalous-a", 1).await;
        // Alerts cannot be older than their pods, which are seconds old.
        t.policy("web", json!({"conditions": {"anomalous": {"for": "15s"}}, "concurrent": 5})).await;
        let operator = t.operator().await;
        operator.leads().await;
        let of = |pod: &k8s_openapi::api::core::v1::Pod| json!({"namespace": t.namespace, "pod": pod.name_any(), "series": "x"});
        operator.alert("firing", of(&cart[0]), 3600).await;
        assert_eq!(operator.metric("remediation_anomalies").await, 1.0);
        operator.alert("resolved", of(&cart[0]), 3600).await;
        assert_eq!(operator.metric("remediation_anomalies").await, 0.0);
        operator.alert("firing", of(&shop[0]), 3600).await;
        t.gone(&shop[0]).await;
        assert!(t.is_there(&cart[0]).await, "its alert was resolved");
        let record = t.records("web").await.pop().expect("a record");
        assert!(record.reason.starts_with("AnomalyDetected has fired since"), "{}", record.reason);
    });
}

#[test]
fn alerts_need_the_token_and_alertmanagers_json() {
    test("webhook", |t| async move {
        let operator = t.operator().await;
        operator.leads().await;
        let message = json!({"version": "4", "alerts": []}).to_string();
        assert_eq!(operator.post(None, message.clone()).await.0, 401);
        assert_eq!(operator.post(Some("another"), message.clone()).await.0, 401);
        assert_eq!(operator.post(Some(TOKEN), message).await.0, 200);
        let (code, text) = operator.post(Some(TOKEN), "{".into()).await;
        assert_eq!(code, 400);
        assert!(text.starts_with("not a webhook message of Alertmanager"), "{text}");
        let (code, text) = operator.post(Some(TOKEN), json!({"version": "5", "alerts": []}).to_string()).await;
        assert_eq!((code, text.as_str()), (400, "the message has version \"5\", 4 is known\n"));
        // It may be gone before all of it was sent.
        let code = operator.post(Some(TOKEN), " ".repeat(5 << 20)).await.0;
        assert!(code == 413 || code == 0, "{code}");
        operator.alert("firing", json!({"alertname": "HighCpu", "namespace": "ml", "pod": "x"}), 0).await;
        assert_eq!(operator.metric(r#"remediation_alerts_total{outcome="unknown"}"#).await, 1.0);
        assert_eq!(operator.metric(r#"remediation_alerts_total{outcome="refused"}"#).await, 4.0);
        assert_eq!(operator.get("/livez").await.0, 200);
        assert_eq!(operator.get("/readyz").await.0, 200);
    });
}

#[test]
fn what_must_not_be_touched_is_not() {
    test("protected", |t| async move {
        let owned = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": true}]);
        let bare = t.bare("bare", json!({})).await;
        let job = t.bare("job", json!({"ownerReferences": owned("Job", "train")})).await;
        let opted = t
            .bare(
                "opted",
                json!({"ownerReferences": owned("StatefulSet", "db"), "annotations": {"onnxd.dev/remediate": "false"}}),
            )
            .await;
        let mirror = t.bare("mirror", json!({"ownerReferences": owned("StatefulSet", "x"), "annotations": {"kubernetes.io/config.mirror": "1"}})).await;
        // Two replicas of the operator itself.
        let myself = t.bare("operator", json!({"ownerReferences": owned("ReplicaSet", "me")})).await;
        let replica = t.bare("operator-2", json!({"ownerReferences": owned("ReplicaSet", "me")})).await;
        let target = t.bare("target", json!({"ownerReferences": owned("StatefulSet", "cart")})).await;
        let protected = [&bare, &job, &opted, &mirror, &myself, &replica];
        for pod in protected {
            t.crash_loop(&pod.name_any(), 50).await;
        }
        t.policy("web", json!({"conditions": {"crashLoop": {}}, "concurrent": 50, "budget": {"actions": 50}})).await;
        let _operator = t.operator().await;
        let event = t.event(&t.namespace, "NotRescheduled", "bare").await;
        assert!(event.note.expect("a note").contains("nothing would bring it back"));
        // Whoever is looked at after them shows that they were looked at.
        t.crash_loop("target", 5).await;
        t.gone(&target).await;
        for pod in protected {
            assert!(t.is_there(pod).await, "{}", pod.name_any());
        }
        assert_eq!(t.records("web").await.len(), 1);
    });
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    test("dry-run", |t| async move {
        let pods = t.deployment("shop", "dry-a", 1).await;
        t.policy("web", json!({"conditions": {"crashLoop": {}}, "dryRun": true})).await;
        let operator = t.operator().await;
        t.crash_loop(&pods[0].name_any(), 5).await;
        t.event(&t.namespace, "WouldReschedule", &pods[0].name_any()).await;
        assert!(t.is_there(&pods[0]).await);
        assert_eq!(t.records("web").await[0].outcome, Outcome::DryRun);
        assert_eq!(operator.metric(r#"remediation_actions_total{action="evict",outcome="dry_run"}"#).await, 1.0);
        // What was not done does not cool down, once it counts.
        let patch = json!({"spec": {"dryRun": false}});
        t.policies().patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("a change");
        t.gone(&pods[0]).await;
    });
}

#[test]
fn no_more_pods_are_in_replacement_than_the_policy_says() {
    test("concurrent", |t| async move {
        let shop = t.deployment("shop", "concurrent-a", 1).await;
        let cart = t.deployment("cart", "concurrent-a", 1).await;
        t.policy("web", json!({"conditions": {"crashLoop": {}}, "concurrent": 1})).await;
        let _operator = t.operator().await;
        t.crash_loop(&cart[0].name_any(), 5).await;
        t.gone(&cart[0]).await;
        // Its replacement is not ready yet.
        let replacement = t.of("cart", 1).await;
        t.crash_loop(&shop[0].name_any(), 5).await;
        t.condition("web", "Active", "ReplacementPending").await;
        assert!(t.is_there(&shop[0]).await);
        t.ready(&replacement[0].name_any()).await;
        t.gone(&shop[0]).await;
    });
}
