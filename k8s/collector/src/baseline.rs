//! What is normal for a series, and how far a sample is from it: median and median absolute deviation of the six hours before.
//!
//! The definition is that of the training package (`training/src/training/baseline.py`), bit for bit: both are held to
//! `training/vectors`. Of its two ways, this is the window, which training computes; there is no second one here.

use std::collections::VecDeque;

use serde::Deserialize;

/// What is measured of a series, in this order everywhere: percent of the limit, percent of the limit, operations a second.
pub const CHANNELS: [&str; 3] = ["cpu", "memory", "disk_io"];

/// The features of a row in this order: three z-scores (sigmas), then CPU's baseline and scale (percent of the limit).
pub const FEATURES: [&str; 5] = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"];

/// Samples by which a window grows: a series that lives for minutes takes no room for hours.
const GROWTH: usize = 60;

/// Numbers of the definition. They are not settings: models are trained on features that are made with these.
#[derive(Clone, Debug, Deserialize)]
pub struct Parameters {
    /// Length of the window strictly before a sample.
    pub window_seconds: i64,
    /// With fewer samples in the window there is no baseline.
    pub warm_up_samples: usize,
    /// z-scores are clipped to plus and minus this.
    pub z_limit: f64,
    /// From a median absolute deviation to the standard deviation of a normal distribution.
    pub mad_to_sigma: f64,
    /// Smallest scale of CPU, percentage points of the limit.
    pub floor_cpu: f64,
    /// Smallest scale of memory, percentage points of the limit.
    pub floor_memory: f64,
    /// Smallest scale of disk I/O as a share of its baseline ..
    pub floor_disk_relative: f64,
    /// .. but not less than this, operations a second.
    pub floor_disk_absolute: f64,
    /// A series in alert is not learned from for this long at most: an alarm that lasts is the new normal.
    pub freeze_seconds: i64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            window_seconds: 6 * 3600,
            warm_up_samples: 15,
            z_limit: 100.0,
            mad_to_sigma: 1.4826,
            floor_cpu: 5.0,
            floor_memory: 1.0,
            floor_disk_relative: 0.1,
            floor_disk_absolute: 1.0,
            freeze_seconds: 3600,
        }
    }
}

impl Parameters {
    /// Smallest scale of a channel: (share of the baseline, absolute).
    fn floor(&self, channel: usize) -> (f64, f64) {
        match channel {
            0 => (0.0, self.floor_cpu),
            1 => (0.0, self.floor_memory),
            _ => (self.floor_disk_relative, self.floor_disk_absolute),
        }
    }

    /// How many seconds of samples say exactly what is normal now: the window, and before it the longest freeze, in which a
    /// freeze that reaches into the window may have begun.
    #[must_use]
    pub fn history_seconds(&self) -> i64 {
        self.window_seconds + self.freeze_seconds
    }
}

/// What was measured of a series at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Unix seconds.
    pub time: i64,
    /// By channel; NaN where nothing was measured.
    pub values: [f64; 3],
}

/// One channel of a sample against what came before it; all NaN during warm-up and where the value is missing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The median of the window, in the unit of the channel.
    pub baseline: f64,
    /// How far samples usually are from it, never below the floor, in the unit of the channel.
    pub scale: f64,
    /// `(x - baseline) / scale`, clipped; sigmas.
    pub z: f64,
}

const MISSING: Judged = Judged { baseline: f64::NAN, scale: f64::NAN, z: f64::NAN };

/// A sample that is not later than the last one of its series. Nothing has changed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("time {time} is not after {last}: samples of a series come in order")]
pub struct Late {
    time: i64,
    last: i64,
}

/// The window of one series.
#[derive(Debug, Default)]
pub struct Baseline {
    /// Learned samples in the order of time.
    window: VecDeque<Sample>,
    last: Option<i64>,
    frozen_since: Option<i64>,
}

impl Baseline {
    /// Judges a sample by those before it, channel by channel. `scratch` is room to work in.
    ///
    /// # Errors
    /// When the sample is not later than the last one that was learned.
    pub fn judge(
        &mut self,
        parameters: &Parameters,
        sample: &Sample,
        scratch: &mut Vec<f64>,
    ) -> Result<[Judged; 3], Late> {
        self.in_order(sample.time)?;
        self.drop_before(sample.time - parameters.window_seconds);
        let mut judged = [MISSING; 3];
        for (channel, judged) in judged.iter_mut().enumerate() {
            if sample.values[channel].is_finite() {
                *judged = self.judge_channel(parameters, channel, sample.values[channel], scratch);
            }
        }
        Ok(judged)
    }

    /// Learns a sample that was judged, unless it is frozen: the series is in alert at this sample, and has been for less than
    /// `freeze_seconds`. Tells whether it was learned.
    ///
    /// # Errors
    /// When the sample is not later than the last one.
    pub fn learn(&mut self, parameters: &Parameters, sample: &Sample, frozen: bool) -> Result<bool, Late> {
        self.in_order(sample.time)?;
        self.last = Some(sample.time);
        self.frozen_since = if frozen { self.frozen_since.or(Some(sample.time)) } else { None };
        let learned = self.frozen_since.is_none_or(|since| sample.time - since >= parameters.freeze_seconds);
        self.drop_before(sample.time - parameters.window_seconds);
        if learned && sample.values.iter().any(|value| value.is_finite()) {
            if self.window.len() == self.window.capacity() {
                self.window.reserve_exact(GROWTH);
            }
            self.window.push_back(*sample);
        }
        Ok(learned)
    }

    /// The time of the last sample.
    #[must_use]
    pub fn last(&self) -> Option<i64> {
        self.last
    }

    fn in_order(&self, time: i64) -> Result<(), Late> {
        match self.last {
            Some(last) if time <= last => Err(Late { time, last }),
            _ => Ok(()),
        }
    }

    fn drop_before(&mut self, time: i64) {
        while self.window.front().is_some_and(|sample| sample.time < time) {
            self.window.pop_front();
        }
    }

    fn judge_channel(&self, parameters: &Parameters, channel: usize, x: f64, scratch: &mut Vec<f64>) -> Judged {
        scratch.clear();
        scratch.extend(self.window.iter().map(|sample| sample.values[channel]).filter(|value| value.is_finite()));
        // A median of nothing is none, whatever the warm-up.
        if scratch.len() < parameters.warm_up_samples.max(1) {
            return MISSING;
        }
        let baseline = median(scratch);
        for value in scratch.iter_mut() {
            *value = (*value - baseline).abs();
        }
        let spread = parameters.mad_to_sigma * median(scratch);
        let (relative, absolute) = parameters.floor(channel);
        let scale = spread.max(relative * baseline.abs()).max(absolute);
        let z = ((x - baseline) / scale).clamp(-parameters.z_limit, parameters.z_limit);
        Judged { baseline, scale, z }
    }
}

/// The middle one, or half the sum of the two in the middle. The values change places.
///
/// # Panics
/// When there are none.
pub fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    let odd = values.len() % 2 == 1;
    let (below, high, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let high = *high;
    let low = if odd { high } else { below.iter().copied().max_by(f64::total_cmp).unwrap_or(high) };
    (low + high) / 2.0
}
