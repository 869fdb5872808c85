//! The prediction server: one batch of rows a tick, and labels.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::baseline::FEATURES;
use crate::endpoint::{Endpoint, Failure, Reply};
use crate::fleet::Row;
use crate::labels::Label;

const JSON: &str = "application/json";
/// Before a server that restarts is asked once more.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
const VERSION: &str = "x-model-version";

/// What the server says of a row.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
pub struct Answer {
    /// The decision.
    pub anomaly: bool,
    /// What it rests on, 0 to 1.
    #[serde(default)]
    pub score: Option<f64>,
    /// CPU at the forecast's horizon, percent of the limit.
    #[serde(default)]
    pub forecast: Option<f64>,
}

/// The answers of a tick.
#[derive(Debug, Default)]
pub struct Answers {
    /// One a row, in the order of the rows.
    pub answers: Vec<Answer>,
    /// The version that answered.
    pub version: Option<Arc<str>>,
}

/// `onnxd`, and which of its models is asked.
pub struct Server {
    endpoint: Endpoint,
    model: String,
    max_rows: usize,
}

/// A row as the server takes it: beside the features what it is of, when, and CPU now, which judges the forecast for now.
#[derive(Serialize)]
struct Asked<'a> {
    series: &'a str,
    ts: i64,
    cpu_percent: f64,
    #[serde(flatten)]
    features: Features,
}

#[derive(Serialize)]
struct Features {
    cpu_zscore: f32,
    memory_zscore: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_io_zscore: Option<f32>,
    cpu_baseline: f32,
    cpu_scale: f32,
}

impl<'a> From<&'a Row> for Asked<'a> {
    fn from(row: &'a Row) -> Self {
        let [cpu_zscore, memory_zscore, disk, cpu_baseline, cpu_scale]: [f32; FEATURES.len()] = row.features;
        let disk_io_zscore = disk.is_finite().then_some(disk);
        let features = Features { cpu_zscore, memory_zscore, disk_io_zscore, cpu_baseline, cpu_scale };
        Self { series: &row.series, ts: row.sample.time, cpu_percent: row.sample.values[0], features }
    }
}

impl Server {
    /// Asks `model` at `endpoint`, at most `max_rows` rows at once.
    #[must_use]
    pub fn new(endpoint: Endpoint, model: String, max_rows: usize) -> Self {
        Self { endpoint, model, max_rows: max_rows.max(1) }
    }

    /// The answers to all rows, or to none.
    ///
    /// # Errors
    /// When the server does not answer, refuses the rows, or answers something else than an anomaly model does.
    pub async fn predict(&self, rows: &[&Row]) -> Result<Answers, Failure> {
        let mut all = Answers::default();
        for rows in rows.chunks(self.max_rows) {
            let asked: Vec<Asked<'_>> = rows.iter().copied().map(Asked::from).collect();
            let reply = self.post("predict", &asked).await?;
            let answers: Vec<Answer> = serde_json::from_slice(&reply.body).map_err(|e| {
                self.strange(&format!("what is no list of objects with anomaly, score and forecast ({e})"))
            })?;
            if answers.len() != rows.len() {
                return Err(self.strange(&format!("{} answers to {} rows", answers.len(), rows.len())));
            }
            all.version = reply.headers.get(VERSION).and_then(|version| version.to_str().ok()).map(Into::into);
            all.answers.extend(answers);
        }
        Ok(all)
    }

    /// Sends labels, few enough for one request.
    ///
    /// # Errors
    /// When the server does not take them.
    pub async fn feedback(&self, labels: &[&Label]) -> Result<(), Failure> {
        self.post("feedback", &labels).await.map(|_| ())
    }

    /// How many labels one request may hold.
    #[must_use]
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Asks once more where nothing was done with the question: a server that is slow is not asked twice.
    async fn post(&self, what: &str, body: &impl Serialize) -> Result<Reply, Failure> {
        let body = serde_json::to_vec(body).expect("names and numbers");
        let path = format!("/models/{}/{what}", self.model);
        match self.post_once(&path, body.clone()).await {
            Err(Failure::Closed(_)) => {
                tokio::time::sleep(PAUSE).await;
                self.post_once(&path, body).await
            }
            other => other,
        }
    }

    async fn post_once(&self, path: &str, body: Vec<u8>) -> Result<Reply, Failure> {
        let reply = self.endpoint.post(path, JSON, body).await?;
        if reply.status.is_success() {
            return Ok(reply);
        }
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        let text = String::from_utf8_lossy(&reply.body);
        let said = serde_json::from_str::<Problem>(&text).map_or(text.into_owned(), |problem| problem.error);
        Err(self.endpoint.failure(reply.status, &said))
    }

    fn strange(&self, what: &str) -> Failure {
        Failure::Refused(format!(
            "{}: model {} gives {what}: is it an anomaly model?",
            self.endpoint.name(),
            self.model
        ))
    }
}
