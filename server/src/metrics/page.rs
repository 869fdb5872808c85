//! The part of `/metrics` that mirrors a state and is written from it at each scrape.

use std::fmt::Write as _;

use super::{
    BUILD_INFO, DRIFT_LOG_E, DRIFT_PSI, IMPROVEMENT, Kind, LOG_E, MODEL_INFO, MODEL_LOADED, Metric, PEERS, PROCESS_CPU,
    PROCESS_FDS, PROCESS_RSS, PROCESS_START, PROCESS_THREADS, QUEUE_ROWS, READY, SOURCE_READ, VERDICT, labels,
};
use crate::judge::{Drifted, Judgement};
use crate::peers::Told;
use crate::process;
use crate::verdict::rule::Decision;

/// One model in memory, for the page.
#[derive(Debug)]
pub struct Loaded<'a> {
    /// Model name.
    pub model: &'a str,
    /// champion, challenger or previous.
    pub role: &'a str,
    /// Version.
    pub version: &'a str,
    /// SHA-256 of the file.
    pub sha256: &'a str,
    /// Unix time.
    pub loaded_at: f64,
}

/// The part of `/metrics` that is written from the state.
#[derive(Debug)]
pub struct Page<'a> {
    /// Whether the server takes traffic.
    pub ready: bool,
    /// Version of ONNX Runtime.
    pub onnxruntime: &'a str,
    /// Kind of the source, and when it was last read.
    pub source: (&'a str, Option<f64>),
    /// Every model in memory.
    pub loaded: Vec<Loaded<'a>>,
    /// Rows waiting, by model.
    pub queues: Vec<(&'a str, usize)>,
    /// Messages to other servers.
    pub passed: Told,
    /// The latest verdicts.
    pub judgements: &'a [Judgement],
}

impl Page<'_> {
    /// Writes it in the exposition format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        let mut series = |metric: &Metric, rows: &[(Vec<&str>, f64)]| {
            let kind = if metric.kind == Kind::Counter { "counter" } else { "gauge" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {kind}", metric.name, metric.help, metric.name);
            for (values, value) in rows {
                let labels = labels(metric, values);
                let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _ = writeln!(text, "{}{labels} {value}", metric.name);
            }
        };
        series(&READY, &[(vec![], f64::from(u8::from(self.ready)))]);
        series(&BUILD_INFO, &[(vec![env!("CARGO_PKG_VERSION"), self.onnxruntime], 1.0)]);
        let (source, read_at) = self.source;
        let read: Vec<_> = read_at.into_iter().map(|at| (vec![source], at)).collect();
        series(&SOURCE_READ, &read);
        let info: Vec<_> = self.loaded.iter().map(|m| (vec![m.model, m.role, m.version, m.sha256], 1.0)).collect();
        series(&MODEL_INFO, &info);
        let times: Vec<_> = self.loaded.iter().map(|m| (vec![m.model, m.role], m.loaded_at)).collect();
        series(&MODEL_LOADED, &times);
        #[expect(clippy::cast_precision_loss, reason = "queues are short")]
        let queues: Vec<_> = self.queues.iter().map(|(model, rows)| (vec![*model], *rows as f64)).collect();
        series(&QUEUE_ROWS, &queues);
        let Told { told, failed, dropped } = self.passed;
        #[expect(clippy::cast_precision_loss, reason = "the format's numbers are floats")]
        let passed =
            [("told", told), ("failed", failed), ("dropped", dropped)].map(|(o, count)| (vec![o], count as f64));
        series(&PEERS, &passed);
        let judged = || {
            self.judgements.iter().flat_map(|judgement| {
                let of = judgement.verdicts.iter().chain(&judgement.previous);
                of.map(|judged| (judgement.model.as_str(), judged.role.as_str(), judged))
            })
        };
        let states = [("promote", Decision::Promote), ("hold", Decision::Hold), ("reject", Decision::Reject)];
        let verdicts: Vec<_> = judged()
            .flat_map(|(model, role, judged)| {
                states.map(|(name, state)| {
                    (vec![model, role, name], f64::from(u8::from(judged.verdict.decision == state)))
                })
            })
            .collect();
        series(&VERDICT, &verdicts);
        let bounds: Vec<_> = judged()
            .filter_map(|(model, role, judged)| Some((model, role, judged.verdict.improvement?)))
            .flat_map(|(model, role, found)| {
                [("mean", found.mean), ("lower", found.lower), ("upper", found.upper)]
                    .map(|(bound, value)| (vec![model, role, bound], value))
            })
            .collect();
        series(&IMPROVEMENT, &bounds);
        let evidence: Vec<_> = judged()
            .flat_map(|(model, role, judged)| judged.log_e().map(move |(test, value)| (vec![model, role, test], value)))
            .collect();
        series(&LOG_E, &evidence);
        let drifts = |pick: fn(&Drifted) -> f64| -> Vec<_> {
            let of = self.judgements.iter().flat_map(|judgement| {
                judgement.drift.iter().map(|(feature, told)| (judgement.model.as_str(), feature.as_str(), told))
            });
            of.map(|(model, feature, told)| (vec![model, feature], pick(told))).collect()
        };
        series(&DRIFT_PSI, &drifts(|told| told.psi));
        series(&DRIFT_LOG_E, &drifts(|told| told.log_e));
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        if let Some(stat) = process::stat("self")
            && let (Some(files), Some(start)) = (process::open_files(), stat.start_time())
        {
            series(&PROCESS_CPU, &[(vec![], stat.cpu.as_secs_f64())]);
            series(&PROCESS_RSS, &[(vec![], stat.resident_bytes as f64)]);
            series(&PROCESS_FDS, &[(vec![], files as f64)]);
            series(&PROCESS_THREADS, &[(vec![], stat.threads as f64)]);
            series(&PROCESS_START, &[(vec![], start)]);
        }
        text
    }
}
