"""Reads the Numenta Anomaly Benchmark (NAB): labelled univariate series. Notices and reports its quirks, repairs none.

Lavin & Ahmad, "Evaluating Real-time Anomaly Detection Algorithms", ICMLA 2015, arXiv:1510.03336; the data is at
github.com/numenta/NAB. The benchmark scores rows by their position in the file, so that every row stays where it is, a
repeated or misplaced timestamp included.
"""

import csv
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.days import DataError

GROUP = "realAWSCloudwatch"
HOUR = 3600
CONSTANT_SHARE = 0.1
"""A value that stays the same for this share of a series or longer is worth a note."""
PROBATION_SHARE = 0.15
"""Rows at the start of a file that are never scored, as a share of the file (NAB's `probationPercent`)."""
PROBATION_LIMIT = 5000
"""The share is taken of this many rows where a file has more."""


@dataclass(frozen=True)
class Labelled:
    """A labelled series, in the order of its file.

    Attributes:
        name: Such as `realAWSCloudwatch/grok_asg_anomaly.csv`, the key in the label files.
        time: int64 [T], seconds since 1970 of the file's clock read as UTC; it may repeat and step back.
        values: float64 [T], finite, in the unit of the file.
        windows: First and last row of each anomaly window, both inside it, in the order of time.
        labels: Rows of the labelled points.
        notes: What is odd in the file, one sentence each.
    """

    name: str
    time: NDArray[np.int64]
    values: NDArray[np.float64]
    windows: list[tuple[int, int]]
    labels: list[int]
    notes: list[str] = field(default_factory=list)

    @property
    def anomalous(self) -> NDArray[np.bool_]:
        """Which rows, bool [T], lie in a window."""
        inside = np.zeros(len(self.time), dtype=np.bool_)
        for first, last in self.windows:
            inside[first : last + 1] = True
        return inside

    @property
    def probation(self) -> int:
        """Rows at the start that are not scored."""
        return probation(len(self.time))

    @property
    def step(self) -> int:
        """Median seconds from one row to the next."""
        return int(np.median(np.diff(self.time)))


def probation(rows: int) -> int:
    """Rows of the probationary period: `min(floor(0.15 rows), 750)`, as in NAB's `getProbationPeriod`."""
    return int(min(math.floor(PROBATION_SHARE * rows), PROBATION_SHARE * PROBATION_LIMIT))


def read_nab(folder: Path, group: str = GROUP) -> list[Labelled]:
    """Reads the series of one group with their labels, by name.

    Args:
        folder: Holds `combined_labels.json`, `combined_windows.json` and the folder `group` of CSV files.
        group: Such as `realAWSCloudwatch`.

    Raises:
        DataError: A file is missing, empty or not in the expected format; the message names file and field.
    """
    paths = sorted((folder / group).glob("*.csv"))
    if not paths:
        msg = f"{group}: no CSV files in this folder of {folder.name!r}; give the folder that holds {group}/*.csv"
        raise DataError(msg)
    labels, windows = (_read_json(folder / f"combined_{what}.json") for what in ("labels", "windows"))
    return [_read_series(path, f"{group}/{path.name}", labels, windows) for path in paths]


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"{path.name}: not found in the data folder {path.parent.name!r}"
        raise DataError(msg)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        msg = f"{path.name}: not JSON: {error}"
        raise DataError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path.name}: not an object whose keys are the names of series"
        raise DataError(msg)
    return content


def _read_series(path: Path, name: str, labels: dict[str, Any], windows: dict[str, Any]) -> Labelled:
    time, values = _read_csv(path)
    points = [_seconds(text, "combined_labels.json", name) for text in _entry(labels, name, "combined_labels.json")]
    spans = []
    for pair in _entry(windows, name, "combined_windows.json"):
        if not isinstance(pair, list) or len(pair) != 2:  # noqa: PLR2004 - begin and end
            msg = f"combined_windows.json: {name}: a window is [begin, end], not {pair!r}"
            raise DataError(msg)
        begin, end = (_seconds(text, "combined_windows.json", name) for text in pair)
        spans.append((begin, end))
    rows, kept, notes = [], [], _describe(time, values)
    for begin, end in sorted(spans):
        inside = np.flatnonzero((time >= begin) & (time <= end))
        if len(inside):
            rows.append((int(inside[0]), int(inside[-1])))
        else:
            notes.append(f"the window from {_text(begin)} to {_text(end)} holds no row: ignored")
    for point in sorted(points):
        at = np.flatnonzero(time == point)
        if len(at):
            kept.append(int(at[0]))
        else:
            notes.append(f"the label {_text(point)} is not the timestamp of a row: ignored")
    notes += _describe_labels(rows, kept, probation(len(time)))
    return Labelled(name, time, values, rows, kept, notes)


