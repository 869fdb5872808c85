//! Histograms of fixed buckets. The exporter's keep every value until somebody sorts them into their buckets, with a clock
//! read for each: that took more than a prediction's JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{ALL, Kind, Metric, labels};

/// What was counted of one series.
#[derive(Clone, Debug)]
pub(super) struct Histogram(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    /// The sum of all values: the bits of an `f64`.
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { bounds, counts, sum: AtomicU64::new(0) }))
    }

    /// Counts a value.
    pub(super) fn record(&self, value: f64) {
        let bucket = self.0.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let add = |sum| Some((f64::from_bits(sum) + value).to_bits());
        // It always gives a sum.
        let _ = self.0.sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Counts a duration, in seconds.
    pub(super) fn time(&self, took: Duration) {
        self.record(took.as_secs_f64());
    }
}

/// The histograms of a server, by metric and the values of its labels.
#[derive(Default)]
pub(super) struct Histograms(Mutex<BTreeMap<(&'static str, Vec<String>), Histogram>>);

impl Histograms {
    /// The one of these labels' values.
    pub(super) fn get(&self, metric: &Metric, values: &[&str]) -> Histogram {
        let Kind::Histogram(bounds) = metric.kind else { unreachable!("{} is no histogram", metric.name) };
        let key = (metric.name, values.iter().map(|value| (*value).to_owned()).collect());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key).or_insert_with(|| Histogram::new(bounds)).clone()
    }

    /// All of them in the exposition format.
    pub(super) fn render(&self, text: &mut String) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for metric in ALL {
            let mut series = all.iter().filter(|((name, _), _)| *name == metric.name).peekable();
            if series.peek().is_some() {
                // Writing to a String cannot fail, here and below.
                let _ = writeln!(text, "# HELP {0} {1}\n# TYPE {0} histogram", metric.name, metric.help);
            }
            for ((_, values), Histogram(counts)) in series {
                let labels = labels(metric, values);
                let mut below = 0;
                for (i, count) in counts.counts.iter().enumerate() {
                    below += count.load(Ordering::Relaxed);
                    let bound = counts.bounds.get(i).map_or("+Inf".to_owned(), f64::to_string);
                    let _ = writeln!(text, "{}_bucket{{{labels},le=\"{bound}\"}} {below}", metric.name);
                }
                let sum = f64::from_bits(counts.sum.load(Ordering::Relaxed));
                let _ = writeln!(text, "{0}_sum{{{labels}}} {sum}\n{0}_count{{{labels}}} {below}", metric.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_up_to_their_bounds() {
        let metric = ALL.iter().find(|metric| metric.name == "onnxd_inference_batch_rows").expect("a histogram");
        let histograms = Histograms::default();
        for value in [1.0, 1.5, 2.0, 1e9] {
            histograms.get(metric, &["m", "champion"]).record(value);
        }
        let mut text = String::new();
        histograms.render(&mut text);
        for line in [
            "# TYPE onnxd_inference_batch_rows histogram",
            r#"onnxd_inference_batch_rows_bucket{model="m",role="champion",le="1"} 1"#,
            r#"onnxd_inference_batch_rows_bucket{model="m",role="champion",le="2"} 3"#,
            r#"onnxd_inference_batch_rows_bucket{model="m",role="champion",le="1024"} 3"#,
            r#"onnxd_inference_batch_rows_bucket{model="m",role="champion",le="+Inf"} 4"#,
            r#"onnxd_inference_batch_rows_sum{model="m",role="champion"} 1000000004.5"#,
            r#"onnxd_inference_batch_rows_count{model="m",role="champion"} 4"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
