"""Injected faults lie in quiet stretches of real or generated series, look as configured, and are labelled."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.config import Config
from training.data import injected
from training.data.days import Day, Fault, label
from training.data.injected import inject
from training.data.nezha import read_day
from training.data.synthetic import make_day
from training.features import rolling_median_mad, series_features, table
from training.model import calibrate, held_out
from training.recipes.logistic import Logistic
from training.scoring.evaluate import evaluate

CONFIG = Config()


@pytest.fixture(scope="module")
def day() -> Day:
    return make_day("2026-01-05", CONFIG, pods=4, minutes=1440)


def made(day: Day) -> list[Fault]:
    return [f for f in day.faults if f.kind == injected.KIND]


def check_places(before: Day, after: Day) -> None:
    real = before.faults
    for fault in made(after):
        old = next(s for s in before.series if s.name == fault.pod)
        new = next(s for s in after.series if s.name == fault.pod)
        assert not any(
            f.pod == fault.pod and f.time - 60 <= fault.until + 900 and fault.time <= f.time + 420 for f in real
        )
        inside = (new.time >= fault.time) & (new.time <= fault.until)
        assert 3 <= inside.sum() <= 6
        assert (new.values[inside, 0] >= old.values[inside, 0]).all()
        assert (new.values[inside, 0] <= max(injected.CEILING, old.values[inside, 0].max())).all()
        near = (old.time >= fault.time - 1800) & (old.time <= fault.until + 900)
        assert (np.diff(old.time[near]) <= 90).all(), "no gap near"
        level, scale = rolling_median_mad(old.time, old.values[:, 0], CONFIG.features)
        loud = np.abs(old.values[:, 0] - level) > 3 * np.maximum(scale, 5)
        assert not (loud & near).any(), "no rise of its own near"
        assert np.isfinite(level[inside]).all(), "past the warm-up"
    for old, new in zip(before.series, after.series):
        changed = (old.values != new.values).any(axis=1)
        allowed = np.zeros(len(old.time), dtype=bool)
        for fault in made(after):
            if fault.pod == old.name:
                allowed |= (old.time >= fault.time) & (old.time <= fault.until)
        assert not (changed & ~allowed).any(), "all other samples are as they were"


def test_faults_lie_in_quiet_stretches_and_are_labelled(day: Day) -> None:
    copies = [s.values.copy() for s in day.series]
    after = inject(day, CONFIG, per_day=4)
    check_places(day, after)
    assert len(made(after)) >= 4
    assert all(np.array_equal(s.values, c) for s, c in zip(day.series, copies)), "the given day is not changed"
    for index, fault in enumerate(after.faults):
        if fault.kind == injected.KIND:
            series = next(s for s in after.series if s.name == fault.pod)
            event, _ = label(series, after.faults, CONFIG.labels)
            assert fault.channel == 0
            assert 1 <= (event == index).sum() <= 6
    assert "CPU faults are INJECTED into 4 real series, seed 0" in after.notes[-1]
    assert after.sha256 != day.sha256


def test_rises_that_nobody_labelled_are_neither_normal_nor_anomalous(day: Day) -> None:
    shown = [f for f in day.faults if f.time > day.span[0] + 3600]
    after = inject(replace(day, faults=[]), CONFIG, per_day=0)
    assert made(after) == []
    assert len(after.faults) >= 0.8 * len(shown), "the day's own faults, unlabelled"
    for series in after.series:
        event, judged = label(series, after.faults, CONFIG.labels)
        assert (event == -1).all()
        assert 0 < (~judged).sum() < 0.1 * len(judged)
    assert inject(day, CONFIG, per_day=0).faults == day.faults, "known faults are left as they are"


def test_equal_seeds_give_equal_faults(day: Day) -> None:
    first, again, other = inject(day, CONFIG), inject(day, CONFIG), inject(day, CONFIG, seed=1)
    assert first.sha256 == again.sha256
    assert first.faults == again.faults
    assert other.sha256 != first.sha256


def test_given_features_are_computed_anew_only_where_a_window_holds_a_fault(day: Day) -> None:
    mark = np.float32(7)
    given = [replace(s, features=np.full((len(s.time), 5), mark)) for s in day.series]
    after = inject(replace(day, series=given, faults=[]), CONFIG, per_day=3)
    assert made(after)
    for series in after.series:
        seen = np.zeros(len(series.time), dtype=bool)
        for fault in made(after):
            if fault.pod == series.name:
                seen |= (series.time >= fault.time) & (series.time <= fault.until + 6 * 3600)
        ours = series_features(replace(series, features=None), CONFIG.features)
        assert (series.features[~seen] == mark).all()
        np.testing.assert_array_equal(series.features[seen], ours[seen])


def test_no_room_is_reported(day: Day) -> None:
    short = replace(day, series=[replace(s, time=s.time[:20], values=s.values[:20]) for s in day.series], faults=[])
    after = inject(short, CONFIG, per_day=500)
    assert made(after) == []
    assert "more found no quiet stretch" in after.notes[-1]


def test_heights_follow_those_of_the_real_faults(data_folder: Path) -> None:
    """The quantiles in the module's table, and injected faults within the range of the real ones."""
    days = [read_day(data_folder, name) for name in ("2022-08-22", "2022-08-23", "2023-01-29")]
    real = [f for d in days for f in d.faults if f.is_cpu and f.shows_in_cpu]
    assert len(real) == 30
    rise = np.percentile([f.peak - f.baseline for f in real], [0, 10, 50, 90, 100])
    assert rise.round().tolist() == [32, 60, 86, 100, 107]
    peak = np.percentile([f.peak for f in real], [0, 10, 50, 90, 100])
    assert peak.round().tolist() == [84, 88, 98, 105, 110]
    after = [inject(d, CONFIG, per_day=6) for d in days]
    for before, one in zip(days, after):
        check_places(before, one)
    heights = np.array([f.peak - f.baseline for d in after for f in made(d)])
    assert len(heights) > 60
    assert heights.max() <= 110
    assert (heights > 60).mean() == pytest.approx(0.75, abs=0.15), "two thirds saturate, some of the others rise as far"


def test_a_model_fitted_without_labels_finds_real_faults(data_folder: Path) -> None:
    unlabelled = replace(read_day(data_folder, "2022-08-22"), faults=[])
    seen = table(inject(unlabelled, CONFIG, per_day=4), CONFIG)
    model = Logistic.fit(seen, CONFIG)
    raw, _ = held_out(Logistic, seen, CONFIG)
    model = replace(model, calibration=calibrate(raw, seen, CONFIG.model))
    real = table(read_day(data_folder, "2022-08-23"), CONFIG)
    metrics = evaluate(model.predict(real.features), real, CONFIG.episode_gap)
    assert metrics.events == 15
    assert metrics.event_recall >= 0.9
    assert metrics.false_episodes_per_pod_day <= 0.5
