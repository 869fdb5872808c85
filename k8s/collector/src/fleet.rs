//! All series: their baselines, within a bound. Who is beyond it is refused and counted, and those that are known go on.

use std::collections::HashMap;
use std::sync::Arc;

use crate::baseline::{Baseline, FEATURES, Parameters, Sample};

/// The server takes no longer names, and a row with one would cost the whole request.
const NAME_BYTES: usize = 256;

/// What was measured of all series at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Point {
    /// Unix seconds.
    pub time: i64,
    /// Each series once, with its values by channel; CPU is finite.
    pub samples: Vec<(Arc<str>, [f64; 3])>,
    /// The series that something is done to on purpose, or that a person says are faulty.
    pub faults: Vec<Arc<str>>,
}

/// A sample with its features.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was measured.
    pub series: Arc<str>,
    /// When, and what.
    pub sample: Sample,
    /// In the order of [`FEATURES`]; NaN in the warm-up and where a value is missing.
    pub features: [f32; FEATURES.len()],
}

impl Row {
    /// Whether it has what the model requires: the z-scores of CPU and memory.
    #[must_use]
    pub fn is_warm(&self) -> bool {
        self.features[0].is_finite() && self.features[1].is_finite()
    }
}

/// The series that are known.
pub struct Fleet {
    parameters: Parameters,
    series: HashMap<Arc<str>, Baseline>,
    most: usize,
    refused: u64,
    scratch: Vec<f64>,
}

impl Fleet {
    /// Knows `most` series at once.
    #[must_use]
    pub fn new(parameters: Parameters, most: usize) -> Self {
        Self { parameters, series: HashMap::new(), most, refused: 0, scratch: Vec::new() }
    }

    /// The numbers of the definition.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The features of each sample by what came before it. Nothing is learned yet. Samples that are refused, or not later than
    /// the last one of their series, are left out.
    #[expect(clippy::cast_possible_truncation, reason = "features are float32, as in the model's input")]
    pub fn judge(&mut self, point: &Point) -> Vec<Row> {
        let mut rows = Vec::with_capacity(point.samples.len().min(self.most));
        for (name, values) in &point.samples {
            let sample = Sample { time: point.time, values: *values };
            let Some((series, baseline)) = admit(&mut self.series, self.most, name) else {
                self.refused += 1;
                continue;
            };
            if let Ok(judged) = baseline.judge(&self.parameters, &sample, &mut self.scratch) {
                let [cpu, memory, disk] = judged;
                let features = [cpu.z, memory.z, disk.z, cpu.baseline, cpu.scale].map(|feature| feature as f32);
                rows.push(Row { series, sample, features });
            }
        }
        rows
    }

    /// Learns a sample, unless its series is in alert at it and has not been for long. Tells whether it was learned.
    pub fn learn(&mut self, name: &Arc<str>, sample: &Sample, frozen: bool) -> bool {
        let Some((_, baseline)) = admit(&mut self.series, self.most, name) else {
            self.refused += 1;
            return false;
        };
        baseline.learn(&self.parameters, sample, frozen).unwrap_or(false)
    }

    /// Forgets series that were not measured for a window: nothing of them is left to judge by.
    pub fn forget(&mut self, now: i64) {
        let since = now - self.parameters.window_seconds;
        self.series.retain(|_, baseline| baseline.last().is_none_or(|last| last >= since));
    }

    /// How many samples were refused since it was last asked.
    pub fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

/// A series' name and baseline; none where there is no room for a new one, or the name is too long.
fn admit<'a>(
    series: &'a mut HashMap<Arc<str>, Baseline>,
    most: usize,
    name: &Arc<str>,
) -> Option<(Arc<str>, &'a mut Baseline)> {
    if !series.contains_key(name) && (series.len() >= most || name.is_empty() || name.len() > NAME_BYTES) {
        return None;
    }
    let baseline = series.entry(Arc::clone(name)).or_default();
    Some((Arc::clone(name), baseline))
}
