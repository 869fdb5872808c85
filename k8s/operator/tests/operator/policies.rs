//! The custom resource: its committed definition, what the API server refuses, what the operator refuses, and its end.

use std::path::Path;
use std::process::Command;

use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt};
use remediation_operator::policy::RemediationPolicy;
use remediation_operator::rules::Rules;
use serde_json::json;

use crate::cluster::{apply, documents};
use crate::fixture::{test, until};

#[test]
fn the_committed_definition_is_that_of_the_type() {
    let printed = Command::new(env!("CARGO_BIN_EXE_remediation-operator")).arg("crd").output().expect("it runs");
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).expect("text");
    expectorate::assert_contents(Path::new(env!("CARGO_MANIFEST_DIR")).join("crd.yaml"), &text);
}

#[test]
fn the_example_makes_sense_and_does_nothing_at_first() {
    let [example] = documents("policy.yaml").try_into().expect("one document");
    let policy: RemediationPolicy = serde_json::from_value(example).expect("a policy");
    let rules = Rules::read(&policy.spec).expect("it makes sense");
    assert!(rules.dry_run);
}

#[test]
fn the_api_server_takes_the_example_and_refuses_what_the_schema_forbids() {
    test("schema", |t| async move {
        let [mut example] = documents("policy.yaml").try_into().expect("one document");
        example["metadata"]["namespace"] = json!(t.namespace);
        apply(&t.admin, example.clone()).await;
        let spec = |change: serde_json::Value| {
            let mut policy = example.clone();
            policy["metadata"] = json!({"name": "bad"});
            for (key, value) in change.as_object().expect("an object") {
                policy["spec"][key] = value.clone();
            }
            policy
        };
        for (change, told) in [
            (json!({"conditions": {"notReady": {"for": "ten minutes"}}}), "spec.conditions.notReady.for"),
            (json!({"budget": {"per": "1.5h"}}), "spec.budget.per"),
            (json!({"budget": {"actions": 1000}}), "spec.budget.actions"),
            (json!({"concurrent": 0}), "spec.concurrent"),
            (json!({"action": "restart"}), "spec.action"),
            (json!({"cordon": {"share": 1.5}}), "spec.cordon.share"),
            (json!({"retraining": {"stateMachineArn": "retraining"}}), "spec.retraining.stateMachineArn"),
            (json!({"selector": null}), "spec.selector"),
        ] {
            let resource = kube::core::ApiResource::erase::<RemediationPolicy>(&());
            let api: Api<kube::core::DynamicObject> = Api::namespaced_with(t.admin.clone(), &t.namespace, &resource);
            let bad = serde_json::from_value(spec(change.clone())).expect("an object");
            let error = api.create(&PostParams::default(), &bad).await.expect_err("it is refused");
            assert!(error.to_string().contains(told), "{change}: {error}");
        }
        // Defaults are filled in by the server.
        t.policy("least", json!({"conditions": {"failed": true}})).await;
        let least = t.policies().get("least").await.expect("a policy").spec;
        assert_eq!((least.budget.actions, least.budget.per.0.as_str(), least.concurrent), (5, "1h", 1));
    });
}

