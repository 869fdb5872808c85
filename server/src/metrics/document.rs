//! The page that lists all metrics.

use super::{ALL, Kind};
use crate::judge::EVIDENCE;

/// `docs/metrics.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `server/src/metrics.rs` by the test `documents`; do not edit. `GET /metrics` on the operations port,\n\
         in Prometheus' text format. Label values are closed sets: model names of the repository, roles (champion, challenger,\n\
         challenger-2, challenger-3, previous), stages, outcomes. A version stands in `onnxd_model_info` only.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for m in ALL {
        let kind = match m.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        let labels: Vec<_> = m.labels.iter().map(|l| format!("`{l}`")).collect();
        text += &format!("| `{}` | {kind} | {} | {} |\n", m.name, labels.join(", "), m.help);
    }
    text += "\nThe metrics of the verdict and of drift are as `GET /models/{model}/verdict` tells them, judged anew every `--verdict-interval`\n\
             (of more than 15 servers each asks the others more seldom): by what all servers saw, where `--peers` names them and\n\
             challengers are compared; else by what this server saw alone. With peers, all servers tell the same verdict, so\n\
             that alerts take the `max by (model, role, state)`.\n\n\
             | `test` of `onnxd_shadow_log_e` | condition of the verdict |\n|---|---|\n";
    for (condition, test) in EVIDENCE {
        text += &format!("| `{test}` | {condition} |\n");
    }
    text += "\nHistograms of durations have bounds from 20 microseconds to 10 s, each twice the one before. Some questions:\n\n\
             | question | query |\n|---|---|\n\
             | p99 of requests | `histogram_quantile(0.99, sum by (le) (rate(onnxd_http_request_duration_seconds_bucket{route=\"/predict\"}[5m])))` |\n\
             | mean rows a run | `rate(onnxd_inference_rows_total{role=\"champion\"}[5m]) / rate(onnxd_inference_runs_total{role=\"champion\"}[5m])` |\n\
             | share of alerts, both models | `sum by (role) (rate(onnxd_predictions_total{decision=\"true\"}[1h])) / sum by (role) (rate(onnxd_predictions_total[1h]))` |\n\
             | disagreement | `sum(rate(onnxd_shadow_disagreements_total{role=\"challenger\"}[1h])) / sum(rate(onnxd_shadow_pairs_total{role=\"challenger\",outcome=\"compared\"}[1h]))` |\n\
             | refused models | `increase(onnxd_model_swaps_total{outcome=\"rejected\"}[1h])` |\n";
    text
}
