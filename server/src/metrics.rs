//! Every metric: name, help, labels, buckets; and small typed recorders. The names are a contract with dashboards.
//!
//! Counters are kept by the exporter, histograms by [`histogram`]. What merely mirrors a state (which model serves, how long the queue
//! is) is written from that state at each scrape, so that no series outlives what it describes.

mod document;
mod histogram;
mod page;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

pub use self::document::markdown;
use self::histogram::{Histogram, Histograms};
pub use self::page::{Loaded, Page};
use crate::guard::End;
use crate::model::check::Stage;
use crate::model::signature::Signature;
use crate::model::tensor::Tensor;
use crate::shadow::{self, Lost, ROLES, stats};
use crate::verdict::state::{Joined, Source};

/// What kind of series a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by bucket.
    Histogram(&'static [f64]),
}

/// One metric as `docs/metrics.md` lists it.
#[derive(Debug)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Label names.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// From 20 microseconds, each bound twice the one before, to 10 s: a fused model runs in 10 to 50 microseconds.
const SECONDS: &[f64] = &[
    20e-6, 40e-6, 80e-6, 160e-6, 320e-6, 640e-6, 1.28e-3, 2.56e-3, 5.12e-3, 10.24e-3, 20.48e-3, 40.96e-3, 81.92e-3,
    0.16384, 0.32768, 0.65536, 1.31072, 2.62144, 5.24288, 10.48576,
];
const ROWS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];
const SCORE: &[f64] =
    &[0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0];

macro_rules! metrics {
    ($($id:ident = $name:literal $kind:expr, [$($label:literal),*], $help:literal;)+) => {
        $(const $id: Metric = Metric { name: $name, kind: $kind, labels: &[$($label),*], help: $help };)+
        /// All metrics, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($id),+];
    };
}

