//! The custom resource `RemediationPolicy`, as people write it. What its texts mean is in [`crate::rules`].
//!
//! Doc comments of fields become the descriptions in `crd.yaml`, which `remediation-operator crd` prints.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time as people write it: `90s`, `10m`, `1h30m`, `2d`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Span(pub String);

impl Span {
    fn of(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^([0-9]{1,6}(s|m|h|d))+$", "maxLength": 32})
    }
}

/// Reschedules pods of its namespace that fail, or that the model finds anomalous, within a budget.
#[expect(clippy::duplicated_attributes, reason = "columns of one type")]
#[derive(Clone, CustomResource, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[kube(
    group = "onnxd.dev",
    version = "v1alpha1",
    kind = "RemediationPolicy",
    plural = "remediationpolicies",
    shortname = "remedy",
    namespaced,
    status = "RemediationStatus",
    derive = "PartialEq",
    doc = "Reschedules pods of its namespace that fail, or that the model finds anomalous, within a budget.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.conditions[?(@.type==\"Active\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Active\")].reason"),
    printcolumn(name = "Dry run", type_ = "boolean", json_path = ".spec.dryRun"),
    printcolumn(name = "Last action", type_ = "date", json_path = ".status.lastAction"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RemediationPolicySpec {
    /// Which pods of the policy's namespace it is for. An empty selector selects all of them.
    pub selector: LabelSelector,
    /// What counts as a failure. At least one is needed; what is left out does not count.
    pub conditions: Conditions,
    /// What is done with a pod that fails.
    #[serde(default)]
    pub action: Action,
    /// How much may be done: evictions, deletions and cordons together.
    #[serde(default)]
    pub budget: Budget,
    /// How many of the selected pods may be in replacement at once: on their way out, or not ready in their new place.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub concurrent: u32,
    /// How long a workload is left alone after one of its pods was evicted.
    #[serde(default)]
    pub cool_down: CoolDown,
    /// Decide, count and tell what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Keep new pods off a node on which most of the selected pods are anomalous. Needs `conditions.anomalous`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordon: Option<Cordon>,
    /// Start the retraining state machine when anomalies persist on many series: then the model is wrong, not the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retraining: Option<Retraining>,
}

/// What counts as a failure.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    /// A container waits in CrashLoopBackOff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_loop: Option<CrashLoop>,
    /// Containers were killed for memory again and again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<OomKilled>,
    /// The kubelet evicted the pod (node pressure). What is left of it is deleted.
    #[serde(default)]
    pub evicted: bool,
    /// The pod has failed for good, for another reason. What is left of it is deleted.
    #[serde(default)]
    pub failed: bool,
    /// The pod runs and is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_ready: Option<NotReady>,
    /// The pod's node does not answer any more: its condition Ready is Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_lost: Option<NodeLost>,
    /// The alert AnomalyDetected fires for the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomalous: Option<Anomalous>,
}

/// A container waits in CrashLoopBackOff.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CrashLoop {
    /// How often it has been restarted, at least.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 1000))]
    pub restarts: u32,
}

/// Containers were killed for memory again and again.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct OomKilled {
    /// How often, at least. Kills are counted from when the operator first sees them.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 20))]
    pub times: u32,
    /// In what time, at most 1d.
    #[serde(default = "hour")]
    pub within: Span,
}

/// The pod runs and is not ready.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct NotReady {
    /// For how long, at least.
    #[serde(default = "ten_minutes")]
    pub r#for: Span,
}

/// The pod's node does not answer any more.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct NodeLost {
    /// For how long, at least.
    #[serde(default = "five_minutes")]
    pub r#for: Span,
}

/// The alert AnomalyDetected fires for the pod.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Anomalous {
    /// For how long, at least; never longer than the pod exists.
    #[serde(default = "two_minutes")]
    pub r#for: Span,
}

/// What is done with a pod that fails.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Evict it, so that its controller makes another one. One that is finished is deleted instead.
    #[default]
    Reschedule,
}

/// How much may be done.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Budget {
    /// How many actions, in any span of this length.
    #[serde(default = "five")]
    #[schemars(range(min = 0, max = 100))]
    pub actions: u32,
    /// The length of the span, at most 30d.
    #[serde(default = "hour")]
    pub per: Span,
}

impl Default for Budget {
    fn default() -> Self {
        Self { actions: five(), per: hour() }
    }
}

