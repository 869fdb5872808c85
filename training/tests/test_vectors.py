"""The shared examples: as committed, equal to the batch features, and to a naive reference in another style."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training import cli
from training.baseline import KINDS, Baseline, EwmaBaseline, MedianBaseline, stream
from training.config import CHANNELS, FEATURES, Config, FeatureConfig
from training.data.days import Day, Series
from training.data.nezha import read_day
from training.features import rolling_median_mad, series_features
from training.vectors import TOLERANCE, document

FILE = Path(__file__).resolve().parents[1] / "vectors" / "features.json"
COMMITTED = json.loads(FILE.read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in COMMITTED["cases"]}
PARTS = ("baseline", "scale", "z")


def numbers(values: list[Any]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)


def config_of(case: dict[str, Any]) -> FeatureConfig:
    return FeatureConfig(**(COMMITTED["parameters"] | case["parameters"]))


def learned(case: dict[str, Any], config: FeatureConfig) -> np.ndarray:
    """Which samples, bool [T], enter the baseline."""
    out = np.ones(len(case["time"]), dtype=bool)
    since = None
    for i, time in enumerate(case["time"]):
        since = None if i not in case["frozen"] else time if since is None else since
        out[i] = (since is None or time >= since + config.freeze_seconds) and case["x"][i] is not None
    out[case["refused"]] = False
    return out


def naive(case: dict[str, Any], kind: str) -> np.ndarray:
    """Baseline, scale and z from the whole past of each sample, float64 [3, T]."""
    config = config_of(case)
    time, x, enters = np.array(case["time"]), numbers(case["x"]), learned(case, config)
    out = np.full((3, len(x)), np.nan)
    for t in range(len(x)):
        past = np.flatnonzero(enters[:t])
        if kind == "median_mad":
            window = x[past[time[past] >= time[t] - config.window_seconds]]
            m, s = (np.median(window), 1.4826 * np.median(abs(window - np.median(window)))) if len(window) else (0, 0)
        else:
            breaks = np.flatnonzero(np.diff(np.append(time[past], time[t])) > config.window_seconds)
            window = x[past[breaks[-1] + 1 if len(breaks) else 0 :]]
            weights = 0.5 ** (np.arange(len(window))[::-1] / config.half_life_samples)
            weights[1:] *= 1 - 0.5 ** (1 / config.half_life_samples)
            m = np.average(window, weights=weights) if len(window) else 0
            s = np.sqrt(np.average((window - m) ** 2, weights=weights)) if len(window) else 0
        if len(window) < 15 or np.isnan(x[t]) or t in case["refused"]:
            continue
        s = max(s, {"cpu": 5.0, "memory": 1.0, "disk_io": max(abs(m) / 10, 1.0)}[case["channel"]])
        out[:, t] = m, s, np.clip((x[t] - m) / s, -100, 100)
    return out


def test_file_is_what_the_command_writes(tmp_path: Path) -> None:
    assert cli.main(["vectors", "--out", str(tmp_path / "new" / "features.json")]) == 0
    again = json.loads((tmp_path / "new" / "features.json").read_text(encoding="utf-8"))
    assert again == json.loads(json.dumps(document()))
    assert FILE.stat().st_size < 300_000
    assert again["rows"] == COMMITTED["rows"]
    for new, old in zip(again["cases"], COMMITTED["cases"], strict=True):
        assert {k: v for k, v in new.items() if k != "expected"} == {k: v for k, v in old.items() if k != "expected"}
        for kind in KINDS:
            for part in PARTS:
                got, expected = numbers(new["expected"][kind][part]), numbers(old["expected"][kind][part])
                # Another processor's pow may differ in the last bit.
                np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_parameters_are_the_ones_that_training_uses() -> None:
    assert FeatureConfig(**COMMITTED["parameters"]) == FeatureConfig()
    assert COMMITTED["tolerance"] == TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CASES)
def test_expected_values_equal_a_naive_reference(name: str, kind: str) -> None:
    case = CASES[name]
    for part, expected in zip(PARTS, naive(case, kind), strict=True):
        got = numbers(case["expected"][kind][part])
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
        error = np.abs(got - expected) / np.maximum(1, np.abs(expected))
        assert np.nanmax(error) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case["frozen"] and not case["refused"]])
def test_batch_features_have_the_same_bits(name: str) -> None:
    case = CASES[name]
    baseline, _ = rolling_median_mad(np.array(case["time"]), numbers(case["x"]), config_of(case))
    np.testing.assert_array_equal(baseline, numbers(case["expected"]["median_mad"]["baseline"]))
    channel = CHANNELS.index(case["channel"])
    values = np.zeros((len(baseline), 3))
    values[:, channel] = numbers(case["x"])
    features = series_features(Series("pod", np.array(case["time"]), values), config_of(case))
    np.testing.assert_array_equal(features[:, channel], numbers(case["expected"]["median_mad"]["z"]).astype(np.float32))


def test_cases_cover_what_they_are_named_after() -> None:
    of_median = {name: case["expected"]["median_mad"] for name, case in CASES.items()}
    expected = {name: {part: numbers(found[part]) for part in PARTS} for name, found in of_median.items()}
    assert np.isfinite(expected["warm-up"]["z"]).argmax() == 15
    assert np.abs(expected["clip"]["z"][15:]).max() == 100
    assert (expected["memory floor"]["scale"][15:] == 1).any()
    assert (expected["absolute disk floor"]["scale"][15:] == 1).any()
    busy = expected["relative disk floor"]
    assert (busy["scale"][15:] == 0.1 * busy["baseline"][15:]).any()
    assert np.isnan(expected["gaps"]["z"][60:]).any()
    assert expected["large"]["baseline"][30] > 1e9
    rise = expected["frozen"]["baseline"]
    assert rise[41] == rise[69]
    assert rise[189] != rise[150]
    assert CASES["missing"]["x"].count(None) > 20
    assert CASES["out of order"]["refused"] == [10, 20, 30]


def test_rows_are_the_batch_features() -> None:
    rows = COMMITTED["rows"]
    assert rows["features"] == list(FEATURES)
    values = np.array([numbers(row) for row in rows["values"]])
    features = series_features(Series("pod", np.array(rows["time"]), values), FeatureConfig())
    np.testing.assert_array_equal(features, np.array([numbers(row) for row in rows["expected"]], dtype=np.float32))
    assert np.isnan(features[50]).tolist() == [False, True, False, False, False]


def test_streaming_equals_the_batch_on_real_pods(data_folder: Path, config: Config) -> None:
    day: Day = read_day(data_folder, config.holdout_days[1], config.labels)
    for series in day.series[:6]:
        np.testing.assert_array_equal(stream(series, config.features), series_features(series, config.features))


@pytest.mark.parametrize("kind", KINDS.values())
def test_frozen_samples_are_not_learned_for_an_hour(kind: type[Baseline]) -> None:
    config = FeatureConfig()
    baseline = kind(0, config)
    for i in range(60):
        baseline.push(60 * i, 10.0)
    frozen = [baseline.push(3600 + 60 * i, 50.0, frozen=True).baseline for i in range(63)]
    assert frozen[:61] == [10.0] * 61
    if kind is EwmaBaseline:
        assert frozen[61] > 10
    else:
        for i in range(63, 130):
            found = baseline.push(3600 + 60 * i, 50.0, frozen=True)
        assert found.baseline == 50


@pytest.mark.parametrize("kind", KINDS.values())
def test_alert_freezes_the_next_sample(kind: type[Baseline]) -> None:
    """A long step stays an alarm for longer when the baseline is frozen."""
    time = 60 * np.arange(900, dtype=np.int64)
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 2.0, (900, 3))
    values[500:, 0] += 40.0
    series = Series("pod", time, values)
    config = FeatureConfig()

    def raised(row: np.ndarray) -> bool:
        return bool(row[0, 0] > 3)

    free, frozen = stream(series, config, kind)[:, 0], stream(series, config, kind, raised)[:, 0]
    np.testing.assert_array_equal(free[:501], frozen[:501])
    assert (frozen[500:560] > 3).all()
    assert (frozen[500:] > 3).sum() > (free[500:] > 3).sum() + 30


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("time", [600, 599, -1])
def test_sample_out_of_order_is_refused(kind: type[Baseline], time: int) -> None:
    baseline = kind(0, FeatureConfig())
    for i in range(11):
        baseline.push(60 * i, 1.0)
    before = json.dumps({k: v for k, v in vars(baseline).items() if k != "config"})
    with pytest.raises(ValueError, match=f"time {time} is not after 600; send"):
        baseline.push(time, 99.0)
    assert json.dumps({k: v for k, v in vars(baseline).items() if k != "config"}) == before


@pytest.mark.parametrize("kind", KINDS.values())
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_sample_that_is_not_finite_is_missing(kind: type[Baseline], value: float) -> None:
    with_it, without = kind(0, FeatureConfig()), kind(0, FeatureConfig())
    for i in range(40):
        if i in (5, 30):
            assert all(np.isnan(with_it.push(60 * i, value)))
            continue
        assert repr(with_it.push(60 * i, float(i))) == repr(without.push(60 * i, float(i)))


def test_ewma_forgets_by_its_half_life() -> None:
    config = replace(FeatureConfig(), half_life_samples=10)
    baseline = EwmaBaseline(0, config)
    for i in range(2000):
        baseline.push(i, 0.0)
    for i in range(2000, 2010):
        baseline.push(i, 8.0)
    assert baseline.push(2010, 0.0).baseline == pytest.approx(4.0)


def test_window_forgets_by_time() -> None:
    baseline = MedianBaseline(0, FeatureConfig())
    for i in range(20):
        baseline.push(60 * i, 1.0)
    assert baseline.push(6 * 3600 + 4 * 60, 1.0).baseline == 1
    assert np.isnan(baseline.push(6 * 3600 + 7 * 60, 1.0).baseline)