metrics! {
    HTTP_REQUESTS = "onnxd_http_requests_total" Kind::Counter, ["route", "method", "code"], "HTTP requests answered.";
    HTTP_SECONDS = "onnxd_http_request_duration_seconds" Kind::Histogram(SECONDS), ["route"], "From the request's head to the answer's head.";
    REQUESTS = "onnxd_inference_requests_total" Kind::Counter, ["model", "role", "protocol", "outcome"], "Inference requests by outcome: ok, overloaded, draining, deadline, error, non_finite.";
    ROWS_TOTAL = "onnxd_inference_rows_total" Kind::Counter, ["model", "role"], "Rows that a model ran.";
    RUNS = "onnxd_inference_runs_total" Kind::Counter, ["model", "role"], "Runs of a model; rows divided by runs is the mean batch size.";
    REQUEST_SECONDS = "onnxd_inference_request_duration_seconds" Kind::Histogram(SECONDS), ["model"], "From the decoded request to its outputs: queue and run.";
    QUEUE_SECONDS = "onnxd_inference_queue_duration_seconds" Kind::Histogram(SECONDS), ["model"], "Time a job waited for its run.";
    COMPUTE_SECONDS = "onnxd_inference_compute_duration_seconds" Kind::Histogram(SECONDS), ["model", "role"], "Duration of one run of a batch.";
    BATCH_ROWS = "onnxd_inference_batch_rows" Kind::Histogram(ROWS), ["model", "role"], "Rows in one run.";
    QUEUE_ROWS = "onnxd_queue_rows" Kind::Gauge, ["model"], "Rows that wait for a run.";
    REJECTED = "onnxd_rejected_total" Kind::Counter, ["model", "reason"], "Requests refused before they were queued: overloaded, draining.";
    MODEL_INFO = "onnxd_model_info" Kind::Gauge, ["model", "role", "version", "sha256"], "1 for each model in memory.";
    MODEL_LOADED = "onnxd_model_loaded_timestamp_seconds" Kind::Gauge, ["model", "role"], "When the model was loaded (Unix time).";
    SWAPS = "onnxd_model_swaps_total" Kind::Counter, ["model", "role", "outcome", "stage"], "Attempts to serve other models: outcome published or rejected, and the stage that rejected.";
    LOAD_SECONDS = "onnxd_model_load_duration_seconds" Kind::Histogram(SECONDS), ["stage"], "Duration of the stages of a swap: fetch, probe, load.";
    POLLS = "onnxd_source_polls_total" Kind::Counter, ["source", "outcome"], "Looks at the repository: unchanged, changed, error.";
    SOURCE_READ = "onnxd_source_read_timestamp_seconds" Kind::Gauge, ["source"], "When the repository was last read without an error (Unix time).";
    PROMOTIONS = "onnxd_promotions_total" Kind::Counter, ["model", "outcome"], "Changes of aliases.json by this server: promoted, rolled_back, guard_rolled_back, auto_promoted, auto_rejected, auto_rolled_back (by a verdict), lost (someone else was first), failed.";
    READY = "onnxd_ready" Kind::Gauge, [], "1 when the server takes traffic.";
    PREDICTIONS = "onnxd_predictions_total" Kind::Counter, ["model", "role", "decision"], "Rows by decision.";
    SCORES = "onnxd_score" Kind::Histogram(SCORE), ["model", "role"], "The scores.";
    PAIRS = "onnxd_shadow_pairs_total" Kind::Counter, ["model", "role", "outcome"], "Rows offered to a challenger: compared, or lost and why (full, paused, failed, deadline, non_finite, waited).";
    DISAGREEMENTS = "onnxd_shadow_disagreements_total" Kind::Counter, ["model", "role", "from", "to"], "Rows on which the decisions differ: champion's (from), challenger's (to).";
    DIFFERENCES = "onnxd_shadow_score_difference" Kind::Histogram(&stats::DIFFERENCE_BOUNDS), ["model", "role"], "Absolute difference of the scores.";
    FEEDBACK = "onnxd_feedback_total" Kind::Counter, ["model", "source", "outcome"], "Labels by who sent them: joined with a row, known before, or unknown (no row is remembered for it).";
    VERDICT = "onnxd_verdict" Kind::Gauge, ["model", "role", "state"], "1 for what is to be done: promote, hold or reject; 0 for the others. For the role previous, promote means that it should come back.";
    IMPROVEMENT = "onnxd_shadow_improvement" Kind::Gauge, ["model", "role", "bound"], "By what share the forecast is better: mean, and the lower and upper bound at the rule's alpha.";
    PEERS = "onnxd_peer_messages_total" Kind::Counter, ["outcome"], "Messages with labels to other servers (--peers): told, failed (it did not take one), dropped (too many waited for that server).";
    DRIFT_PSI = "onnxd_drift_psi" Kind::Gauge, ["model", "feature"], "How far a feature, or the score, is from the champion's training, as population stability index; from 0.1 on it matters.";
    DRIFT_LOG_E = "onnxd_drift_log_e" Kind::Gauge, ["model", "feature"], "Natural logarithm of the evidence that it is; 6.9 is one in a thousand.";
    LOG_E = "onnxd_shadow_log_e" Kind::Gauge, ["model", "role", "test"], "Natural logarithm of the evidence for a condition of the verdict; the label is one of those below.";
    BUILD_INFO = "onnxd_build_info" Kind::Gauge, ["version", "onnxruntime"], "1, with the versions of the server and of ONNX Runtime.";
    PROCESS_CPU = "process_cpu_seconds_total" Kind::Counter, [], "CPU time used.";
    PROCESS_RSS = "process_resident_memory_bytes" Kind::Gauge, [], "Resident memory.";
    PROCESS_FDS = "process_open_fds" Kind::Gauge, [], "Open file descriptors.";
    PROCESS_THREADS = "process_threads" Kind::Gauge, [], "Threads.";
    PROCESS_START = "process_start_time_seconds" Kind::Gauge, [], "Start of the process (Unix time).";
}

/// The registry of one server.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    histograms: Histograms,
}

impl Default for Metrics {
    fn default() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in ALL.iter().filter(|metric| metric.kind == Kind::Counter) {
            let (name, help) = (KeyName::from_const_str(metric.name), SharedString::const_str(metric.help));
            recorder.describe_counter(name, None, help);
        }
        Self { handle: recorder.handle(), recorder, histograms: Histograms::default() }
    }
}

