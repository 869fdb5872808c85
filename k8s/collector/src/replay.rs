//! `collector replay`: recorded points through the same ticks, paced or as fast as the server answers, and what came of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::endpoint::Failure;
use crate::metrics;
use crate::recording::Recording;
use crate::shown::Shown;
use crate::tick::Collector;

/// Series in the summary; those with the most anomalies come first.
const LISTED: usize = 20;

/// What is counted of a series.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    rows: u64,
    anomalous: u64,
    faulty: u64,
    detected: u64,
}

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Summary {
    series: BTreeMap<Arc<str>, Counts>,
    ticks: u64,
    asked: u64,
    /// Ticks that the server did not answer, and why the last one was not.
    unanswered: u64,
    reason: String,
    labelled: bool,
}

/// Sends all of `recording` through `collector`. `speed` is how many recorded seconds pass in one; none is as fast as it goes.
/// `summary` grows as it goes, so that it is there when this is stopped.
///
/// # Errors
/// When the file has a mistake, or the server refuses a row: it would refuse the next one too.
pub async fn run(
    recording: &mut Recording,
    collector: &mut Collector,
    shown: &Shown,
    speed: Option<f64>,
    summary: &mut Summary,
) -> Result<(), String> {
    let (_, total) = recording.progress();
    let style =
        ProgressStyle::with_template("{elapsed_precise} {wide_bar} {percent} % {msg}").expect("it is a template");
    let bar = ProgressBar::new(total).with_style(style);
    let begin = Instant::now();
    let mut first = None;
    while let Some(point) = recording.point()? {
        shown.ready();
        if let Some(speed) = speed {
            #[expect(clippy::cast_precision_loss, reason = "a difference of times")]
            let recorded = (point.time - *first.get_or_insert(point.time)) as f64;
            let due = Duration::try_from_secs_f64(recorded / speed).unwrap_or(Duration::MAX);
            tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        }
        let asked = Instant::now();
        let outcome = collector.ask(&point).await;
        metrics::tick_took(asked.elapsed());
        metrics::tick(if outcome.is_ok() { "ok" } else { "server" }, 1);
        summary.ticks += 1;
        match outcome {
            Ok(told) => {
                for (series, answer) in told {
                    let faulty = point.faults.binary_search(&series).is_ok();
                    let anomalous = answer.is_some_and(|answer| answer.anomaly);
                    let counts = summary.series.entry(series).or_default();
                    counts.rows += 1;
                    counts.anomalous += u64::from(anomalous);
                    counts.faulty += u64::from(faulty);
                    counts.detected += u64::from(anomalous && faulty);
                    summary.asked += u64::from(answer.is_some());
                    summary.labelled |= faulty;
                }
            }
            Err(Failure::Refused(reason)) => {
                return Err(format!("at ts {}: {reason}", point.time));
            }
            Err(failure) => {
                summary.unanswered += 1;
                summary.reason = failure.to_string();
            }
        }
        let (done, _) = recording.progress();
        bar.set_position(done);
        bar.set_message(format!("{} rows", summary.asked));
    }
    bar.finish_and_clear();
    Ok(())
}

impl Summary {
    /// Why the replay is not what it should be, if ticks were not answered.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let (unanswered, ticks, reason) = (self.unanswered, self.ticks, &self.reason);
        (unanswered > 0).then(|| format!("{unanswered} of {ticks} ticks were not answered: {reason}"))
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let rows: u64 = self.series.values().map(|counts| counts.rows).sum();
        let (ticks, series, asked) = (self.ticks, self.series.len(), self.asked);
        let mut out = format!("{ticks} ticks, {rows} rows of {series} series, {asked} answered (the others warm up)\n");
        let mut listed: Vec<_> = self.series.iter().collect();
        listed.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.anomalous));
        let shown = &listed[..listed.len().min(LISTED)];
        let width = shown.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default().max("series".len());
        let labelled = self.labelled;
        let mut line = |name: &str, [rows, anomalous, faulty, detected, false_alarms]: [String; 5]| {
            let _ = write!(out, "{name:width$}  {rows:>9}  {anomalous:>9}");
            let _ =
                if labelled { writeln!(out, "  {faulty:>8}  {detected:>8}  {false_alarms:>8}") } else { writeln!(out) };
        };
        line("series", ["rows", "anomalous", "labelled", "detected", "false"].map(str::to_owned));
        for (name, counts) in shown {
            let Counts { rows, anomalous, faulty, detected } = **counts;
            line(name, [rows, anomalous, faulty, detected, anomalous - detected].map(|count| count.to_string()));
        }
        let more = listed.len() - shown.len();
        if more > 0 {
            let anomalous: u64 = listed[shown.len()..].iter().map(|(_, counts)| counts.anomalous).sum();
            let _ = writeln!(out, "and {more} more series with {anomalous} anomalous rows");
        }
        out
    }
}
