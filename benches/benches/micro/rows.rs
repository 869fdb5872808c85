//! The rows that are measured with: 1,000 of 256 that differ, with what the anomaly model needs, or all that it takes.

use anyhow::{Context as _, Result};
use benches::bodies;
use onnxd::load::Requests;
use serde::Deserialize;

/// How many rows are many.
pub(crate) const MANY: usize = 1000;
/// Values of the features that a row may leave out, in order: no disk activity, and an ordinary processor.
const REST: [f32; 3] = [0.0, 6.0, 5.0];

/// A row as a program would declare it that has this model alone: what a typed floor reads.
#[derive(Deserialize)]
#[expect(dead_code, reason = "what a floor reads is of no other use")]
pub(crate) struct Row<'a> {
    pub(crate) cpu_zscore: f32,
    pub(crate) memory_zscore: f32,
    disk_io_zscore: Option<f32>,
    cpu_baseline: Option<f32>,
    cpu_scale: Option<f32>,
    series: Option<&'a str>,
    ts: Option<f64>,
}

/// Objects of the two features that are required.
pub(crate) fn plain() -> Result<Vec<String>> {
    let Requests::Json(bodies) = bodies::ordinary() else { anyhow::bail!("ordinary requests are not JSON") };
    let texts = bodies.iter().map(|body| Ok(String::from_utf8(body.to_vec())?));
    let texts = texts.collect::<Result<Vec<String>>>()?;
    Ok(texts.into_iter().cycle().take(MANY).collect())
}

/// The same rows, each of one of ten pods and with its time, as what a client sends that wants to have its forecasts judged.
pub(crate) fn marked(plain: &[String]) -> Result<Vec<String>> {
    let marked = plain.iter().enumerate().map(|(number, row)| {
        let row = row.strip_suffix('}').context("a row is no object")?;
        Ok(format!(r#"{row},"series":"pod-{}","ts":{}}}"#, number % 10, 1_800_000_000 + number / 10 * 60))
    });
    marked.collect()
}

/// An array of rows.
pub(crate) fn array(rows: &[String]) -> String {
    format!("[{}]", rows.join(","))
}

/// All that the model takes of each row, one row after the other.
pub(crate) fn values(plain: &[String]) -> Result<Vec<f32>> {
    let mut values = vec![];
    for row in plain {
        let Row { cpu_zscore, memory_zscore, .. } = serde_json::from_str(row)?;
        values.extend([cpu_zscore, memory_zscore]);
        values.extend(REST);
    }
    Ok(values)
}