/// How long a workload is left alone after one of its pods was evicted. It doubles each time that it fails again.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CoolDown {
    /// After the first eviction.
    #[serde(default = "ten_minutes")]
    pub first: Span,
    /// At most; and how long after a cool-down it must go well before the next one is the first again. At most 30d.
    #[serde(default = "six_hours")]
    pub most: Span,
}

impl Default for CoolDown {
    fn default() -> Self {
        Self { first: ten_minutes(), most: six_hours() }
    }
}

/// When a node is cordoned.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Cordon {
    /// Which share of the selected pods on the node is anomalous, at least: above 0, at most 1.
    #[serde(default = "half")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub share: f64,
    /// How many selected pods run on the node, at least.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 1000))]
    pub pods: u32,
    /// How many nodes may be cordoned by this operator at once.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub nodes: u32,
    /// For how long none of its selected pods may be anomalous before it is uncordoned.
    #[serde(default = "half_hour")]
    pub quiet: Span,
}

/// When retraining is started.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retraining {
    /// The ARN of the Step Functions state machine.
    #[schemars(regex(pattern = r"^arn:aws[a-z-]*:states:[a-z0-9-]+:[0-9]{12}:stateMachine:[A-Za-z0-9_-]{1,80}$"))]
    pub state_machine_arn: String,
    /// On how many series (selected pods, and the nodes that they run on) anomalies fire, at least.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 10000))]
    pub series: u32,
    /// For how long, at least.
    #[serde(default = "hour")]
    pub after: Span,
    /// How long after a start there is no other.
    #[serde(default = "day")]
    pub cool_down: Span,
}

/// What the operator remembers and tells.
///
/// The history lies here, and not in memory or in annotations of pods, because it must survive a restart, a change of the
/// leader and the pods themselves, and because one write with the resource's version claims an action for one leader only.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemediationStatus {
    /// The generation of the spec that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready: the spec makes sense. Active: something fails, and why it is or is not acted upon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When something was last done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_action: Option<Time>,
    /// Since when anomalies have fired on as many series as `spec.retraining` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anomalous_since: Option<Time>,
    /// What was done, oldest first: all that the budget and the cool-downs still need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub actions: Vec<Record>,
    /// The nodes that this policy has cordoned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cordoned: Vec<Cordoned>,
}

/// One thing that was done. Written before it is done: an operator that dies in between has used the budget for nothing.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When.
    pub at: Time,
    /// What.
    pub action: Verb,
    /// The pod, node or execution.
    pub target: String,
    /// The uid of the pod or node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// What cools down: `Deployment/name`, `Node/name`, `StateMachine/name`; `Pod/name` for a finished pod.
    pub subject: String,
    /// Why, in words.
    pub reason: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The how many-th time in a row the subject was acted upon.
    #[schemars(range(min = 0))]
    pub times: u32,
    /// How often in a row this was tried in vain.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub tries: u32,
    /// The subject is left alone before this time.
    pub until: Time,
}

/// What can be done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Verb {
    /// A pod, by the Eviction API.
    Evict,
    /// A finished pod.
    Delete,
    /// A node.
    Cordon,
    /// A node that was cordoned by this policy.
    Uncordon,
    /// An execution of the state machine is started.
    Retrain,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Evict, Self::Delete, Self::Cordon, Self::Uncordon, Self::Retrain];
}

/// How an action ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub enum Outcome {
    /// It is about to be done. If the operator dies now, it stays so.
    Claimed,
    /// It was done.
    Done,
    /// It would have been done.
    DryRun,
    /// It was certainly not done: a PodDisruptionBudget does not allow it now, or the pod has changed.
    Refused,
    /// An error: it may have been done.
    Failed,
}

/// A node that this policy has cordoned.
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cordoned {
    /// Its name.
    pub node: String,
    /// Since when none of its selected pods has been anomalous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_since: Option<Time>,
}

fn one() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn five() -> u32 {
    5
}

fn half() -> f64 {
    0.5
}

fn two_minutes() -> Span {
    Span::of("2m")
}

fn five_minutes() -> Span {
    Span::of("5m")
}

fn ten_minutes() -> Span {
    Span::of("10m")
}

fn half_hour() -> Span {
    Span::of("30m")
}

fn hour() -> Span {
    Span::of("1h")
}

fn six_hours() -> Span {
    Span::of("6h")
}

fn day() -> Span {
    Span::of("1d")
}