static METADATA: Metadata<'static> = Metadata::new("onnxd", Level::INFO, None);

fn key(metric: &Metric, values: &[&str]) -> Key {
    let labels: Vec<_> =
        metric.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(metric.name, labels)
}

/// The labels of a series in the exposition format, without brackets.
fn labels(metric: &Metric, values: &[impl AsRef<str>]) -> String {
    let pairs = metric.labels.iter().zip(values).map(|(name, value)| format!("{name}={:?}", value.as_ref()));
    pairs.collect::<Vec<_>>().join(",")
}

impl Metrics {
    fn counter(&self, metric: &Metric, values: &[&str]) -> Counter {
        self.recorder.register_counter(&key(metric, values), &METADATA)
    }

    fn histogram(&self, metric: &Metric, values: &[&str]) -> Histogram {
        self.histograms.get(metric, values)
    }

    /// Counters and histograms, without what [`Page`] adds from the state.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = self.handle.render();
        self.histograms.render(&mut text);
        text
    }

    /// Counts a swap's outcome; `stage` is the one that rejected, or `publish`.
    pub fn swap(&self, model: &str, role: &str, outcome: &str, stage: &str) {
        self.counter(&SWAPS, &[model, role, outcome, stage]).increment(1);
    }

    /// Records how long a stage of a swap took.
    pub fn stage(&self, stage: &str, took: Duration) {
        self.histogram(&LOAD_SECONDS, &[stage]).time(took);
    }

    /// Counts a change of `aliases.json`.
    pub fn promotion(&self, model: &str, outcome: &str) {
        self.counter(&PROMOTIONS, &[model, outcome]).increment(1);
    }

    /// Counts a look at the repository.
    pub fn poll(&self, source: &str, outcome: &str) {
        self.counter(&POLLS, &[source, outcome]).increment(1);
    }
}

/// HTTP requests of one route.
pub struct RouteMetrics {
    metrics: Arc<Metrics>,
    route: &'static str,
    seconds: Histogram,
    ok: Counter,
}

impl RouteMetrics {
    /// Registers a route.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, route: &'static str) -> Self {
        Self {
            seconds: metrics.histogram(&HTTP_SECONDS, &[route]),
            ok: metrics.counter(&HTTP_REQUESTS, &[route, "POST", "200"]),
            metrics: Arc::clone(metrics),
            route,
        }
    }

    /// Counts an answer. `method` must be of a closed set.
    pub fn record(&self, method: &'static str, code: u16, took: Duration) {
        self.seconds.time(took);
        if method == "POST" && code == 200 {
            self.ok.increment(1);
        } else {
            self.metrics.counter(&HTTP_REQUESTS, &[self.route, method, &code.to_string()]).increment(1);
        }
    }
}

/// The values of the label `protocol`. A handle is kept for each of them, since to look one up costs more than to count.
const PROTOCOLS: [&str; 3] = ["predict", "v2_http", "v2_grpc"];

/// How an inference request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Answered.
    Ok,
    /// The queue was full.
    Overloaded,
    /// The server stops.
    Draining,
    /// Not run in time.
    Deadline,
    /// The model failed.
    Error,
    /// The model gave a NaN or an infinity where it may not.
    NonFinite,
}

impl Outcome {
    /// What the guard makes of it; a server that stops says nothing of its champion.
    pub(crate) const fn end(self) -> Option<End> {
        match self {
            Self::Ok => Some(End::Answered),
            Self::Overloaded | Self::Deadline => Some(End::Unanswered),
            Self::Draining => None,
            Self::Error => Some(End::Failed),
            Self::NonFinite => Some(End::NotFinite),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Deadline => "deadline",
            Self::Error => "error",
            Self::NonFinite => "non_finite",
        }
    }
}

