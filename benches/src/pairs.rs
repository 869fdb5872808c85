//! Rows that two models answered, as the shadow's statistics are measured with them.

use std::collections::BTreeMap;

use fastrand::Rng;
use onnxd::verdict::drift::Reference;
use onnxd::verdict::state::{Answer, Label, Recorder, Row, Source, Target};

/// Seconds ahead that forecasts are of.
pub const HORIZON: u64 = 300;
/// Rows that differ; they come again and again, at later times.
pub const DIFFERENT: usize = 65_536;

/// What comes with the rows.
#[derive(Clone, Copy)]
pub enum With {
    /// Both answers alone.
    Nothing,
    /// Each row tells the value that an earlier forecast was of.
    Values,
    /// That, and whether it was an anomaly, of one in twenty.
    Labels,
    /// Values, and inputs that are counted beside a reference: [`references`].
    Inputs,
}

/// Inputs of [`With::Inputs`].
const FEATURES: u32 = 5;

/// How the inputs of a challenger were distributed in training: ten bins each.
pub fn references() -> BTreeMap<String, Reference> {
    let reference = Reference {
        edges: (1..10).map(|edge| 0.1 * f64::from(edge)).collect(),
        p: vec![0.1; 10],
        p_missing: 0.0,
        n: 10_000,
    };
    (0..FEATURES).map(|feature| (format!("feature-{feature}"), reference.clone())).collect()
}

/// Pairs of answers: 3 rows in 1,000 are alarms, mostly of both.
pub fn answers() -> Vec<(Answer, Answer)> {
    let mut random = Rng::with_seed(1);
    let draw = |random: &mut Rng, alarm| Answer {
        alarm: Some(alarm),
        score: Some(f64::from(random.f32())),
        forecast: Some(f64::from(100.0 * random.f32())),
    };
    (0..DIFFERENT)
        .map(|_| {
            let alarm = random.u32(..1000) < 3;
            let other = if random.u32(..10) == 0 { random.u32(..1000) < 3 } else { alarm };
            (draw(&mut random, alarm), draw(&mut random, other))
        })
        .collect()
}

/// Records the row of this number, of `series` series with a row a minute each.
pub fn row(recorder: &mut Recorder, series: u64, number: u64, answers: &[(Answer, Answer)], with: With) {
    let (champion, challenger) = answers[number as usize % answers.len()];
    // As hashes are: spread over all numbers.
    let name = (number % series + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let at = 1_800_000_000 + number / series * 60 + number % series * 60 / series;
    let target = Target::At { series: name, at };
    if !matches!(with, With::Nothing) {
        recorder.label(&Label { target, anomaly: None, value: champion.forecast, source: Source::Metric });
    }
    recorder.record(number + 1, &Row { series: name, at, champion, challenger });
    if matches!(with, With::Inputs) {
        let value = champion.score.unwrap_or(f64::NAN);
        (0..FEATURES as usize).for_each(|feature| recorder.drifts().record(name, at, feature, value));
    }
    if matches!(with, With::Labels) && number.is_multiple_of(20) {
        recorder.label(&Label { target, anomaly: champion.alarm, value: None, source: Source::Human });
    }
}
