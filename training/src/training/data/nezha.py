"""Reads the Nezha data: real Kubernetes pods, 1-minute samples, injected faults. Notices and reports its quirks.

A day is `<day>.csv` and `<day>-faults.json`. This module puts series and faults on one clock; it computes no features.
"""

import csv
import hashlib
import json
import math
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from training.config import LabelConfig
from training.data.days import DataError, Day, Fault, Series, cpu_rise, describe_fault

CLOCK_TOLERANCE = 6 * 3600
"""A pod whose first sample is further than this from the others' median has a wrong clock."""
READING_TOLERANCE = 120
"""`inject_time` and `inject_timestamp` of a fault that differ by less than this agree."""
GAP = 90
"""Two samples of a 1-minute series further apart than this have a gap between them."""
SECONDS_PER_SAMPLE = 60


def read_day(folder: Path, day: str, labels: LabelConfig | None = None) -> Day:
    """Reads one day and repairs what can be repaired.

    Args:
        folder: Holds `<day>.csv` and `<day>-faults.json`.
        day: Such as `2022-08-22`.
        labels: How faults become labels.

    Raises:
        DataError: A file is missing, empty or not in the expected format.
    """
    csv_path, faults_path = folder / f"{day}.csv", folder / f"{day}-faults.json"
    for path in (csv_path, faults_path):
        if not path.is_file():
            msg = f"{path.name}: not found in the data folder {folder.name!r}"
            raise DataError(msg)
    series, notes = _read_series(csv_path)
    series, clock_notes = _align_clocks(series)
    notes += clock_notes + _describe(series)
    faults, fault_notes = _read_faults(faults_path, series, labels or LabelConfig())
    return Day(
        name=day,
        series=series,
        faults=faults,
        notes=notes + fault_notes,
        uri=f"{folder.name}/{csv_path.name}",
        sha256=hashlib.sha256(csv_path.read_bytes()).hexdigest(),
        faults_sha256=hashlib.sha256(faults_path.read_bytes()).hexdigest(),
        rows=sum(len(s.time) for s in series),
    )


def _read_series(path: Path) -> tuple[list[Series], list[str]]:
    """Parses the CSV into series; orders samples by time and drops duplicates and unreadable rows, with a note."""
    samples: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    bad = 0
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        needed = {"timestamp", "pod", "cpu_percent", "memory_percent", "syscall_read", "syscall_write"}
        if missing := needed - set(reader.fieldnames or ()):
            msg = f"{path.name}: columns missing: {', '.join(sorted(missing))}"
            raise DataError(msg)
        for row in reader:
            try:
                disk = (float(row["syscall_read"]) + float(row["syscall_write"])) / SECONDS_PER_SAMPLE
                sample = (int(row["timestamp"]), float(row["cpu_percent"]), float(row["memory_percent"]), disk)
            except (ValueError, TypeError):
                bad += 1
                continue
            if not all(map(math.isfinite, sample)):
                bad += 1
                continue
            samples[row["pod"]].append(sample)
    if not samples:
        msg = f"{path.name}: no samples"
        raise DataError(msg)
    notes = [f"{bad} unreadable rows: dropped"] if bad else []
    series = []
    for pod in sorted(samples):
        table = np.array(samples[pod], dtype=np.float64)
        time, first = np.unique(table[:, 0].astype(np.int64), return_index=True)
        if repeated := len(table) - len(time):
            notes.append(f"pod {pod}: {repeated} samples repeat a timestamp: the first of each is kept")
        series.append(Series(pod, time, table[first, 1:]))
    return series, notes


def _align_clocks(series: list[Series]) -> tuple[list[Series], list[str]]:
    """Moves a series whose clock lies far from the others' so that it begins when they do.

    The reference is the median first sample of all series, so that one wrong clock cannot move the right ones.
    """
    start = int(np.median([s.time[0] for s in series]))
    aligned, notes = [], []
    for one in series:
        offset = int(one.time[0]) - start
        if abs(offset) <= CLOCK_TOLERANCE:
            aligned.append(one)
            continue
        aligned.append(replace(one, time=one.time - offset))
        notes.append(f"pod {one.name}: its clock is {offset:+,} s off the other pods': moved back by that")
    return aligned, notes


def _describe(series: list[Series]) -> list[str]:
    """Notes on gaps and on CPU readings of exactly zero; both are left as they are."""
    notes = []
    for one in series:
        steps = np.diff(one.time)
        if gaps := int((steps > GAP).sum()):
            notes.append(f"pod {one.name}: {gaps} gaps in time, the longest {int(steps.max())} s: windows are by time")
    zeros = sum(int((s.values[:, 0] == 0).sum()) for s in series)
    if zeros:
        notes.append(f"CPU reads exactly 0 in {zeros} samples (missed scrapes, most likely): left as they are")
    return notes


def _read_faults(path: Path, series: list[Series], labels: LabelConfig) -> tuple[list[Fault], list[str]]:
    """Parses the faults, decides when each happened and whether it shows in CPU."""
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        parsed = [
            (
                str(e["inject_pod"]),
                str(e["inject_type"]),
                int(e["inject_timestamp"]),
                int(datetime.strptime(e["inject_time"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()),
            )
            for e in entries
        ]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"{path.name}: not a list of faults: {error!r}"
        raise DataError(msg) from error
    by_pod = {s.name: s for s in series}
    first, last = min(s.time[0] for s in series), max(s.time[-1] for s in series)
    faults, absent, slipped, early = [], 0, [], 0
    for pod, kind, stamp, text in parsed:
        one = by_pod.get(pod)
        early += stamp < first
        time = stamp
        if abs(stamp - text) > READING_TOLERANCE:
            readings = [t for t in (stamp, text) if first <= t <= last] or [stamp, text]
            # Both inside the day: believe the one after which CPU rises more.
            time = max(readings, key=lambda t: cpu_rise(one, t, labels)[1] if one else 0.0)
            slipped.append((stamp - text, time == text))
        if one is None:
            absent += 1
            continue
        faults.append(describe_fault(one, kind, time, labels))
    return faults, _fault_notes(faults, absent, slipped, early)


def _fault_notes(faults: list[Fault], absent: int, slipped: list[tuple[int, bool]], early: int) -> list[str]:
    """Sentences about faults: the time-zone slip, pods without samples, kinds that do not show in CPU."""
    notes = []
    if slipped:
        hours = np.median([d for d, _ in slipped]) / 3600
        text = sum(used for _, used in slipped)
        notes.append(
            f"{len(slipped)} faults have an inject_timestamp {hours:+.1f} h (median) off their inject_time, a "
            f"time-zone slip; {early} faults would lie before the first sample; "
            f"inject_time, read as UTC, is used for {text}"
        )
    if absent:
        notes.append(f"{absent} faults are on pods without samples: ignored")
    for cpu, name in ((True, "CPU"), (False, "other")):
        kinds = [f for f in faults if f.is_cpu is cpu]
        shown = sum(f.shows_in_cpu for f in kinds)
        what = "those are labelled" if cpu else "never labelled, whatever CPU does"
        if kinds:
            notes.append(f"{shown} of {len(kinds)} {name} faults show in CPU: {what}")
    return notes
