"""Feature rows: written and read back as they are, in a folder and on an S3 server, and read by the server's binary."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from conftest import ROOT
from training import onnxd
from training.config import Config
from training.data import rows
from training.data.days import DataError, Day, label
from training.data.synthetic import make_day
from training.features import series_features

DAY = "2026-01-05"
CONFIG = Config()


@pytest.fixture(scope="module")
def day() -> Day:
    return make_day(DAY, CONFIG, pods=3, minutes=600)


def read(where: object, day: Day) -> Day:
    return rows.read(str(where), CONFIG, begin=day.span[0], end=day.span[1])


def check(again: Day, day: Day) -> None:
    assert [s.name for s in again.series] == [s.name for s in day.series]
    for one, other in zip(again.series, day.series):
        np.testing.assert_array_equal(one.time, other.time)
        np.testing.assert_array_equal(one.values, other.values)
        np.testing.assert_array_equal(one.features, series_features(other, CONFIG.features))
        raised, judged = label(one, again.faults, CONFIG.labels)
        known = label(other, day.faults, CONFIG.labels)
        np.testing.assert_array_equal((raised >= 0)[judged & known[1]], (known[0] >= 0)[judged & known[1]])
        assert (raised >= 0).sum() == (known[0] >= 0).sum()
    assert len(again.faults) == len(day.faults)
    assert again.rows == day.rows


def test_rows_come_back_as_they_were_written(tmp_path: Path, day: Day) -> None:
    (path,) = rows.write(str(tmp_path), day, CONFIG)
    assert Path(path).parent == tmp_path / f"date={DAY}"
    again = read(tmp_path, day)
    check(again, day)
    assert "the stored features of 720 rows are those that training computes, within 0.001" in again.notes
    assert read(tmp_path, day).sha256 == again.sha256


def test_only_the_dates_asked_for_are_opened(tmp_path: Path, day: Day) -> None:
    rows.write(str(tmp_path), day, CONFIG)
    for other in ("2026-01-04", "2026-01-06"):
        (tmp_path / f"date={other}").mkdir()
        (tmp_path / f"date={other}" / "a.parquet").write_bytes(b"no Parquet")
    assert read(tmp_path, day).rows == day.rows
    with pytest.raises(DataError, match=r"date=2026-01-04/a\.parquet: cannot be read as Parquet"):
        rows.read(str(tmp_path), CONFIG, begin=day.span[0] - 86_400, end=day.span[1])


def test_rows_over_midnight_lie_in_two_files(tmp_path: Path, day: Day) -> None:
    late = replace(day, series=[replace(s, time=s.time + 18 * 3600) for s in day.series], faults=[])
    assert len(rows.write(str(tmp_path), late, CONFIG)) == 2
    again = rows.read(str(tmp_path), CONFIG, begin=late.span[0] - 86_400, end=late.span[1])
    check(again, late)
    assert "1 dates have no files, the first 2026-01-04" in again.notes


def test_stored_features_are_taken_and_skew_is_reported(tmp_path: Path, day: Day) -> None:
    series = [replace(s, features=series_features(s, CONFIG.features)) for s in day.series]
    series[0].features[500, 0] += 0.5
    series[1].features[550, 4] = np.nan
    rows.write(str(tmp_path), replace(day, series=series), CONFIG)
    again = read(tmp_path, day)
    np.testing.assert_array_equal(again.series[0].features, series[0].features)
    (note,) = [n for n in again.notes if "differ" in n]
    assert note.startswith("2 of 720 stored rows differ from what training computes by more than 0.001: cpu_zscore by")
    assert "cpu_zscore by up to 0.5" in note


def test_missing_memory_is_null_and_nan(tmp_path: Path, day: Day) -> None:
    values = day.series[0].values.copy()
    values[10:20, 1] = np.nan
    features = series_features(day.series[0], CONFIG.features)
    features[10:20, 1] = np.nan
    one = replace(day, series=[replace(day.series[0], values=values, features=features)], faults=[], rows=600)
    (path,) = rows.write(str(tmp_path), one, CONFIG)
    assert parquet.read_table(path)["memory_percent"].null_count == 10
    check(read(tmp_path, day), one)


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_timestamps_dictionaries_and_repeated_rows_are_read(tmp_path: Path, day: Day, unit: str) -> None:
    table = rows.to_table(day, CONFIG)
    stamps = table["ts"].cast(pa.timestamp("s", "UTC")).cast(pa.timestamp(unit, "UTC"))
    table = table.set_column(1, "ts", stamps).set_column(0, "series", table["series"].dictionary_encode())
    (tmp_path / f"date={DAY}").mkdir()
    for name in ("a", "b"):
        parquet.write_table(table, tmp_path / f"date={DAY}" / f"{name}.parquet")
    again = read(tmp_path, day)
    check(again, day)
    assert "1800 rows repeat a time of their series: the first of each is kept" in again.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("cpu_scale"), r"x\.parquet: no column cpu_scale: write the columns series, ts"),
        (lambda t: t.set_column(1, "ts", pa.array([1e9] * len(t))), "column ts is double: write it as int64"),
        (lambda t: t.set_column(1, "ts", pa.array([10**12] * len(t))), "column ts is not in seconds"),
        (lambda t: t.set_column(2, "cpu_percent", pa.array(["1"] * len(t))), "cpu_percent is string: .* as double"),
        (lambda t: t.set_column(2, "cpu_percent", pa.nulls(len(t))), "column cpu_percent has 1800 nulls"),
        (lambda t: t.set_column(1, "ts", pa.array([0] * len(t))), "holds no rows from 2026-01-05"),
    ],
)
def test_files_without_the_schema_are_named(tmp_path: Path, day: Day, change: object, message: str) -> None:
    (tmp_path / f"date={DAY}").mkdir()
    parquet.write_table(change(rows.to_table(day, CONFIG)), tmp_path / f"date={DAY}" / "x.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path, day)


def test_a_place_without_rows_is_named(tmp_path: Path, day: Day) -> None:
    with pytest.raises(DataError, match=r"holds no date=YYYY-MM-DD/\*\.parquet from 2026-01-05"):
        read(tmp_path, day)
    with pytest.raises(DataError, match="neither a folder nor s3://"):
        read("gs://bucket/x", day)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    pytest.importorskip("moto", reason="the tests' S3 server is not installed: make test")
    command = [sys.executable, "-W", "ignore", str(ROOT / "server" / "tests" / "s3_server.py")]
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:  # noqa: S603
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.stdout.readline().strip()}")
        boto3.client("s3").create_bucket(Bucket="metrics")
        yield "s3://metrics/rows"
        server.stdin.close()


def test_rows_go_through_a_bucket(bucket: str, day: Day) -> None:
    (path,) = rows.write(bucket, day, CONFIG)
    assert path.startswith(f"metrics/rows/date={DAY}/")
    again = read(bucket, day)
    check(again, day)
    assert again.uri == "rows:s3://metrics/rows"
    with pytest.raises(DataError, match="holds no date="):
        read("s3://metrics/other", day)
    with pytest.raises(DataError, match="nobucket"):
        read("s3://nobucket/rows", day)


def test_the_servers_replay_reads_the_file(program: Path, tmp_path: Path, day: Day) -> None:
    answers = {
        s.name: {"score": np.full(len(s.time), 0.1), "forecast": s.values[:, 0], "version": ["1"] * len(s.time)}
        for s in day.series
    }
    (path,) = rows.write(str(tmp_path), day, CONFIG, served=True, answers=answers)
    run = subprocess.run(  # noqa: S603 - our own binary
        [program, "replay", path, "--repository", ROOT / "models", "--label-source", "chaos"],
        env=onnxd.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    warm = sum(int(np.isfinite(series_features(s, CONFIG.features)).all(axis=1).sum()) for s in day.series)
    assert f"{warm} rows" in run.stdout + run.stderr, "all rows past the warm-up were scored"
    assert "anomalies by chaos" in run.stdout
