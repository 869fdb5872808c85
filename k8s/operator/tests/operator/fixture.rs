//! A namespace with pods in any state, and operators that look at it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use remediation_operator::policy::{Record, RemediationPolicy, RemediationStatus, Verb};
use serde_json::{Value, json};

use crate::cluster::{Cluster, apply, cluster, documents};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);
pub const TOKEN: &str = "a-token-of-alertmanager";

/// The namespace of one test.
pub struct Test {
    pub cluster: &'static Cluster,
    pub namespace: String,
    pub admin: Client,
    folder: tempfile::TempDir,
}

/// Runs a test in a namespace of its own, unless there is no cluster.
pub fn test<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Arc<Test>) -> F) {
    let Some(cluster) = cluster() else { return };
    let namespace = format!("test-{name}");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), TOKEN).expect("a token");
    let test = Arc::new(Test { cluster, namespace, admin: cluster.admin.clone(), folder });
    cluster.runtime.block_on(async {
        test.prepare().await;
        body(Arc::clone(&test)).await;
    });
}

/// Waits until `look` finds something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub fn ago(seconds: i64) -> String {
    let at = Timestamp::from_second(Timestamp::now().as_second() - seconds).expect("a time");
    at.to_string()
}

impl Test {
    async fn prepare(&self) {
        apply(&self.admin, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}))
            .await;
        // The Lease of a test's operators lies in its namespace: the same Role and binding there.
        for mut document in documents("rbac.yaml") {
            if document["kind"] == "Role" || document["kind"] == "RoleBinding" {
                document["metadata"]["namespace"] = json!(self.namespace);
                apply(&self.admin, document).await;
            }
        }
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    pub fn policies(&self) -> Api<RemediationPolicy> {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.admin.clone())
    }

    pub async fn apply(&self, mut object: Value) {
        if object["metadata"]["namespace"].is_null() {
            object["metadata"]["namespace"] = json!(self.namespace);
        }
        apply(&self.admin, object).await;
    }

    /// A policy for the pods of `app: web`, with short cool-downs.
    pub async fn policy(&self, name: &str, spec: Value) {
        let mut whole = json!({"selector": {"matchLabels": {"app": "web"}}, "coolDown": {"first": "1h", "most": "6h"}});
        for (key, value) in spec.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        self.apply(json!({"apiVersion": "onnxd.dev/v1alpha1", "kind": "RemediationPolicy", "metadata": {"name": name}, "spec": whole})).await;
    }

    pub async fn status(&self, policy: &str) -> RemediationStatus {
        self.policies().get(policy).await.expect("the policy").status.unwrap_or_default()
    }

    pub async fn records(&self, policy: &str) -> Vec<Record> {
        self.status(policy).await.actions
    }

    /// Waits for a condition of the policy, by type and reason.
    pub async fn condition(&self, policy: &str, type_: &str, reason: &str) -> String {
        until(&format!("{policy} is {type_}: {reason}"), || async {
            let conditions = self.status(policy).await.conditions;
            conditions.into_iter().find(|c| c.type_ == type_ && c.reason == reason).map(|c| c.message)
        })
        .await
    }

    /// A Deployment whose pods are bound to `node`, and ready.
    pub async fn deployment(&self, name: &str, node: &str, replicas: usize) -> Vec<Pod> {
        let labels = json!({"app": "web", "of": name});
        self.apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"of": name}}, "template": {
                "metadata": {"labels": labels},
                "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": [{"name": "app", "image": "app"}]}}},
        }))
        .await;
        let pods = self.of(name, replicas).await;
        for pod in &pods {
            self.ready(&pod.name_any()).await;
        }
        pods
    }

    /// The pods of a Deployment, as soon as there are so many.
    pub async fn of(&self, name: &str, replicas: usize) -> Vec<Pod> {
        until(&format!("{replicas} pods of {name}"), || async {
            let pods =
                self.pods().list(&ListParams::default().labels(&format!("of={name}"))).await.expect("pods").items;
            let alive: Vec<Pod> = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
            (alive.len() == replicas).then_some(alive)
        })
        .await
    }

    /// Waits until a pod is gone.
    pub async fn gone(&self, pod: &Pod) {
        until(&format!("{} is gone", pod.name_any()), || async {
            let now = self.pods().get_opt(&pod.name_any()).await.expect("an answer");
            now.is_none_or(|now| now.uid() != pod.uid()).then_some(())
        })
        .await;
    }

    pub async fn is_there(&self, pod: &Pod) -> bool {
        let now = self.pods().get_opt(&pod.name_any()).await.expect("an answer");
        now.is_some_and(|now| now.uid() == pod.uid() && now.metadata.deletion_timestamp.is_none())
    }

    pub async fn pod_status(&self, pod: &str, status: Value) {
        let patch = json!({"status": status});
        self.pods().patch_status(pod, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a status");
    }

    pub async fn ready(&self, pod: &str) {
        let condition = json!({"type": "Ready", "status": "True", "lastTransitionTime": ago(0)});
        self.pod_status(pod, json!({"phase": "Running", "conditions": [condition]})).await;
    }

    pub async fn not_ready(&self, pod: &str, seconds: i64) {
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": ago(seconds)});
        self.pod_status(pod, json!({"phase": "Running", "conditions": [condition]})).await;
    }

    pub async fn crash_loop(&self, pod: &str, restarts: u32) {
        let container = json!({"name": "app", "image": "app", "imageID": "", "ready": false, "restartCount": restarts,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": ago(0)});
        self.pod_status(pod, json!({"phase": "Running", "conditions": [condition], "containerStatuses": [container]}))
            .await;
    }

    pub async fn node(&self, name: &str) {
        apply(&self.admin, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})).await;
        self.node_ready(name, "True", 0).await;
    }

    pub async fn node_ready(&self, name: &str, status: &str, seconds: i64) {
        let condition = json!({"type": "Ready", "status": status, "lastTransitionTime": ago(seconds)});
        let patch = json!({"status": {"conditions": [condition]}});
        self.nodes().patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a status");
    }

    /// A pod without anything that would bring it back, unless `owner` says so.
    pub async fn bare(&self, name: &str, extra: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "nowhere", "terminationGracePeriodSeconds": 0, "containers": [{"name": "app", "image": "app"}]}});
        for (key, value) in extra.as_object().expect("an object") {
            pod["metadata"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("a pod")
    }

    /// The Events about an object, by reason.
    pub async fn events(&self, namespace: &str, reason: &str, about: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), namespace);
        let all = events.list(&ListParams::default()).await.expect("events").items;
        let about = |event: &Event| event.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(about);
        all.into_iter().filter(|event| event.reason.as_deref() == Some(reason) && about(event)).collect()
    }

    pub async fn event(&self, namespace: &str, reason: &str, about: &str) -> Event {
        until(&format!("the Event {reason} about {about}"), || async {
            self.events(namespace, reason, about).await.into_iter().next()
        })
        .await
    }

    /// Starts an operator for this namespace.
    pub async fn operator(&self) -> Operator {
        self.operator_with("operator", &[]).await
    }

    /// One with another pod's name, or other settings.
    pub async fn operator_with(&self, name: &str, environment: &[(&str, &str)]) -> Operator {
        let mut child = Command::new(env!("CARGO_BIN_EXE_remediation-operator"))
            .args(["run", "--ops", "127.0.0.1:0", "--namespace", &self.namespace])
            .args(["--lease-namespace", &self.namespace, "--log", "remediation_operator=debug,warn"])
            .arg("--token-file")
            .arg(self.folder.path().join("token"))
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .env("POD_NAMESPACE", &self.namespace)
            .env("POD_NAME", name)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the operator starts");
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().expect("its log"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut lines = lines.lock().expect("a log");
                lines.push_back(line);
                if lines.len() > 2000 {
                    lines.pop_front();
                }
            }
        });
        let mut operator = Operator { child, url: String::new(), log };
        operator.url = until("the operator's address", || {
            let address = operator.lines().iter().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                (line["message"] == "operations").then(|| line["address"].as_str().map(|a| format!("http://{a}")))?
            });
            async move { address }
        })
        .await;
        operator
    }
}