/// The metrics of one model name.
pub struct ModelMetrics {
    metrics: Arc<Metrics>,
    model: String,
    champion: RoleMetrics,
    challengers: [OnceLock<ShadowMetrics>; shadow::MOST],
    request_seconds: Histogram,
    queue_seconds: Histogram,
    /// Requests that were answered, by protocol.
    answered: [OnceLock<Counter>; PROTOCOLS.len()],
}

/// What is counted of a challenger.
struct ShadowMetrics {
    runs: RoleMetrics,
    differences: Histogram,
    compared: Counter,
    lost: [Counter; Lost::ALL.len()],
}

impl ModelMetrics {
    /// Registers a model name.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>, model: &str) -> Self {
        // As in `RoleMetrics`.
        for outcome in PROMOTED {
            metrics.counter(&PROMOTIONS, &[model, outcome]).increment(0);
        }
        let new = Self {
            champion: RoleMetrics::new(metrics, model, "champion"),
            challengers: Default::default(),
            request_seconds: metrics.histogram(&REQUEST_SECONDS, &[model]),
            queue_seconds: metrics.histogram(&QUEUE_SECONDS, &[model]),
            answered: Default::default(),
            metrics: Arc::clone(metrics),
            model: model.into(),
        };
        // As above.
        new.shadow(0);
        Source::ALL.iter().for_each(|source| new.count_label(*source, "unknown", 0));
        new
    }

    /// Runs of the champion.
    pub const fn champion(&self) -> &RoleMetrics {
        &self.champion
    }

    /// Of a challenger; `None` for the champion before, which stands in no metric of challengers.
    fn shadow(&self, role: usize) -> Option<&ShadowMetrics> {
        let (metrics, model, name) = (&self.metrics, self.model.as_str(), *ROLES.get(role)?);
        let new = || ShadowMetrics {
            runs: RoleMetrics::new(metrics, model, name),
            differences: metrics.histogram(&DIFFERENCES, &[model, name]),
            compared: metrics.counter(&PAIRS, &[model, name, "compared"]),
            lost: Lost::ALL.map(|reason| metrics.counter(&PAIRS, &[model, name, reason.name()])),
        };
        Some(self.challengers.get(role)?.get_or_init(new))
    }

    /// Records the end of a request.
    pub fn request(&self, protocol: &'static str, outcome: Outcome, took: Duration) {
        let counter = || self.metrics.counter(&REQUESTS, &[&self.model, "champion", protocol, outcome.name()]);
        let known = PROTOCOLS.iter().position(|known| *known == protocol).filter(|_| outcome == Outcome::Ok);
        match known {
            Some(known) => self.answered[known].get_or_init(counter).increment(1),
            None => counter().increment(1),
        }
        match outcome {
            Outcome::Overloaded | Outcome::Draining => {
                self.metrics.counter(&REJECTED, &[&self.model, outcome.name()]).increment(1);
            }
            _ => self.request_seconds.time(took),
        }
    }

    /// Records how long a job waited.
    pub fn queued(&self, waited: Duration) {
        self.queue_seconds.time(waited);
    }

    /// Records a run of a challenger and what it answered.
    pub fn ran(&self, role: usize, signature: &Signature, outputs: &[Tensor], rows: usize, took: Duration) {
        if let Some(shadow) = self.shadow(role) {
            shadow.runs.run(signature, outputs, rows, took);
        }
    }

    /// Counts rows that a challenger did not answer.
    pub fn lost(&self, role: usize, reason: Lost, rows: u64) {
        if let Some(shadow) = self.shadow(role) {
            shadow.lost[reason as usize].increment(rows);
        }
    }

    /// Records a comparison.
    pub fn compared(&self, role: usize, rows: u64, compared: &stats::Compared) {
        let Some(shadow) = self.shadow(role) else { return };
        shadow.compared.increment(rows);
        for difference in &compared.score_differences {
            shadow.differences.record(*difference);
        }
        for ((from, to), rows) in &compared.disagreements {
            self.metrics.counter(&DISAGREEMENTS, &[&self.model, ROLES[role], from, to]).increment(*rows);
        }
    }

    /// Counts what became of a label. Each challenger joins it; it is counted once, of the first.
    pub fn joined(&self, source: Source, joined: Joined) {
        let unknown = u64::from(joined == Joined::default());
        for (outcome, count) in [("joined", joined.labelled), ("known", joined.known), ("unknown", unknown)] {
            if count > 0 {
                self.count_label(source, outcome, count);
            }
        }
    }

    fn count_label(&self, source: Source, outcome: &str, count: u64) {
        self.metrics.counter(&FEEDBACK, &[&self.model, source.name(), outcome]).increment(count);
    }
}