#[test]
fn what_only_the_operator_can_see_is_told_by_a_condition() {
    test("invalid", |t| async move {
        t.policy("web", json!({"conditions": {"failed": true}, "coolDown": {"first": "7h", "most": "6h"}})).await;
        let operator = t.operator().await;
        let message = t.condition("web", "Ready", "Invalid").await;
        assert!(message.contains("spec.coolDown.first (7h) is longer than spec.coolDown.most (6h)"), "{message}");
        t.event(&t.namespace, "InvalidPolicy", "web").await;
        t.policy("web", json!({"conditions": {"failed": true}, "coolDown": {"first": "1h", "most": "6h"}})).await;
        t.condition("web", "Ready", "Valid").await;
        assert!(operator.metric(r#"remediation_reconciles_total{outcome="invalid"}"#).await >= 1.0);
    });
}

#[test]
fn a_node_of_anomalous_pods_is_cordoned_and_uncordoned_when_it_is_quiet() {
    test("cordon", |t| async move {
        t.node("cordon-a").await;
        t.node("cordon-b").await;
        let pods = t.deployment("shop", "cordon-a", 3).await;
        let cordon = json!({"share": 0.6, "pods": 3, "nodes": 100, "quiet": "2s"});
        let spec = json!({"conditions": {"anomalous": {"for": "1s"}}, "cordon": cordon, "budget": {"actions": 1}});
        t.policy("web", spec).await;
        let operator = t.operator().await;
        operator.leads().await;
        let alert = |pod: usize| json!({"namespace": t.namespace, "pod": pods[pod].name_any()});
        let node = || async { t.nodes().get("cordon-a").await.expect("the node") };
        let unschedulable = || async { node().await.spec.and_then(|s| s.unschedulable).unwrap_or(false) };
        // Both in one message; the budget is for the cordon or for an eviction, and the node comes first.
        let firing = [0, 1].map(|pod| {
            let mut labels = alert(pod);
            labels["alertname"] = json!("AnomalyDetected");
            json!({"status": "firing", "labels": labels, "startsAt": "2026-01-01T00:00:00Z"})
        });
        let both = json!({"version": "4", "alerts": firing});
        assert_eq!(operator.post(Some(crate::fixture::TOKEN), both.to_string()).await.0, 200);
        until("the node is cordoned", || async { unschedulable().await.then_some(()) }).await;
        assert_eq!(node().await.annotations()["onnxd.dev/cordoned-by"], format!("{}/web", t.namespace));
        let event = t.event("default", "Cordoned", "cordon-a").await;
        assert_eq!(event.note.as_deref(), Some("2 of its 3 selected pods are anomalous"));
        until("the status names it", || async {
            t.status("web").await.cordoned.pop().filter(|c| c.quiet_since.is_none())
        })
        .await;
        for pod in [0, 1] {
            operator.alert("resolved", alert(pod), 0).await;
        }
        until("the node is uncordoned", || async { (!unschedulable().await).then_some(()) }).await;
        assert!(!node().await.annotations().contains_key("onnxd.dev/cordoned-by"));
        t.event("default", "Uncordoned", "cordon-a").await;
    });
}

#[test]
fn nodes_that_others_have_cordoned_stay_so() {
    test("foreign", |t| async move {
        t.node("foreign-a").await;
        apply(&t.admin, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "foreign-a"}, "spec": {"unschedulable": true}})).await;
        t.node("foreign-b").await;
        let pods = t.deployment("shop", "foreign-b", 1).await;
        t.policy("web", json!({"conditions": {"anomalous": {"for": "1s"}}, "cordon": {"pods": 1, "nodes": 100, "quiet": "10m"}, "budget": {"actions": 1}})).await;
        let operator = t.operator().await;
        operator.leads().await;
        operator.alert("firing", json!({"namespace": t.namespace, "pod": pods[0].name_any()}), 60).await;
        let unschedulable = |name: &'static str| {
            let nodes = t.nodes();
            async move { nodes.get(name).await.expect("the node").spec.and_then(|s| s.unschedulable).unwrap_or(false) }
        };
        until("the node is cordoned", || async { unschedulable("foreign-b").await.then_some(()) }).await;
        // The policy is deleted: its finalizer lets it go when its own node is free again.
        t.policies().delete("web", &DeleteParams::default()).await.expect("it is deleted");
        until("the policy is gone", || async {
            t.policies().get_opt("web").await.expect("an answer").is_none().then_some(())
        })
        .await;
        assert!(!unschedulable("foreign-b").await, "before the policy is gone");
        assert!(unschedulable("foreign-a").await, "a person has cordoned it");
        let series = format!(r#"remediation_budget_left{{namespace="{}",policy="web"}}"#, t.namespace);
        until("its series are gone", || async { (!operator.get("/metrics").await.1.contains(&series)).then_some(()) })
            .await;
    });
}
