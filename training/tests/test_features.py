"""The features equal a naive reference and never look ahead."""

import numpy as np
import pytest

from training import features as module
from training.config import Config, FeatureConfig
from training.data.days import Day, Series
from training.features import actual_later, rolling_median_mad, series_features, table


def make_series(seed: int, length: int = 420) -> Series:
    """A series with jitter in time, a long gap, flat stretches and outliers."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.integers(59, 62, length)).astype(np.int64)
    time[200:] += 4000
    values = rng.gamma(2.0, 5.0, (length, 3))
    values[50:90, 1] = 40.0
    values[300:304, 0] = 95.0
    return Series("pod", time, values)


def naive(series: Series, config: FeatureConfig) -> np.ndarray:
    """The definition, written as slowly and plainly as possible."""
    out = np.full((len(series.time), 5), np.nan)
    for t in range(len(series.time)):
        age = series.time[t] - series.time[:t]
        window = series.values[:t][age <= config.window_seconds]
        if len(window) < config.warm_up_samples:
            continue
        for c in range(3):
            m = np.median(window[:, c])
            s = 1.4826 * np.median(np.abs(window[:, c] - m))
            floor = (5.0, 1.0, max(0.1 * abs(m), 1.0))[c]
            s = max(s, floor)
            out[t, c] = min(max((series.values[t, c] - m) / s, -100), 100)
            if c == 0:
                out[t, 3], out[t, 4] = m, s
    return out.astype(np.float32)


@pytest.mark.parametrize("window", [20 * 60, 3 * 3600, 6 * 3600])
def test_features_equal_the_naive_reference(window: int) -> None:
    config = FeatureConfig(window_seconds=window)
    series = make_series(window)
    np.testing.assert_allclose(series_features(series, config), naive(series, config), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cut", [16, 100, 201, 303])
def test_changing_the_future_changes_nothing(cut: int) -> None:
    config = FeatureConfig()
    series = make_series(1)
    changed = Series("pod", series.time.copy(), series.values.copy())
    changed.values[cut:] = 1e6
    changed.time[cut:] += 777
    before = series_features(series, config)[:cut]
    np.testing.assert_array_equal(before, series_features(changed, config)[:cut])
    np.testing.assert_array_equal(
        before, series_features(Series("pod", series.time[:cut], series.values[:cut]), config)
    )


def test_current_sample_is_not_in_its_own_window() -> None:
    series = make_series(2)
    spiked = Series("pod", series.time, series.values.copy())
    spiked.values[100] += 1e9
    np.testing.assert_array_equal(
        series_features(series, FeatureConfig())[100, 3:], series_features(spiked, FeatureConfig())[100, 3:]
    )


def test_warm_up_is_missing_and_z_is_clipped() -> None:
    series = make_series(3)
    series.values[40] = [1e9, -1e9, 1e9]
    features = series_features(series, FeatureConfig())
    assert np.isnan(features[:15]).all()
    assert np.isfinite(features[15:]).all()
    assert features[40, :3].tolist() == [100, -100, 100]


def test_floors_hold_on_a_flat_series() -> None:
    time = 60 * np.arange(60, dtype=np.int64)
    series = Series("pod", time, np.tile([2.0, 30.0, 200.0], (60, 1)))
    series.values[59] = [12.0, 33.0, 240.0]
    assert series_features(series, FeatureConfig())[59].tolist() == pytest.approx([2, 3, 2, 2, 5])


def test_scale_of_the_unit_does_not_matter_above_the_floor() -> None:
    series = make_series(4)
    larger = Series("pod", series.time, series.values * [1, 1, 1000])
    np.testing.assert_allclose(
        series_features(series, FeatureConfig())[15:, 2],
        series_features(larger, FeatureConfig())[15:, 2],
        rtol=0.2,
        atol=1,
    )


@pytest.mark.parametrize("length", [0, 1, 15, 16])
def test_short_series(length: int) -> None:
    features = series_features(make_series(5), FeatureConfig())[:length]
    series = make_series(5)
    short = Series("pod", series.time[:length], series.values[:length])
    np.testing.assert_array_equal(series_features(short, FeatureConfig()), features)


def test_time_must_increase() -> None:
    with pytest.raises(ValueError, match="time must increase"):
        rolling_median_mad(np.array([0, 60, 60]), np.zeros(3), FeatureConfig())


def test_actual_value_is_the_sample_nearest_to_the_horizon() -> None:
    time = np.array([0, 60, 299, 331, 400, 1000], dtype=np.int64)
    series = Series("pod", time, np.column_stack([np.arange(6.0), np.zeros((6, 2))]))
    model = Config().model
    later = actual_later(series, model.horizon_seconds, model.horizon_tolerance)
    np.testing.assert_array_equal(later, [2.0, 3.0, np.nan, np.nan, np.nan, np.nan])


def test_missing_samples_are_in_no_window() -> None:
    series = make_series(6)
    rng = np.random.default_rng(6)
    holes = rng.random(series.values.shape) < 0.15
    series.values[holes] = np.nan
    features = series_features(series, FeatureConfig())
    for channel, columns in ((0, [0, 3, 4]), (1, [1]), (2, [2])):
        there = ~holes[:, channel]
        dense = Series("pod", series.time[there], series.values[there][:, [channel] * 3])
        alone = naive(dense, FeatureConfig())
        np.testing.assert_allclose(features[there][:, columns], alone[:, columns], rtol=1e-6, atol=1e-6)
        assert np.isnan(features[~there][:, columns]).all()


def test_row_without_disk_is_used_and_one_without_memory_is_not(config: Config) -> None:
    series = make_series(7)
    series.values[100, 1] = series.values[200, 2] = np.nan
    series.values[300, 0] = np.inf
    found = table(Day("day", [series], []), config)
    expected = np.arange(len(series.time)) >= 15
    expected[[100, 300]] = False
    np.testing.assert_array_equal(found.warm, expected)


def test_windows_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    series = make_series(8)
    whole = series_features(series, FeatureConfig())
    monkeypatch.setattr(module, "BLOCK", 100)
    np.testing.assert_array_equal(series_features(series, FeatureConfig()), whole)


def test_features_that_came_with_a_series_are_used(config: Config) -> None:
    series = make_series(9)
    given = np.random.default_rng(0).normal(size=(len(series.time), 5)).astype(np.float32)
    with_features = Series("pod", series.time, series.values, given)
    np.testing.assert_array_equal(table(Day("day", [with_features], []), config).features, given)