/// What becomes of changes.
const PROMOTED: [&str; 8] = [
    "promoted",
    "rolled_back",
    "guard_rolled_back",
    "auto_promoted",
    "auto_rejected",
    "auto_rolled_back",
    "lost",
    "failed",
];

/// Runs of a model in one role.
pub struct RoleMetrics {
    metrics: Arc<Metrics>,
    model: String,
    role: &'static str,
    rows: Counter,
    runs: Counter,
    seconds: Histogram,
    batch: Histogram,
    scores: Histogram,
    decisions: Mutex<HashMap<String, Counter>>,
}

/// More classes than this are counted together.
const MAX_DECISIONS: usize = 16;

impl RoleMetrics {
    fn new(metrics: &Arc<Metrics>, model: &str, role: &'static str) -> Self {
        let labels = [model, role];
        // What never happened is 0, so that the first time shows in a rate.
        for stage in Stage::ALL {
            metrics.counter(&SWAPS, &[model, role, "rejected", stage.name()]).increment(0);
        }
        Self {
            rows: metrics.counter(&ROWS_TOTAL, &labels),
            runs: metrics.counter(&RUNS, &labels),
            seconds: metrics.histogram(&COMPUTE_SECONDS, &labels),
            batch: metrics.histogram(&BATCH_ROWS, &labels),
            scores: metrics.histogram(&SCORES, &labels),
            decisions: Mutex::default(),
            metrics: Arc::clone(metrics),
            model: model.into(),
            role,
        }
    }

    /// Records a run and what it answered.
    pub fn run(&self, signature: &Signature, outputs: &[Tensor], rows: usize, took: Duration) {
        self.rows.increment(rows as u64);
        self.runs.increment(1);
        self.seconds.time(took);
        #[expect(clippy::cast_precision_loss, reason = "batches are small")]
        self.batch.record(rows as f64);
        match signature.score().and_then(|i| outputs.get(i)) {
            Some(Tensor::F16(scores)) => self.score(scores.iter().map(|s| s.to_f64())),
            Some(Tensor::BF16(scores)) => self.score(scores.iter().map(|s| s.to_f64())),
            Some(Tensor::F32(scores)) => self.score(scores.iter().copied().map(f64::from)),
            Some(Tensor::F64(scores)) => self.score(scores.iter().copied()),
            _ => {}
        }
        match signature.decision().and_then(|i| outputs.get(i)) {
            Some(Tensor::Bool(decisions)) => {
                let yes = decisions.iter().filter(|d| **d).count();
                self.decide("true", yes);
                self.decide("false", decisions.len() - yes);
            }
            Some(tensor) => (0..rows).for_each(|row| self.decide(&stats::decision(tensor, row), 1)),
            None => {}
        }
    }

    fn score(&self, scores: impl Iterator<Item = f64>) {
        scores.filter(|score| score.is_finite()).for_each(|score| self.scores.record(score));
    }

    fn decide(&self, decision: &str, rows: usize) {
        if rows == 0 {
            return;
        }
        let mut known = self.decisions.lock().unwrap_or_else(PoisonError::into_inner);
        let decision = if known.contains_key(decision) || known.len() < MAX_DECISIONS { decision } else { "other" };
        if let Some(counter) = known.get(decision) {
            counter.increment(rows as u64);
            return;
        }
        let counter = self.metrics.counter(&PREDICTIONS, &[&self.model, self.role, decision]);
        counter.increment(rows as u64);
        known.insert(decision.into(), counter);
    }
}
