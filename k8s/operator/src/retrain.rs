//! Starts the retraining state machine. The only module that talks to `aws_sdk_sfn`.

use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region};
use aws_sdk_sfn::Client;
use aws_sdk_sfn::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::act::Ended;

const CONNECT: Duration = Duration::from_secs(3);
/// A start with its retries. The name makes it harmless that another operator may lead before it ends.
const PATIENCE: Duration = Duration::from_secs(15);

/// Step Functions. Nothing is connected, and no credentials are looked for, before the first start.
pub struct Retrain {
    endpoint: Option<String>,
}

impl Retrain {
    /// `endpoint` is another server than that of the machine's region.
    pub fn new(endpoint: Option<String>) -> Self {
        Self { endpoint }
    }

    /// Starts an execution. One of this name that exists already is the one that was meant.
    pub async fn start(&self, arn: &str, name: &str, reason: &str, at: Timestamp) -> Ended {
        let input = json!({"trigger": {"kind": "alert", "reason": reason, "at": format!("{at:.0}")}});
        let start = async {
            let client = self.client(arn).await;
            client.start_execution().state_machine_arn(arn).name(name).input(input.to_string()).send().await
        };
        match tokio::time::timeout(PATIENCE, start).await {
            Ok(Ok(_)) => Ended::Done,
            Ok(Err(error)) if error.code() == Some("ExecutionAlreadyExists") => Ended::Done,
            Ok(Err(error)) => Ended::Failed(DisplayErrorContext(&error).to_string()),
            Err(_) => Ended::Failed(format!("Step Functions did not answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// Anew each time: starts are a day apart, and credentials may have been renewed.
    async fn client(&self, arn: &str) -> Client {
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build());
        if let Some(endpoint) = &self.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        if let Some(region) = arn.split(':').nth(3) {
            loader = loader.region(Region::new(region.to_owned()));
        }
        Client::new(&loader.load().await)
    }
}
