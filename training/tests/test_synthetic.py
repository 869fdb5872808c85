"""Generated fleets: the same bytes for the same seed, weeks, pods that are replaced, faults that show, drift."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from training.config import Config
from training.data.days import Day, digest, label
from training.data.synthetic import KINDS, make_day, make_weeks

CONFIG = Config()


@pytest.fixture(scope="module")
def fleet() -> Day:
    return make_weeks(CONFIG, days=14, pods=4)


def test_a_day_is_as_it_always_was() -> None:
    day = make_day("2022-08-22", CONFIG)
    assert day.sha256 == "3870c78817477d26da8b1ba63afa6be213dd689ca4108e25d0379a511855bf37"


def test_same_seed_same_fleet(fleet: Day) -> None:
    again = make_weeks(CONFIG, days=14, pods=4)
    assert again.sha256 == fleet.sha256 == digest(again.series)
    assert again.faults_sha256 == fleet.faults_sha256
    assert make_weeks(replace(CONFIG, seed=1), days=14, pods=4).sha256 != fleet.sha256


def test_pods_are_replaced_and_never_overlap(fleet: Day) -> None:
    assert fleet.rows == sum(len(s.time) for s in fleet.series)
    for index in range(4):
        pods = [s for s in fleet.series if s.name.startswith(f"synthetic-{index}-")]
        assert len(pods) >= 2
        for one, following in pairwise(pods):
            assert 60 <= following.time[0] - one.time[-1] <= 600
    assert all((np.diff(s.time) == 60).all() for s in fleet.series)


def test_values_are_in_range_and_weekends_are_quieter(fleet: Day) -> None:
    values = np.concatenate([s.values for s in fleet.series])
    time = np.concatenate([s.time for s in fleet.series])
    assert np.isfinite(values).all()
    assert (values.min(axis=0) >= 0).all()
    assert values[:, 0].max() <= 105
    assert values[:, 1].max() <= 100
    weekday = (time // 86_400 + 3) % 7
    ratio = np.median(values[weekday >= 5, 2]) / np.median(values[weekday < 5, 2])
    assert 0.4 < ratio < 0.8


def test_faults_of_every_kind_show_in_their_channel(fleet: Day) -> None:
    by_kind = {kind: [f for f in fleet.faults if f.kind == kind] for kind in KINDS}
    for kind, channel in zip(KINDS, (0, 0, 1, 2)):
        assert len(by_kind[kind]) >= 3
        shown = [f for f in by_kind[kind] if f.channel is not None]
        assert len(shown) >= 0.75 * len(by_kind[kind])
        assert {f.channel for f in shown} == {channel}
    events = set()
    for series in fleet.series:
        event, _ = label(series, fleet.faults, CONFIG.labels)
        events |= set(event[event >= 0].tolist())
    assert events == {i for i, f in enumerate(fleet.faults) if f.channel is not None}


def test_drift_changes_load_and_noise_from_its_day_on(fleet: Day) -> None:
    drifted = make_weeks(CONFIG, days=14, pods=4, drift_day=7)
    begin = drifted.span[0]
    for old, new in zip(fleet.series, drifted.series):
        before = new.time < begin + 7 * 86_400
        np.testing.assert_array_equal(old.values[before][:, 2], new.values[before][:, 2])
        if (~before).any():
            assert np.median(new.values[~before, 2]) > 1.5 * np.median(old.values[~before, 2])
    assert "load and noise change from day 7 on" in drifted.notes[0]
