"""Every parameter of training, in one place, each with its unit and its reason."""

from dataclasses import dataclass, field

CHANNELS = ("cpu", "memory", "disk_io")
"""Channels of a series, in the order of the columns of `Series.values`: percent, percent, operations a second."""

FEATURES = ("cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale")
"""Columns of the packed input tensor `features`, in order. The first two are required in a request."""

REQUIRED = ("cpu_zscore", "memory_zscore")

OUTPUTS = ("anomaly", "score", "forecast")

SAMPLES_PER_DAY = 1440
"""A sample a minute."""


@dataclass(frozen=True)
class FeatureConfig:
    """The rolling z-score. The collector computes the same; change both together."""

    window_seconds: int = 6 * 3600
    """Length of the window strictly before a sample. 3 h gives the same AUC-PR within 0.001."""
    warm_up_samples: int = 15
    """Fewer samples than this in the window: the z-score is missing (NaN)."""
    z_limit: float = 100.0
    """z-scores are clipped to +-this."""
    mad_to_sigma: float = 1.4826
    """Median absolute deviation of a normal distribution times this is its standard deviation."""
    floor_cpu: float = 5.0
    """Smallest scale of CPU, percentage points of the limit: quiet pods must not alarm on noise."""
    floor_memory: float = 1.0
    """Smallest scale of memory, percentage points."""
    floor_disk_relative: float = 0.1
    """Smallest scale of disk I/O as a share of its baseline ..."""
    floor_disk_absolute: float = 1.0
    """... but not less than this, operations a second."""
    freeze_seconds: int = 3600
    """A series in alert is not learned from, for this long at most: an alarm that lasts is the new normal."""
    half_life_samples: float = 180.0
    """Of the exponentially weighted baseline, which needs no window: a sample this old weighs half."""


@dataclass(frozen=True)
class LabelConfig:
    """From an injected fault to labelled samples."""

    window_before: int = 60
    """Seconds before the injection that still belong to it: clocks differ by up to a sample."""
    window_after: int = 420
    """Seconds after the injection: faults last 3 to 5 minutes, and the last ones decay."""
    baseline_seconds: int = 1800
    """CPU before the window whose median is the level to compare with."""
    least_rise: float = 10.0
    """A fault whose CPU peak is not this many percentage points above the level does not show in CPU."""
    raised_fraction: float = 0.3
    """A sample is anomalous when it rose by this share of the peak's rise; the rest of the window is not judged."""


@dataclass(frozen=True)
class ModelConfig:
    """Champion and challenger."""

    horizon_seconds: int = 300
    """How far ahead the forecast looks."""
    horizon_tolerance: int = 30
    """A sample this many seconds off the horizon still is its actual value."""
    false_samples_per_pod_day: float = 1.0
    """The threshold's budget on normal training samples."""
    z_default: float = 0.0
    """A missing z-score counts as normal."""
    input_limit: float = 100.0
    """z-scores are clipped to +-this, cpu_baseline and cpu_scale to 0..this percent, so that no input can overflow the
    graph. One number for both, so that a graph can clip all columns in one node."""
    saturation_start: float = 70.0
    """CPU percent of the limit where the saturation term begins ..."""
    saturation_width: float = 30.0
    """... and over how many percentage points it rises from 0 to 1."""
    saturation_weight: float = 3.0
    """Its weight, given rather than fitted: two dozen injected faults all saturate, real ones need not."""
    ridge: float = 1e-5
    """L2 penalty on the champion's weights."""
    huber_delta: float = 0.3
    """Residuals of the forecast beyond this many scales count linearly."""
    forecast_z_limit: float = 5.0
    """The forecast is linear in z up to here; a second slope for CPU follows ..."""
    forecast_excess_limit: float = 40.0
    """... over this many further sigmas."""
    tree_count: int = 60
    """Trees of each ensemble: under 80, ONNX Runtime adds them up in the same order for any batch."""
    tree_leaves: int = 8
    tree_min_samples: int = 10
    tree_learning_rate: float = 0.1
    tree_l2: float = 1.0
    rule_z: float = 3.0
    """The rule alarms from this many sigmas of CPU on ..."""
    rule_tau: float = 1.0
    """... and its score rises over so many."""
    forest_trees: int = 60
    """Of the isolation forest; under 80 for the reason given above."""
    forest_samples: int = 256
    """Rows that each of them isolates (Liu et al., 2008)."""


@dataclass(frozen=True)
class Config:
    """All of it."""

    seed: int = 0
    features: FeatureConfig = field(default_factory=FeatureConfig)
    labels: LabelConfig = field(default_factory=LabelConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train_day: str = "2022-08-22"
    holdout_days: tuple[str, ...] = ("2022-08-23", "2023-01-29")
    """The same system a day later, and another system."""
    episode_gap: int = 300
    """Alarms of a series that are at most this many seconds apart are one alert episode."""
    reference_bins: int = 10
    """Equal-mass bins of the reference histograms."""
    max_batch: int = 1024
    """Rows of one run of a model without trees."""
    max_batch_trees: int = 64
    """Trees cost about a microsecond a row: a larger batch would hold up its own requests."""
    p99_latency_us_batch1: float = 200.0
