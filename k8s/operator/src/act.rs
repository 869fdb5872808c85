//! Does what was decided and claimed: one request each, with the identity and the version of what it was decided on.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::decide::Planned;
use crate::facts::CORDONED_BY;
use crate::policy::{Outcome, Verb};
use crate::retrain::Retrain;
use crate::rules::Rules;

/// How an action ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// It was done, or what it was for is gone.
    Done,
    /// A PodDisruptionBudget does not allow it now.
    Refused(String),
    /// What it was decided on has changed: it was not done.
    Changed,
    /// Anything else: it may have been done.
    Failed(String),
}

impl Ended {
    /// As the record says it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Done => Outcome::Done,
            Self::Refused(_) | Self::Changed => Outcome::Refused,
            Self::Failed(_) => Outcome::Failed,
        }
    }
}

/// Acts for one policy.
pub struct Actor<'a> {
    /// The API server.
    pub client: &'a Client,
    /// The policy's namespace.
    pub namespace: &'a str,
    /// The policy's name.
    pub name: &'a str,
    /// What it says.
    pub rules: &'a Rules,
    /// Step Functions.
    pub retrain: &'a Retrain,
    /// The longest that one request may take.
    pub patience: Duration,
}

impl Actor<'_> {
    /// Does one thing.
    pub async fn act(&self, planned: &Planned) -> Ended {
        let record = &planned.record;
        match record.action {
            Verb::Evict => self.timely(self.evict(planned)).await,
            Verb::Delete => self.timely(self.delete(planned)).await,
            Verb::Cordon => self.timely(self.cordon(planned)).await,
            Verb::Uncordon => self.timely(uncordon(self.client, &record.target, &planned.version)).await,
            Verb::Retrain => match &self.rules.retraining {
                Some(rule) => self.retrain.start(&rule.arn, &record.target, &record.reason, record.at.0).await,
                None => Ended::Failed("the policy has no spec.retraining".into()),
            },
        }
    }

    /// `kube`'s own eviction writes `delete_options`, which the API server does not know: the preconditions would be lost. Without version
    /// and kind, each server takes the body for the version that it knows.
    async fn evict(&self, planned: &Planned) -> kube::Result<()> {
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let record = &planned.record;
        let body = json!({
            "metadata": {"name": record.target, "namespace": self.namespace},
            "deleteOptions": {"preconditions": {"uid": record.uid, "resourceVersion": planned.version}},
        });
        pods.create_subresource::<Value, Status>("eviction", &record.target, &PostParams::default(), &body)
            .await
            .map(drop)
    }

    async fn delete(&self, planned: &Planned) -> kube::Result<()> {
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), self.namespace);
        let preconditions =
            Preconditions { resource_version: Some(planned.version.clone()), uid: planned.record.uid.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        pods.delete(&planned.record.target, &params).await.map(drop)
    }

    async fn cordon(&self, planned: &Planned) -> kube::Result<()> {
        let patch = json!({
            "metadata": {
                "resourceVersion": planned.version,
                "uid": planned.record.uid,
                "annotations": {CORDONED_BY: format!("{}/{}", self.namespace, self.name)},
            },
            "spec": {"unschedulable": true},
        });
        patch_node(self.client, &planned.record.target, &patch).await
    }

    async fn timely(&self, asked: impl Future<Output = kube::Result<()>>) -> Ended {
        match tokio::time::timeout(self.patience, asked).await {
            Ok(answer) => ended(answer),
            Err(_) => Ended::Failed(format!("no answer within {} s", self.patience.as_secs_f32())),
        }
    }
}

/// Lets new pods onto a node again, unless it has changed since.
///
/// # Errors
/// What the API server says.
pub async fn uncordon(client: &Client, node: &str, version: &str) -> kube::Result<()> {
    let patch = json!({
        "metadata": {"resourceVersion": version, "annotations": {CORDONED_BY: null}},
        "spec": {"unschedulable": null},
    });
    patch_node(client, node, &patch).await
}

async fn patch_node(client: &Client, name: &str, patch: &Value) -> kube::Result<()> {
    let nodes: Api<core::Node> = Api::all(client.clone());
    nodes.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

fn ended(answer: kube::Result<()>) -> Ended {
    match answer {
        Ok(()) => Ended::Done,
        Err(kube::Error::Api(status)) if status.is_not_found() => Ended::Done,
        Err(kube::Error::Api(status)) if status.is_conflict() => Ended::Changed,
        Err(kube::Error::Api(status)) if status.code == 429 => Ended::Refused(status.message.clone()),
        Err(kube::Error::Api(status)) => Ended::Failed(format!("{}: {}", status.code, status.message)),
        Err(error) => Ended::Failed(error.to_string()),
    }
}
