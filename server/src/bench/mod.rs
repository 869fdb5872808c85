//! `onnxd bench`: how many rows a model answers on this machine, alone and served, and which settings get the most out of
//! it.
//!
//! The model alone runs in this process, on sessions as the server has them. The served model is an `onnxd serve` in a
//! process of its own, on the loopback, or a server that runs already.

pub mod alone;
pub mod child;
pub mod choice;
pub mod knee;
pub mod picture;
pub mod rows;
pub mod served;
pub mod svg;

use std::time::Duration;

use serde::Serialize;

use crate::model::ModelId;
use crate::model::providers::Provider;

/// Everything that was measured. Its keys are promised to programs: they may become more.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which model.
    pub model: ModelId,
    /// What it ran on.
    pub machine: Machine,
    /// Which rows were sent.
    pub rows: Sent,
    /// The greatest p99 that will do, in microseconds.
    pub latency_us: f64,
    /// The model without a server; `null` when only the served one was asked for.
    pub alone: Option<alone::Alone>,
    /// The model in a server; `null` when only the model alone was asked for.
    pub served: Option<served::Served>,
    /// What may not be as it was meant.
    pub warnings: Vec<String>,
    /// Whether it was ended early.
    pub interrupted: bool,
    /// How long it took.
    pub seconds: f64,
}

/// What the model ran on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Version of ONNX Runtime.
    pub onnxruntime: String,
    /// Its execution providers with which sessions were made.
    pub providers: Vec<Provider>,
}

/// Which rows were sent.
#[derive(Debug, Serialize)]
pub struct Sent {
    /// Where they come from.
    pub from: String,
    /// How many differ.
    pub count: usize,
}

/// Told how long work has gone on; `false` ends it early.
pub type Progress<'a> = dyn FnMut(Duration, &str) -> bool + 'a;

/// A number with three digits that count, and commas between thousands.
#[must_use]
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "-".into();
    }
    let magnitude = if value.abs() < 1e-9 { 0.0 } else { value.abs().log10().floor() };
    if magnitude < 2.0 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 3")]
        let digits = (2.0 - magnitude).clamp(0.0, 3.0) as usize;
        let text = format!("{value:.digits$}");
        return if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text };
    }
    let unit = 10_f64.powf(magnitude - 2.0);
    let whole = format!("{:.0}", (value / unit).round() * unit);
    let mut text = String::new();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count with its noun.
#[must_use]
pub fn several(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A time in the unit in which it is read most easily.
#[must_use]
pub fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1e3 => format!("{} us", number(us)),
        us if us < 1e6 => format!("{} ms", number(us / 1e3)),
        us => format!("{} s", number(us / 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_the_three_digits_that_count() {
        let numbers = [0.0, 0.012_34, 7.4, 10.0, 99.96, 100.0, 1234.5, 1_234_567.0];
        assert_eq!(numbers.map(number), ["0", "0.012", "7.4", "10", "100", "100", "1,230", "1,230,000"]);
        assert_eq!([7.4, 7400.0, 7.4e6].map(time), ["7.4 us", "7.4 ms", "7.4 s"]);
        assert_eq!(number(f64::NAN), "-");
    }
}
