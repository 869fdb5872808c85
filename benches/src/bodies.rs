//! The requests: rows that differ, so that no figure stands for one row kept warm.

use onnxd::load::Requests;
use serde_json::json;

const ROWS: u32 = 256;
/// Above this z-score some of the test models answer NaN or fail; no ordinary row comes near it.
const TRIGGER: f64 = 60.0;

/// The bodies of ordinary requests: the same in every run.
pub fn ordinary() -> Requests {
    Requests::json((0..ROWS).map(|number| body(wave(number, 7, 3.0), wave(number, 11, 2.0))))
}

/// The same, with one row in `every` of the kind that makes a bad model fail.
pub fn with_triggers(every: u32) -> Requests {
    Requests::json((0..ROWS).map(|number| {
        let cpu = if number % every == every - 1 { TRIGGER } else { wave(number, 7, 3.0) };
        body(cpu, wave(number, 11, 2.0))
    }))
}

/// Whether an answer is a prediction of the anomaly model: JSON with a `score`.
pub fn has_score(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|value| value.get("score").is_some())
}

/// A value in -height..height that walks through the rows; two decimals, as z-scores are sent.
fn wave(number: u32, step: u32, height: f64) -> f64 {
    let phase = f64::from(number * step % ROWS) / f64::from(ROWS);
    ((phase * 2.0 - 1.0) * height * 100.0).round() / 100.0
}

fn body(cpu: f64, memory: f64) -> String {
    json!({ "cpu_zscore": cpu, "memory_zscore": memory }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_row_in_twenty_triggers() {
        let texts = |requests| match requests {
            Requests::Json(bodies) => bodies.iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect(),
            _ => Vec::new(),
        };
        let triggers: Vec<String> = texts(with_triggers(20));
        assert_eq!(triggers.iter().filter(|body| body.contains("60.0")).count(), 12);
        let ordinary = texts(ordinary());
        assert!(ordinary.iter().all(|body| !body.contains("60.0")));
        assert_eq!(ordinary.iter().collect::<std::collections::HashSet<_>>().len(), 256);
    }

    #[test]
    fn a_prediction_has_a_score() {
        assert!(has_score(br#"{"score":0.1}"#));
        assert!(!has_score(br#"{"error":"no"}"#) && !has_score(b"score"));
    }
}