impl Drop for Test {
    /// What other tests would have to wait for.
    fn drop(&mut self) {
        let (admin, namespace) = (self.admin.clone(), self.namespace.clone());
        self.cluster.runtime.spawn(async move {
            let deployments: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(admin, &namespace);
            let _ = deployments.delete_collection(&DeleteParams::default(), &ListParams::default()).await;
        });
    }
}

/// A running operator. It is killed, as by SIGKILL, when it goes out of scope.
pub struct Operator {
    pub child: Child,
    pub url: String,
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Operator {
    pub fn lines(&self) -> Vec<String> {
        self.log.lock().expect("a log").iter().cloned().collect()
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let Ok(answer) = http().get(format!("{}{path}", self.url)).send().await else { return (0, String::new()) };
        (answer.status().as_u16(), answer.text().await.unwrap_or_default())
    }

    /// The value of a series on its page, 0 if it is not there.
    pub async fn metric(&self, series: &str) -> f64 {
        let page = self.get("/metrics").await.1;
        let value = page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    pub async fn leads(&self) {
        until("the operator leads", || async { (self.metric("remediation_leader").await > 0.0).then_some(()) }).await;
    }

    pub async fn post(&self, token: Option<&str>, body: String) -> (u16, String) {
        let mut request = http().post(format!("{}/alerts", self.url)).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// What Alertmanager sends.
    pub async fn alert(&self, status: &str, labels: Value, since: i64) {
        let mut all = json!({"alertname": "AnomalyDetected", "severity": "warning"});
        for (key, value) in labels.as_object().expect("an object") {
            all[key] = value.clone();
        }
        let body = json!({"version": "4", "groupKey": "{}", "status": status, "receiver": "remediation-operator", "alerts": [
            {"status": status, "labels": all, "annotations": {}, "startsAt": ago(since), "endsAt": "0001-01-01T00:00:00Z",
             "fingerprint": "1"}]});
        let (code, text) = self.post(Some(TOKEN), body.to_string()).await;
        assert_eq!(code, 200, "{text}");
    }

    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("a signal");
        self.child.wait().expect("its end");
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the operator's log\n{}", self.lines().join("\n"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection for each request: a refusal closes it.
fn http() -> &'static reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    let client = || reqwest::Client::builder().timeout(Duration::from_secs(10)).pool_max_idle_per_host(0).build();
    CLIENT.get_or_init(|| client().expect("a client"))
}

pub fn count(records: &[Record], verb: Verb) -> usize {
    records.iter().filter(|record| record.action == verb).count()
}
