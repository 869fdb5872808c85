//! The features against `training/vectors`, and the median against a naive one.

use std::fs;

use collector::baseline::{Baseline, CHANNELS, FEATURES, Judged, Parameters, Sample, median};
use serde_json::Value;

use crate::process::root;

fn vectors() -> Value {
    let text = fs::read_to_string(root().join("training/vectors/features.json")).expect("the vectors");
    serde_json::from_str(&text).expect("JSON")
}

/// The parameters of the vectors, with a case's own.
fn parameters(vectors: &Value, case: Option<&Value>) -> Parameters {
    let mut all = vectors["parameters"].clone();
    for (key, value) in case.and_then(Value::as_object).into_iter().flatten() {
        all[key] = value.clone();
    }
    serde_json::from_value(all).expect("parameters")
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("a list").iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect()
}

fn times(values: &Value) -> Vec<i64> {
    values.as_array().expect("a list").iter().map(|time| time.as_i64().expect("a time")).collect()
}

fn same(got: f64, expected: f64, tolerance: f64) -> bool {
    got.is_nan() && expected.is_nan() || (got - expected).abs() <= tolerance * expected.abs().max(1.0)
}

#[test]
fn each_case_of_the_vectors_is_met() {
    let vectors = vectors();
    let tolerance = vectors["tolerance"].as_f64().expect("a number");
    let cases = vectors["cases"].as_array().expect("cases");
    assert!(cases.len() >= 16, "{} cases", cases.len());
    for case in cases {
        let name = &case["name"];
        let parameters = parameters(&vectors, Some(&case["parameters"]));
        let channel = CHANNELS.iter().position(|channel| case["channel"] == *channel).expect("a channel");
        let (times, x) = (times(&case["time"]), numbers(&case["x"]));
        let (frozen, refused) = (self::times(&case["frozen"]), self::times(&case["refused"]));
        let expected = &case["expected"]["median_mad"];
        let [baselines, scales, zs] = ["baseline", "scale", "z"].map(|key| numbers(&expected[key]));
        let (mut baseline, mut scratch) = (Baseline::default(), Vec::new());
        for i in 0..times.len() {
            let mut values = [f64::NAN; 3];
            values[channel] = x[i];
            let sample = Sample { time: times[i], values };
            let index = i64::try_from(i).expect("an index");
            let judged = baseline.judge(&parameters, &sample, &mut scratch);
            let learned = baseline.learn(&parameters, &sample, frozen.contains(&index));
            assert_eq!(judged.is_err(), refused.contains(&index), "{name}: sample {i}");
            assert_eq!(learned.is_err(), refused.contains(&index), "{name}: sample {i}");
            let nothing = Judged { baseline: f64::NAN, scale: f64::NAN, z: f64::NAN };
            let got = judged.map_or(nothing, |judged| judged[channel]);
            for (what, got, expected) in
                [("baseline", got.baseline, baselines[i]), ("scale", got.scale, scales[i]), ("z", got.z, zs[i])]
            {
                assert!(same(got, expected, tolerance), "{name}: {what} of sample {i} is {got}, not {expected}");
            }
        }
    }
}

#[test]
fn the_rows_of_the_vectors_are_met() {
    let vectors = vectors();
    let (parameters, rows) = (parameters(&vectors, None), &vectors["rows"]);
    assert_eq!(rows["channels"], serde_json::json!(CHANNELS));
    assert_eq!(rows["features"], serde_json::json!(FEATURES));
    let (mut baseline, mut scratch, mut seen) = (Baseline::default(), Vec::new(), 0);
    let given = rows["values"].as_array().expect("values").iter().zip(rows["expected"].as_array().expect("rows"));
    for (time, (values, expected)) in times(&rows["time"]).into_iter().zip(given) {
        let sample = Sample { time, values: numbers(values).try_into().expect("three") };
        let [cpu, memory, disk] = baseline.judge(&parameters, &sample, &mut scratch).expect("in order");
        baseline.learn(&parameters, &sample, false).expect("in order");
        let got = [cpu.z, memory.z, disk.z, cpu.baseline, cpu.scale];
        for ((name, got), expected) in FEATURES.iter().zip(got).zip(numbers(expected)) {
            assert!(same(f64::from(got as f32), expected, 1e-6), "{name} at {time} is {got}, not {expected}");
            seen += usize::from(got.is_finite());
        }
    }
    assert!(seen > 100, "{seen} numbers");
}

#[test]
fn the_programs_own_parameters_are_those_of_the_vectors() {
    let vectors = vectors();
    assert_eq!(format!("{:?}", Parameters::default()), format!("{:?}", parameters(&vectors, None)));
}

#[test]
fn the_median_is_that_of_sorted_numbers() {
    // xorshift: numbers with ties, of which some are negative.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let count = 1 + next() % 50;
        let values: Vec<f64> = (0..count).map(|_| (next() % 40) as f64 / 7.0 - 2.0).collect();
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let naive = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        assert_eq!(median(&mut values.clone()).to_bits(), naive.to_bits(), "{values:?}");
    }
}
