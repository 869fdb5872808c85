"""The loader notices, repairs and reports the quirks of the raw data."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from training.config import LabelConfig
from training.data.days import DataError, Day, label
from training.data.nezha import read_day

START = int(datetime(2024, 1, 1, 8, tzinfo=UTC).timestamp())
HEAD = "timestamp,pod,cpu_percent,memory_percent,syscall_read,syscall_write,node_cpu_percent,node_memory_percent"
FAULT_AT = 60
"""Sample at which pod `a` of the made day is raised, for four samples."""


def sample(pod: str, time: int, cpu: float | str = 5.0) -> str:
    return f"{time},{pod},{cpu},40.0,600.0,1200.0,1.0,2.0"


def fault(time: int, pod: str = "a", kind: str = "cpu_contention", text: int | None = None) -> dict[str, str]:
    return {
        "inject_time": datetime.fromtimestamp(time if text is None else text, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        "inject_timestamp": str(time),
        "inject_pod": pod,
        "inject_type": kind,
    }


def raised_pod(pod: str = "a", minutes: int = 120) -> list[str]:
    raised = range(FAULT_AT, FAULT_AT + 4)
    return [sample(pod, START + 60 * i, 90.0 if i in raised else 5.0) for i in range(minutes)]


def day_of(folder: Path, rows: Iterable[str], faults: list[dict[str, str]]) -> Day:
    (folder / "2024-01-01.csv").write_text("\n".join([HEAD, *rows]) + "\n")
    (folder / "2024-01-01-faults.json").write_text(json.dumps(faults))
    return read_day(folder, "2024-01-01")


def test_channels_are_percent_percent_and_operations_a_second(tmp_path: Path) -> None:
    day = day_of(tmp_path, raised_pod(), [])
    assert day.series[0].values[0].tolist() == [5.0, 40.0, 30.0]
    assert (day.rows, day.uri) == (120, f"{tmp_path.name}/2024-01-01.csv")


def test_pod_with_a_wrong_clock_is_moved_back_and_reported(tmp_path: Path) -> None:
    ahead = [sample("c", START + 200_000_000 + 60 * i) for i in range(120)]
    day = day_of(tmp_path, raised_pod("a") + raised_pod("b") + ahead, [])
    assert {int(s.time[0]) for s in day.series} == {START}
    assert any("pod c: its clock is +200,000,000 s off" in note for note in day.notes)


def test_pod_that_starts_an_hour_late_is_left_alone(tmp_path: Path) -> None:
    late = [sample("c", START + 3600 + 60 * i) for i in range(60)]
    day = day_of(tmp_path, raised_pod("a") + raised_pod("b") + late, [])
    assert int(day.series[2].time[0]) == START + 3600


def test_time_zone_slip_is_resolved_by_the_reading_inside_the_day(tmp_path: Path) -> None:
    at = START + 60 * FAULT_AT
    day = day_of(tmp_path, raised_pod(), [fault(at - 28_800, text=at)])
    assert day.faults[0].time == at
    assert day.faults[0].shows_in_cpu
    assert any("-8.0 h" in note and "time-zone slip" in note for note in day.notes)


def test_time_zone_slip_is_resolved_by_where_cpu_rises_when_both_readings_are_inside(tmp_path: Path) -> None:
    at = START + 60 * FAULT_AT
    rows = raised_pod(minutes=300)
    for stamp, text in ((at, at + 7200), (at + 7200, at)):
        assert day_of(tmp_path, rows, [fault(stamp, text=text)]).faults[0].time == at


def test_cpu_fault_labels_only_raised_samples(tmp_path: Path) -> None:
    day = day_of(tmp_path, raised_pod(), [fault(START + 60 * FAULT_AT)])
    event, judged = label(day.series[0], day.faults, LabelConfig())
    assert np.flatnonzero(event == 0).tolist() == [60, 61, 62, 63]
    assert np.flatnonzero(~judged).tolist() == [59, 64, 65, 66, 67]
    assert judged[event >= 0].all()


def test_fault_that_does_not_show_in_cpu_is_reported_and_not_labelled(tmp_path: Path) -> None:
    at = START + 60 * FAULT_AT
    day = day_of(tmp_path, raised_pod(), [fault(START + 1800), fault(at, kind="network_delay")])
    event, _ = label(day.series[0], day.faults, LabelConfig())
    assert (event == -1).all()
    assert any("0 of 1 CPU faults show" in note for note in day.notes)
    assert any("1 of 1 other faults show in CPU: never labelled" in note for note in day.notes)


def test_faults_of_pods_without_samples_are_reported(tmp_path: Path) -> None:
    day = day_of(tmp_path, raised_pod(), [fault(START, pod="gone")])
    assert day.faults == []
    assert any("1 faults are on pods without samples" in note for note in day.notes)


def test_unordered_repeated_unreadable_and_missing_samples(tmp_path: Path) -> None:
    rows = raised_pod()
    del rows[20:25]
    rows = [*reversed(rows), rows[0], sample("a", START + 1, "oops"), sample("a", START + 2, "nan")]
    day = day_of(tmp_path, rows, [])
    assert (np.diff(day.series[0].time) > 0).all()
    notes = " | ".join(day.notes)
    assert "2 unreadable rows" in notes
    assert "1 samples repeat a timestamp" in notes
    assert "1 gaps in time, the longest 360 s" in notes


@pytest.mark.parametrize(
    ("csv", "faults", "message"),
    [
        ("timestamp,pod\n", "[]", "columns missing: cpu_percent"),
        (HEAD + "\n", "[]", "no samples"),
        (HEAD + "\n" + sample("a", START), '[{"inject_pod": "a"}]', "not a list of faults"),
        (HEAD + "\n" + sample("a", START), "{", "not a list of faults"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, csv: str, faults: str, message: str) -> None:
    (tmp_path / "d.csv").write_text(csv)
    (tmp_path / "d-faults.json").write_text(faults)
    with pytest.raises(DataError, match=message):
        read_day(tmp_path, "d")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d\.csv: not found"):
        read_day(tmp_path, "d")


def test_real_days_show_the_documented_quirks(data_folder: Path) -> None:
    august = read_day(data_folder, "2022-08-22")
    assert any("adservice" in note and "+200,000,000 s" in note for note in august.notes)
    january = read_day(data_folder, "2023-01-29")
    assert any("time-zone slip" in note for note in january.notes)
    first, last = january.span
    assert all(first <= fault.time <= last for fault in january.faults)
    for day, events in ((august, 11), (january, 4)):
        assert sum(fault.is_cpu and fault.shows_in_cpu for fault in day.faults) == events
