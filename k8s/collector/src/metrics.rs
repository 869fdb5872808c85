//! Every metric: its name, help and labels. The `anomaly_*` gauges and what else mirrors the last tick are written from it at
//! each scrape ([`crate::shown`]), so that none outlives its series; the rest is counted here.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

const TICKS: &str = "collector_ticks_total";
const TICK_SECONDS: &str = "collector_tick_duration_seconds";
const REFUSED: &str = "collector_series_refused_total";
const QUERIES: &str = "collector_queries_total";
const PREDICTIONS: &str = "collector_predictions_total";
const FEEDBACK: &str = "collector_feedback_total";
const ROWS: &str = "collector_rows_total";

/// A gauge that is written from the last tick: name and help.
pub(crate) type Gauge = (&'static str, &'static str);
pub(crate) const ZSCORE: Gauge =
    ("anomaly_zscore", "How far a channel is from its median of six hours, in scaled median absolute deviations.");
pub(crate) const VALUE: Gauge =
    ("anomaly_value", "What was measured: cpu and memory in percent of the limit, disk_io in operations a second.");
pub(crate) const SCORE: Gauge = ("anomaly_score", "What the decision rests on, 0 to 1.");
pub(crate) const DETECTED: Gauge = ("anomaly_detected", "1 for a series that the model finds anomalous, else 0.");
pub(crate) const FORECAST: Gauge =
    ("anomaly_forecast_percent", "CPU in five minutes, percent of the limit, as the model forecasts it.");
pub(crate) const LAST_TICK: Gauge =
    ("collector_last_tick_timestamp_seconds", "The last tick that was answered (Unix time).");
pub(crate) const SERIES: Gauge = (
    "collector_series",
    "Series of the last tick: warm (judged), warming (fewer than 15 samples, or no memory), frozen (in alert, not learned).",
);
pub(crate) const BUILD_INFO: Gauge = ("collector_build_info", "1, with the version.");

/// A tick of 10,000 series takes a fraction of a second, its queries some seconds.
const SECONDS: [f64; 10] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0];

/// Every counter with its help and, where it has one, its label and all values of it.
const COUNTERS: [(&str, &str, &str, &[&str]); 6] = [
    (
        TICKS,
        "Ticks by outcome: ok, prometheus (no data), server (no answer), skipped (the one before took too long).",
        "outcome",
        &["ok", "prometheus", "server", "skipped"],
    ),
    (REFUSED, "Samples left out: of series beyond --max-series, or with a name of more than 256 bytes.", "", &[""]),
    (PREDICTIONS, "Rows by outcome: ok (answered), error.", "outcome", &["ok", "error"]),
    (
        FEEDBACK,
        "Labels by outcome: ok, refused (by the server), lost (no room).",
        "outcome",
        &["ok", "refused", "lost"],
    ),
    (
        ROWS,
        "Rows of Parquet by outcome: written, lost (no room, or not written at the end).",
        "outcome",
        &["written", "lost"],
    ),
    (QUERIES, "Queries by channel (own: this collector's metrics) and outcome: ok, empty (no series), error.", "", &[]),
];

/// Starts counting. Every series but those of the queries is there from the start, as `rate()` wants it.
///
/// # Errors
/// When something else counts already.
pub fn start() -> Result<PrometheusHandle, BuildError> {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Full(TICK_SECONDS.into()), &SECONDS)?;
    let handle = builder.install_recorder()?;
    for (name, help, label, values) in COUNTERS {
        describe_counter!(name, help);
        for value in values {
            if label.is_empty() {
                counter!(name).increment(0);
            } else {
                counter!(name, label => *value).increment(0);
            }
        }
    }
    describe_histogram!(TICK_SECONDS, Unit::Seconds, "From the first query of a tick to its last answer.");
    Ok(handle)
}

/// A tick that ended: `ok`, `prometheus`, `server` or `skipped`.
pub(crate) fn tick(outcome: &'static str, count: u64) {
    counter!(TICKS, "outcome" => outcome).increment(count);
}

pub(crate) fn tick_took(time: Duration) {
    histogram!(TICK_SECONDS).record(time);
}

pub(crate) fn refused(samples: u64) {
    counter!(REFUSED).increment(samples);
}

/// A query: its channel, and `ok`, `empty` or `error`.
pub(crate) fn query(channel: &'static str, outcome: &'static str) {
    counter!(QUERIES, "channel" => channel, "outcome" => outcome).increment(1);
}

/// Rows that the server answered (`ok`) or did not (`error`).
pub(crate) fn predictions(outcome: &'static str, rows: usize) {
    counter!(PREDICTIONS, "outcome" => outcome).increment(rows as u64);
}

/// Labels: `ok`, `refused` or `lost`.
pub(crate) fn feedback(outcome: &'static str, labels: usize) {
    counter!(FEEDBACK, "outcome" => outcome).increment(labels as u64);
}

/// Rows of Parquet: `written` or `lost`.
pub(crate) fn rows(outcome: &'static str, rows: usize) {
    counter!(ROWS, "outcome" => outcome).increment(rows as u64);
}