def _entry(content: dict[str, Any], name: str, file: str) -> list[Any]:
    if not isinstance(entry := content.get(name), list):
        msg = f"{file}: {name}: {'missing' if entry is None else 'not a list'}; list its labels there, [] if none"
        raise DataError(msg)
    return entry


def _read_csv(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Timestamps and values of a file, every row of it."""
    times, values = [], []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := {"timestamp", "value"} - set(reader.fieldnames or ()):
            msg = f"{path.name}: columns missing: {', '.join(sorted(missing))}"
            raise DataError(msg)
        for row in reader:
            times.append(_seconds(row["timestamp"], path.name, f"timestamp of line {reader.line_num}"))
            try:
                values.append(float(row["value"]))
            except (TypeError, ValueError):
                values.append(math.nan)
            if not math.isfinite(values[-1]):
                msg = f"{path.name}: value of line {reader.line_num}: not a finite number: {row['value']!r}"
                raise DataError(msg)
    if len(times) < 2:  # noqa: PLR2004 - a step needs two
        msg = f"{path.name}: {len(times)} rows; a series needs at least two"
        raise DataError(msg)
    return np.array(times, dtype=np.int64), np.array(values)


def _seconds(text: object, file: str, where: str) -> int:
    try:
        return int(datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        msg = f"{file}: {where}: not a time such as 2014-02-14 14:30:00: {text!r}"
        raise DataError(msg) from error


def _text(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"


def _describe(time: NDArray[np.int64], values: NDArray[np.float64]) -> list[str]:
    """Sentences on the clock and on values that do not change."""
    notes = []
    steps = np.diff(time)
    step = int(np.median(steps))
    if repeated := int((steps == 0).sum()):
        at = _text(int(time[1:][steps == 0][0]))
        notes.append(f"{repeated} rows repeat the timestamp before them, first at {at}: kept, rows count by position")
    if back := int((steps < 0).sum()):
        at = _text(int(time[1:][steps < 0][0]))
        notes.append(f"{back} timestamps lie before the one above them, first {at}: kept in the file's order")
    if gaps := int((steps > step).sum()):
        notes.append(f"{gaps} gaps in time, the longest {int(steps.max())} s where {step} s is usual: not filled")
    if short := int(((steps > 0) & (steps < step)).sum()):
        notes.append(f"{short} steps are shorter than the usual {step} s: left as they are")
    notes += [
        f"the clock jumps {jump:+} s at {_text(at)}, a daylight-saving change: the file's times are local, not UTC"
        for at, jump in _clock_changes(time, step)
    ]
    edges = np.flatnonzero(np.concatenate([[True], np.diff(values) != 0, [True]]))
    runs = np.diff(edges)
    longest = int(runs.argmax())
    if runs[longest] >= CONSTANT_SHARE * len(values):
        notes.append(f"the value stays at {values[edges[longest]]:g} for {runs[longest]} of {len(values)} rows")
    return notes


def _clock_changes(time: NDArray[np.int64], step: int) -> list[tuple[int, int]]:
    """Jumps of about an hour at night on a Sunday of a month in which clocks change: when, and by how many seconds."""
    found = []
    for before, after in zip(time[:-1].tolist(), time[1:].tolist()):
        jump = HOUR * round((after - before - step) / HOUR)
        if abs(jump) != HOUR or abs(after - before - jump) > max(2 * step, HOUR // 6):
            continue
        day = datetime.fromtimestamp(after, UTC)
        sunday = day.weekday() == 6 and day.hour <= 3  # noqa: PLR2004 - clocks change then
        if sunday and day.month in {3, 4, 10, 11}:
            found.append((after, jump))
    return found


def _describe_labels(windows: list[tuple[int, int]], labels: list[int], quiet: int) -> list[str]:
    """Sentences on windows and labels that do not fit each other or the scored part."""
    notes = []
    if not windows:
        notes.append("no anomaly windows: every detection in it is false")
    if early := sum(first < quiet for first, _ in windows):
        notes.append(f"{early} windows begin in the {quiet} probationary rows, which are not scored")
    if outside := sum(not any(first <= row <= last for first, last in windows) for row in labels):
        notes.append(f"{outside} labels lie in no window: the score goes by the windows")
    if shared := sum(sum(first <= row <= last for row in labels) > 1 for first, last in windows):
        notes.append(f"{shared} windows hold more than one label: found once, they count as found")
    if any(last >= first for (_, last), (first, _) in pairwise(windows)):
        notes.append("windows overlap: a row counts for the earliest of them")
    return notes
