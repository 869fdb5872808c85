//! The operator's process: it dies, there are two of it, its rights end, the API server is away, and it starts retraining.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use remediation_operator::act::{Actor, Ended};
use remediation_operator::decide::Planned;
use remediation_operator::policy::{Outcome, Record, Verb};
use remediation_operator::retrain::Retrain;
use remediation_operator::rules::Rules;
use serde_json::json;

use crate::cluster::{USER, cluster, say};
use crate::fixture::{Test, ago, count, test, until};

#[test]
fn the_budget_survives_the_death_of_the_operator() {
    test("death", |t| async move {
        let mut pods = Vec::new();
        for name in ["a", "b", "c"] {
            pods.extend(t.deployment(name, "death-a", 1).await);
        }
        let spec = json!({"conditions": {"crashLoop": {}}, "budget": {"actions": 2, "per": "1h"}, "concurrent": 10});
        t.policy("web", spec).await;
        let mut operator = t.operator().await;
        t.crash_loop(&pods[0].name_any(), 5).await;
        t.gone(&pods[0]).await;
        operator.kill();
        t.crash_loop(&pods[1].name_any(), 5).await;
        t.crash_loop(&pods[2].name_any(), 5).await;
        let operator = t.operator().await;
        t.condition("web", "Active", "BudgetSpent").await;
        t.event(&t.namespace, "BudgetSpent", "web").await;
        let left = [t.is_there(&pods[1]).await, t.is_there(&pods[2]).await];
        assert_eq!(left.iter().filter(|there| **there).count(), 1, "one more, and no other");
        assert_eq!(count(&t.records("web").await, Verb::Evict), 2);
        assert_eq!(operator.metric(r#"remediation_actions_total{action="evict",outcome="budget"}"#).await, 1.0);
    });
}

#[test]
fn a_follower_takes_over_when_the_leader_dies_and_at_once_when_it_ends() {
    test("leaders", |t| async move {
        let pods = t.deployment("shop", "leaders-a", 1).await;
        t.policy(
            "web",
            json!({"conditions": {"crashLoop": {}}, "coolDown": {"first": "1s", "most": "1s"}, "concurrent": 10}),
        )
        .await;
        let short = [("REMEDIATION_LEASE_DURATION", "6s")];
        let mut first = t.operator_with("first", &short).await;
        first.leads().await;
        let second = t.operator_with("second", &short).await;
        until("the second one is ready", || async { (second.get("/readyz").await.0 == 200).then_some(()) }).await;
        assert_eq!(second.metric("remediation_leader").await, 0.0);
        let message = json!({"version": "4", "alerts": []}).to_string();
        let (code, text) = second.post(Some(crate::fixture::TOKEN), message).await;
        assert_eq!(code, 503, "{text}");
        t.crash_loop(&pods[0].name_any(), 5).await;
        t.gone(&pods[0]).await;
        assert_eq!(acted(&second), 0, "a follower does nothing");
        first.kill();
        let before = Instant::now();
        while second.metric("remediation_leader").await == 0.0 {
            assert_eq!(first.metric("remediation_leader").await, 0.0);
            assert!(before.elapsed() < Duration::from_secs(60), "nobody leads");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let next = t.of("shop", 1).await;
        t.crash_loop(&next[0].name_any(), 5).await;
        t.gone(&next[0]).await;
        // One that ends in order does not let the other one wait: here, for a minute.
        drop(second);
        let lasting = [("REMEDIATION_LEASE_DURATION", "60s")];
        clear_lease(&t).await;
        let mut third = t.operator_with("third", &lasting).await;
        third.leads().await;
        let fourth = t.operator_with("fourth", &lasting).await;
        until("the fourth one is ready", || async { (fourth.get("/readyz").await.0 == 200).then_some(()) }).await;
        third.terminate();
        let ended = third.child.wait().expect("its end");
        assert!(ended.success(), "{ended}: {:?}", third.lines());
        let begin = Instant::now();
        fourth.leads().await;
        assert!(begin.elapsed() < Duration::from_secs(30), "it waited for {:?}", begin.elapsed());
    });
}

/// Lines of the log that say that something was done.
fn acted(operator: &crate::fixture::Operator) -> usize {
    operator.lines().iter().filter(|line| line.contains(r#""message":"acted""#)).count()
}

async fn clear_lease(t: &Test) {
    let leases: Api<Lease> = Api::namespaced(t.admin.clone(), &t.namespace);
    leases.delete("remediation-operator", &kube::api::DeleteParams::default()).await.expect("it is deleted");
}

#[test]
fn a_leader_that_lost_its_lease_stops_at_once() {
    test("usurped", |t| async move {
        let pods = t.deployment("shop", "usurped-a", 1).await;
        t.policy("web", json!({"conditions": {"crashLoop": {}}})).await;
        let operator = t.operator().await;
        operator.leads().await;
        t.condition("web", "Active", "Quiet").await;
        let leases: Api<Lease> = Api::namespaced(t.admin.clone(), &t.namespace);
        let usurp = json!({"spec": {"holderIdentity": "somebody else", "leaseDurationSeconds": 3600, "renewTime": ago(0).replace('Z', ".000000Z")}});
        leases.patch("remediation-operator", &PatchParams::default(), &Patch::Merge(&usurp)).await.expect("a change");
        until("it leads no more", || async { (operator.metric("remediation_leader").await == 0.0).then_some(()) })
            .await;
        t.crash_loop(&pods[0].name_any(), 5).await;
        // It goes on watching, and does nothing. What shows that is the next leader, which does it.
        assert_eq!(acted(&operator), 0);
        let free = json!({"spec": {"holderIdentity": ""}});
        leases.patch("remediation-operator", &PatchParams::default(), &Patch::Merge(&free)).await.expect("a change");
        t.gone(&pods[0]).await;
    });
}

async fn operators_client() -> Client {
    let kubeconfig = Kubeconfig::read_from(&cluster().expect("a cluster").kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a config");
    Client::try_from(config).expect("a client")
}

#[test]
fn the_operators_rights_are_those_in_the_file_and_no_others() {
    test("rights", |t| async move {
        let client = operators_client().await;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &t.namespace);
        assert!(forbidden(secrets.list(&ListParams::default()).await), "Secrets");
        let nodes: Api<Node> = Api::all(client.clone());
        assert!(forbidden(nodes.delete("any", &kube::api::DeleteParams::default()).await), "deleting nodes");
        let pods: Api<k8s_openapi::api::core::v1::Pod> = Api::namespaced(client.clone(), &t.namespace);
        assert!(forbidden(pods.get("any").await), "it watches, and does not need get");
        let patch = json!({"metadata": {"labels": {"a": "b"}}});
        assert!(forbidden(pods.patch("any", &PatchParams::default(), &Patch::Merge(&patch)).await), "changing pods");
        let leases: Api<Lease> = Api::namespaced(client.clone(), "ml");
        assert!(forbidden(leases.get("another").await), "other Leases");
        let kept: Vec<_> = pods.list(&ListParams::default()).await.expect("it may list pods").items;
        assert!(kept.is_empty());
        // The rules, as the server sees them for this user, are the rules in the file.
        for (verb, group, resource, sub, allowed) in [
            ("create", "", "pods", "eviction", true),
            ("create", "", "pods", "exec", false),
            ("create", "", "pods", "", false),
            ("patch", "", "nodes", "", true),
            ("update", "onnxd.dev", "remediationpolicies", "status", true),
            ("update", "onnxd.dev", "remediationpolicies", "", false),
            ("delete", "onnxd.dev", "remediationpolicies", "", false),
            ("create", "events.k8s.io", "events", "", true),
            ("get", "apps", "replicasets", "", false),
        ] {
            let review = serde_json::from_value(json!({"metadata": {}, "spec": {"user": USER, "resourceAttributes":
                {"namespace": t.namespace, "verb": verb, "group": group, "resource": resource, "subresource": sub, "name": "x"}}}))
            .expect("a review");
            let api: Api<k8s_openapi::api::authorization::v1::SubjectAccessReview> = Api::all(t.admin.clone());
            let answer = api.create(&PostParams::default(), &review).await.expect("an answer");
            assert_eq!(answer.status.expect("a status").allowed, allowed, "{verb} {group}/{resource}/{sub}");
        }
    });
}

fn forbidden<T>(answer: kube::Result<T>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.is_forbidden())
}

/// What was decided on a pod that is another one by now, or has changed, is not done. Without that the name alone would count.
#[test]
fn an_eviction_is_for_the_pod_that_it_was_decided_on() {
    test("preconditions", |t| async move {
        let pods = t.deployment("shop", "preconditions-a", 1).await;
        let pod = t.pods().get(&pods[0].name_any()).await.expect("the pod");
        let spec = serde_json::from_value(json!({"selector": {}, "conditions": {"failed": true}})).expect("a spec");
        let rules = Rules::read(&spec).expect("rules");
        let (client, retrain) = (operators_client().await, Retrain::new(None));
        let patience = Duration::from_secs(10);
        let actor =
            Actor { client: &client, namespace: &t.namespace, name: "web", rules: &rules, retrain: &retrain, patience };
        let planned = |action, uid: Option<String>, version: &str| Planned {
            record: Record {
                at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()),
                action,
                target: pod.name_any(),
                uid,
                subject: "Deployment/shop".into(),
                reason: String::new(),
                outcome: Outcome::Claimed,
                times: 1,
                tries: 0,
                until: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(k8s_openapi::jiff::Timestamp::now()),
            },
            version: version.to_owned(),
        };
        let version = pod.resource_version().expect("a version");
        for verb in [Verb::Evict, Verb::Delete] {
            assert_eq!(actor.act(&planned(verb, Some("another".into()), &version)).await, Ended::Changed);
            assert_eq!(actor.act(&planned(verb, pod.uid(), "1")).await, Ended::Changed);
        }
        assert!(t.is_there(&pod).await);
        assert_eq!(actor.act(&planned(Verb::Evict, pod.uid(), &version)).await, Ended::Done);
        t.gone(&pod).await;
    });
}

#[test]
fn an_api_server_that_is_away_is_waited_for() {
    test("away", |t| async move {
        // Nothing listens there.
        let folder = tempfile::tempdir().expect("a folder");
        let text = std::fs::read_to_string(&t.cluster.kubeconfig).expect("a kubeconfig");
        let away = folder.path().join("kubeconfig");
        std::fs::write(&away, text.replace(&t.cluster.url, "https://127.0.0.1:9")).expect("a file");
        let away = away.to_string_lossy().into_owned();
        let operator = t.operator_with("operator", &[("KUBECONFIG", &away)]).await;
        until("it says so", || async {
            operator.lines().iter().any(|line| line.contains("does not tell what there is")).then_some(())
        })
        .await;
        assert_eq!(operator.get("/livez").await.0, 200);
        assert_eq!(operator.get("/readyz").await.0, 503);
    });
}

/// moto, for as long as this process lives.
fn step_functions() -> Option<(Child, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the repository");
    let python = root.join(".venv/bin/python");
    if !python.is_file() {
        say(&format!("retraining was NOT tested: {} does not exist, `make test` makes it", python.display()));
        return None;
    }
    let mut server = Command::new(python)
        .arg(root.join("server/tests/s3_server.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("its output")).read_line(&mut port).expect("a port");
    Some((server, format!("http://127.0.0.1:{}", port.trim())))
}

async fn states(endpoint: &str, operation: &str, body: serde_json::Value) -> serde_json::Value {
    let answer = reqwest::Client::new()
        .post(endpoint)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("AWSStepFunctions.{operation}"))
        .header(
            "authorization",
            "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/states/aws4_request, SignedHeaders=host, Signature=0",
        )
        .body(body.to_string())
        .send()
        .await
        .expect("an answer");
    serde_json::from_str(&answer.text().await.expect("text")).expect("JSON")
}

#[test]
fn persistent_anomalies_start_retraining_once() {
    let Some((_server, endpoint)) = step_functions() else { return };
    test("retraining", |t| async move {
        let definition = json!({"StartAt": "Ended", "States": {"Ended": {"Type": "Succeed"}}}).to_string();
        let role = "arn:aws:iam::123456789012:role/retraining";
        let made = json!({"name": "retraining", "definition": definition, "roleArn": role});
        let arn =
            states(&endpoint, "CreateStateMachine", made).await["stateMachineArn"].as_str().expect("an ARN").to_owned();
        t.node("retraining-a").await;
        let pods = t.deployment("shop", "retraining-a", 2).await;
        let retraining = json!({"stateMachineArn": arn, "series": 3, "after": "2s", "coolDown": "1d"});
        t.policy("web", json!({"conditions": {"failed": true}, "retraining": retraining})).await;
        let environment = [
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("REMEDIATION_SFN_ENDPOINT", &endpoint),
        ];
        let mut operator = t.operator_with("operator", &environment).await;
        operator.leads().await;
        let fire = async |operator: &crate::fixture::Operator, nodes: bool| {
            for pod in &pods {
                operator.alert("firing", json!({"namespace": t.namespace, "pod": pod.name_any()}), 60).await;
            }
            if nodes {
                operator.alert("firing", json!({"node": "retraining-a"}), 60).await;
            }
        };
        fire(&operator, false).await;
        assert!(t.status("web").await.anomalous_since.is_none(), "two series are not three");
        fire(&operator, true).await;
        t.event(&t.namespace, "RetrainingStarted", "web").await;
        let list = || states(&endpoint, "ListExecutions", json!({"stateMachineArn": arn}));
        let executions = list().await["executions"].as_array().expect("executions").clone();
        assert_eq!(executions.len(), 1);
        let described =
            states(&endpoint, "DescribeExecution", json!({"executionArn": executions[0]["executionArn"]})).await;
        let input: serde_json::Value =
            serde_json::from_str(described["input"].as_str().expect("an input")).expect("JSON");
        assert_eq!(input["trigger"]["kind"], "alert");
        assert!(input["trigger"]["reason"].as_str().expect("a reason").starts_with("anomalies on 3 series"), "{input}");
        assert!(input["trigger"]["at"].as_str().expect("a time").ends_with('Z'), "{input}");
        // Its successor does not know whether the start went well: it asks for the same execution again, which is one.
        operator.kill();
        let mut status = t.status("web").await;
        let record = status.actions.iter_mut().find(|r| r.action == Verb::Retrain).expect("a record");
        record.outcome = Outcome::Claimed;
        let patch = json!({"status": {"actions": status.actions}});
        t.policies().patch_status("web", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("a status");
        let operator = t.operator_with("operator", &environment).await;
        operator.leads().await;
        fire(&operator, true).await;
        until("it is known to have been started", || async {
            let records = t.records("web").await;
            records.iter().all(|r| r.outcome == Outcome::Done).then_some(())
        })
        .await;
        assert_eq!(count(&t.records("web").await, Verb::Retrain), 1);
        assert_eq!(list().await["executions"].as_array().expect("executions").len(), 1);
    });
}
