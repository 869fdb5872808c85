"""One text names a source; what it gives is split by time so that no test row's features have seen training."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from training.config import Config
from training.data import injected, rows
from training.data.days import DataError, Day, digest
from training.data.nezha import read_day
from training.data.source import FORMS, _queries, _token, fingerprint, open_source, prepare, split
from training.data.synthetic import make_day, make_weeks
from training.features import series_features

CONFIG = Config()
GAP = CONFIG.features.window_seconds


@pytest.fixture(scope="module")
def fleet() -> Day:
    return make_weeks(CONFIG, days=4, pods=3)


def test_split_leaves_a_window_between_and_test_features_never_see_training(fleet: Day) -> None:
    prepared = split(fleet, CONFIG, 0.8)
    (train,), (test,) = prepared.train, prepared.test
    first, last = fleet.span
    assert train.span[0] == first
    assert test.span[1] == last
    assert GAP <= test.span[0] - train.span[1] <= GAP + 120
    assert (train.span[1] - first) / (last - first - GAP) == pytest.approx(0.8, abs=0.001)
    assert fleet.rows - train.rows - test.rows == pytest.approx(3 * 360, abs=30)
    # Other values in training change nothing in test; other values in the gap do.
    cut = train.span[1] + 1
    for changed, same in ((lambda t: t < cut, True), (lambda t: (t >= cut) & (t < test.span[0]), False)):
        series = [
            replace(s, values=np.where(changed(s.time)[:, None], s.values * 3 + 7, s.values)) for s in fleet.series
        ]
        (again,) = split(replace(fleet, series=series), CONFIG, 0.8).test
        assert (again.sha256 == test.sha256) is same
    whole = {s.name: s for s in fleet.series}
    for one in test.series:
        other = whole[one.name]
        keep = other.time >= one.time[0]
        np.testing.assert_array_equal(one.features, series_features(other, CONFIG.features)[keep])
    assert all(s.features is None for s in train.series)
    assert "rows of the 6 h between are dropped" in prepared.notes[-1]


def test_faults_go_where_their_rows_are(fleet: Day) -> None:
    prepared = split(fleet, CONFIG, 0.5)
    (train,), (test,) = prepared.train, prepared.test
    assert train.faults
    assert test.faults
    assert not set(train.faults) & set(test.faults)
    for part in (train, test):
        spans = {s.name: (s.time[0], s.time[-1]) for s in part.series}
        assert all(spans[f.pod][0] <= f.until + 120 and f.time - 60 <= spans[f.pod][1] for f in part.faults)


def test_given_features_are_kept_on_both_sides(fleet: Day) -> None:
    given = [replace(s, features=np.arange(len(s.time) * 5, dtype=np.float32).reshape(-1, 5)) for s in fleet.series]
    prepared = split(replace(fleet, series=given), CONFIG, 0.8)
    whole = {s.name: s for s in given}
    for one in (*prepared.train[0].series, *prepared.test[0].series):
        other = whole[one.name]
        low = int(np.searchsorted(other.time, one.time[0]))
        np.testing.assert_array_equal(one.features, other.features[low : low + len(one.time)])


def test_too_little_time_is_refused() -> None:
    with pytest.raises(DataError, match="are too few to split: give 24 h or more"):
        split(make_day("2026-01-05", CONFIG), CONFIG, 0.8)


def test_synthetic_source_takes_its_options() -> None:
    prepared = prepare("synthetic:?days=3&seed=5&pods=2&drift_day=1&share=0.5", CONFIG)
    assert prepared.train[0].uri == "synthetic/seed-5/2026-01-05_3d"
    assert "2 workloads" in prepared.notes[0]
    assert "from day 1 on" in prepared.notes[0]
    again = prepare("synthetic:?days=3&seed=5&pods=2&drift_day=1&share=0.5", CONFIG)
    assert fingerprint(again.train + again.test) == fingerprint(prepared.train + prepared.test)
    assert fingerprint(prepare("synthetic:?days=3&pods=2", CONFIG).train) != fingerprint(prepared.train)


def test_nezha_source_is_split_by_its_days(data_folder: Path) -> None:
    for where in (data_folder, data_folder.parent):
        prepared = prepare(f"nezha:{where}", CONFIG)
        assert [d.name for d in prepared.train] == ["2022-08-22"]
        assert [d.name for d in prepared.test] == ["2022-08-23", "2023-01-29"]
        assert any("2023-01-29: " in n and "time-zone slip" in n for n in prepared.notes)
    assert prepared.train[0].sha256 == read_day(data_folder, "2022-08-22").sha256


def test_rows_without_labels_get_injected_faults(tmp_path: Path, fleet: Day) -> None:
    rows.write(str(tmp_path), replace(fleet, faults=[]), CONFIG)
    end = datetime.fromtimestamp(fleet.span[1], UTC).isoformat()
    text = f"rows:{tmp_path}?days=3.9999&end={end.replace('+', '%2B')}"
    prepared = prepare(text, CONFIG)
    assert {f.kind for d in (*prepared.train, *prepared.test) for f in d.faults} - {injected.UNEXPLAINED} == {
        injected.KIND
    }
    assert any("INJECTED" in n for n in prepared.notes)
    plain = prepare(text + "&inject=off", CONFIG)
    assert plain.train[0].faults == []
    rows.write(str(tmp_path / "labelled"), fleet, CONFIG)
    labelled = prepare(text.replace("?", "/labelled?"), CONFIG)
    assert {f.kind for f in labelled.train[0].faults} == {rows.KIND}
    rows.write(str(tmp_path / "few"), replace(fleet, faults=fleet.faults[:3]), CONFIG)
    few = prepare(text.replace("?", "/few?"), CONFIG)
    assert {f.kind for f in few.train[0].faults} - {injected.UNEXPLAINED} == {rows.KIND, injected.KIND}


def test_fingerprint_knows_contents_only(fleet: Day) -> None:
    other = make_day("2026-01-05", CONFIG)
    assert fingerprint([fleet, other]) == fingerprint([replace(other, uri="moved"), fleet])
    assert fingerprint([fleet]) != fingerprint([replace(fleet, faults_sha256="")])
    one = replace(fleet.series[0], values=fleet.series[0].values + 1e-9)
    assert digest([one, *fleet.series[1:]]) != fleet.sha256


def test_queries_come_from_a_file_and_single_options_win(tmp_path: Path) -> None:
    (tmp_path / "q.toml").write_text('cpu = "a"\nmemory = "b"\nlabels = ["cluster", "pod"]\n')
    queries = _queries(
        open_source(f"prometheus:http://h:9090?queries={tmp_path}/q.toml&memory=rate(c%7Bx%3D%22y%22%7D%5B2m%5D)")
    )
    assert (queries.cpu, queries.memory, queries.labels) == ("a", 'rate(c{x="y"}[2m])', ("cluster", "pod"))
    (tmp_path / "bad.toml").write_text('gpu = "a"')
    with pytest.raises(DataError, match="has no use for gpu: give cpu, disk_io, faults, labels, memory"):
        _queries(open_source(f"prometheus:http://h:9090?queries={tmp_path}/bad.toml"))


def test_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert _token(open_source(f"prometheus:http://h:9090?token_file={tmp_path}/token")) == "secret"
    monkeypatch.setenv("PROMETHEUS_TOKEN", "other")
    assert _token(open_source("prometheus:http://h:9090")) == "other"
    with pytest.raises(DataError, match="token_file=/no/such cannot be read"):
        _token(open_source("prometheus:http://h:9090?token_file=/no/such"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../shared/data", "is no source of data: give one of"),
        ("influx:http://h", "is no source of data: give one of"),
        ("synthetic:?dayz=3", "synthetic: no option dayz: give one of"),
        ("nezha:x?days=3", "nezha: no option days"),
        ("prometheus:", "prometheus: lacks its address"),
        ("synthetic:folder", "synthetic: has no address"),
        ("synthetic:?days=many", "days=many is not a number from 2 to 365"),
        ("synthetic:?days=4&drift_day=9", "drift_day=9 is not a number from -1 to 3"),
        ("synthetic:?start=monday", "start=monday is no date"),
        ("synthetic:?drift=sideways,level", "drift=sideways: give some of level,limits,persistence"),
        ("rows:x?end=today", "end=today is no time"),
        ("rows:x?share=2", r"share=2 is not a number from 0\.1 to 0\.95"),
        ("rows:x?inject=yes", "inject=yes is none of auto, on and off"),
        ("prometheus:host:9090", "is not an address that can be asked"),
        ("nezha:/no/such", r"2022-08-22\.csv: not found"),
    ],
)
def test_texts_that_cannot_be_used_are_answered_with_what_can(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        prepare(text, CONFIG)
    if "give one of" in message:
        assert FORMS in str(error.value)
