"""Feature rows in Parquet: what the collector writes to the metrics bucket and training reads back, and their schema.

A file lies at `<prefix>/date=YYYY-MM-DD/<anything>.parquet`, the date that of its rows in UTC. Its columns:

| column | type | |
|---|---|---|
| `series` | string | what was measured, such as `shop/cart-7d9` |
| `ts` | int64, or a timestamp of any unit | when, Unix seconds; files are in the order of `ts` |
| `cpu_percent`, `memory_percent` | float64 | percent of the limit |
| `disk_io` | float64 | operations a second |
| `cpu_zscore`, `memory_zscore`, `disk_io_zscore` | float32 | as served; null in the warm-up |
| `cpu_baseline`, `cpu_scale` | float32 | the same |
| `anomaly` | bool, optional | whether there was a fault: true, false, or null where nobody knows |
| `score`, `forecast` | float32, optional | what was answered |
| `version` | string, optional | by which version |

Memory, disk and features may be null, CPU may not. Other columns are ignored. `onnxd replay` reads the same file, but
ends at a row without a feature that the model requires, as in the warm-up: `write(served=True)` leaves such rows out.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, fs, parquet

from training.config import FEATURES, REQUIRED, Config
from training.data.days import DataError, Day, Fault, Series, contents, describe_window, label
from training.features import series_features
from training.storage import open_filesystem
from training.told import Told, nobody

CHANNEL_COLUMNS = ("cpu_percent", "memory_percent", "disk_io")
SCHEMA = pa.schema(
    [
        pa.field("series", pa.string(), nullable=False),
        pa.field("ts", pa.int64(), nullable=False),
        pa.field("cpu_percent", pa.float64(), nullable=False),
        *(pa.field(name, pa.float64()) for name in CHANNEL_COLUMNS[1:]),
        *(pa.field(name, pa.float32()) for name in FEATURES),
    ]
)
"""The columns that each file must hold."""
ANSWERS = {"score": pa.float32(), "forecast": pa.float32(), "version": pa.string()}
"""Optional columns of what was answered."""
LATEST = 100_000_000_000
"""No time in seconds is larger: it would be milliseconds."""
SKEW = 1e-3
"""Stored features that differ by more from those that training computes were not made by the same definition."""
KIND = "labelled"
"""Kind of the faults that the column `anomaly` gives."""


def read(where: str, config: Config, *, begin: int, end: int, told: Told = nobody) -> Day:
    """Reads the rows of `[begin, end]`, Unix seconds, as one day that lasts as long. Opens only these dates.

    Stored features are kept. They are compared with those that follow from the values, a window after their series'
    begin, where both have the same past; a note says how many differ.

    Raises:
        DataError: Nothing is there, or a file does not have the schema: names the file and the column.
    """
    system, root = open_filesystem(where)
    tables, notes, empty = [], [], []
    day = datetime.fromtimestamp(begin, UTC).date()
    while day <= datetime.fromtimestamp(end, UTC).date():
        told(f"reading rows of {day}")
        files = _files(system, f"{root}/date={day}")
        tables += [_read_file(system, path) for path in files]
        if not files:
            empty.append(str(day))
        day += timedelta(days=1)
    if not tables:
        msg = f"rows: {where} holds no date=YYYY-MM-DD/*.parquet from {_date(begin)} to {_date(end)}"
        raise DataError(msg)
    if empty:
        notes.append(f"{len(empty)} dates have no files, the first {empty[0]}")
    series, labels = _series(pa.concat_tables(tables), (begin, end), notes)
    if not series:
        msg = f"rows: {where} holds no rows from {_date(begin)} to {_date(end)}: ask for more"
        raise DataError(msg)
    told("comparing stored features with those of training")
    notes += _skew(series, config)
    faults = [f for s in series for f in _faults(s, labels[s.name], config)]
    if faults:
        shown = sum(f.channel is not None for f in faults)
        notes.append(f"{shown} of {len(faults)} labelled anomalies show in a channel: the others are not judged")
    return Day(
        name=f"{_date(begin)}_{_date(end)}",
        notes=notes,
        uri=f"rows:{where}",
        **contents(series, faults),
        licence="not stated: the metrics of whoever wrote them",
    )


def write(
    where: str,
    day: Day,
    config: Config,
    *,
    served: bool = False,
    answers: Mapping[str, Mapping[str, NDArray]] | None = None,
) -> list[str]:
    """Writes a day's rows, a file for each date, with `anomaly` from its faults where it has any.

    Args:
        where: A folder, or `s3://bucket/prefix`.
        day: Its series; features are computed where they do not bring their own.
        config: Of features and labels.
        served: Only the rows that have all features which a request requires.
        answers: By series, what was answered: `score` and `forecast` float [T], `version` of T strings. Optional.

    Returns:
        The paths of the files in their file system.
    """
    system, root = open_filesystem(where)
    table = to_table(day, config, answers=answers)
    table = _served(table) if served else table
    dates = compute.floor(compute.divide(table["ts"], 86_400)) if len(table) else table["ts"]
    paths = []
    for number in compute.unique(dates).to_pylist():
        folder = f"{root}/date={_date(int(number) * 86_400)}"
        if isinstance(system, fs.LocalFileSystem):
            system.create_dir(folder, recursive=True)
        paths.append(f"{folder}/{uuid.uuid4()}.parquet")
        parquet.write_table(
            table.filter(compute.equal(dates, number)), paths[-1], filesystem=system, compression="zstd"
        )
    return paths


def _served(table: pa.Table) -> pa.Table:
    """The rows that have all features which a request requires."""
    for name in REQUIRED:
        table = table.filter(table[name].is_valid())
    return table


def replayed(days: Sequence[Day], config: Config) -> pa.Table:
    """The served rows of several days in the order of time, as `onnxd replay` reads them."""
    parts = [_served(to_table(day, config)) for day in days]
    return pa.concat_tables(parts, promote_options="default").sort_by([("ts", "ascending"), ("series", "ascending")])


def to_table(day: Day, config: Config, *, answers: Mapping[str, Mapping[str, NDArray]] | None = None) -> pa.Table:
    """A day's rows in the schema, in the order of time; see `write`. Missing numbers and unjudged labels are null."""
    parts = []
    for one in day.series:
        features = series_features(one, config.features)
        columns = {"series": pa.array([one.name] * len(one.time)), "ts": pa.array(one.time)}
        columns |= {n: pa.array(one.values[:, i], from_pandas=True) for i, n in enumerate(CHANNEL_COLUMNS)}
        columns |= {n: pa.array(features[:, i], from_pandas=True) for i, n in enumerate(FEATURES)}
        schema = SCHEMA
        if day.faults:
            event, judged = label(one, day.faults, config.labels)
            columns["anomaly"] = pa.array(event >= 0, mask=~judged)
            schema = schema.append(pa.field("anomaly", pa.bool_()))
        for name, values in (answers[one.name] if answers else {}).items():
            columns[name] = pa.array(values, type=ANSWERS[name])
            schema = schema.append(pa.field(name, ANSWERS[name]))
        parts.append(pa.table(columns, schema=schema))
    return pa.concat_tables(parts).sort_by([("ts", "ascending"), ("series", "ascending")])


def _date(seconds: int) -> date:
    return datetime.fromtimestamp(seconds, UTC).date()


def _files(system: fs.FileSystem, folder: str) -> list[str]:
    """The Parquet files of a folder, sorted; none where there is no folder.

    Raises:
        DataError: The store cannot be asked.
    """
    try:
        found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
    except OSError as error:
        msg = f"rows: {folder} cannot be listed: check the bucket, the credentials and AWS_ENDPOINT_URL: {error}"
        raise DataError(msg) from error
    return sorted(f.path for f in found if f.type == fs.FileType.File and f.path.endswith(".parquet"))


def _read_file(system: fs.FileSystem, path: str) -> pa.Table:
    """A file's needed columns in the types of the schema, `ts` in seconds, and `anomaly`, null where it has none."""
    place = "/".join(path.split("/")[-2:])
    try:
        with system.open_input_file(path) as file:
            reader = parquet.ParquetFile(file)
            known = set(reader.schema_arrow.names)
            if missing := [name for name in SCHEMA.names if name not in known]:
                msg = f"{place}: no column {missing[0]}: write the columns {', '.join(SCHEMA.names)}"
                raise DataError(msg)
            table = reader.read([*SCHEMA.names, *({"anomaly"} & known)])
    except (OSError, pa.ArrowInvalid) as error:
        msg = f"{place}: cannot be read as Parquet: {error}"
        raise DataError(msg) from error
    columns = {name: _column(table[name], SCHEMA.field(name), place) for name in SCHEMA.names}
    wanted = pa.field("anomaly", pa.bool_())
    columns["anomaly"] = (
        _column(table["anomaly"], wanted, place) if "anomaly" in known else pa.nulls(len(table), pa.bool_())
    )
    return pa.table(columns)


def _column(column: pa.ChunkedArray, field: pa.Field, place: str) -> pa.ChunkedArray:
    """A column in the field's type, checked."""
    kind = column.type
    if field.name == "ts" and pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("s", kind.tz), safe=False).cast(pa.int64())
        kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    same = (
        (pa.types.is_floating(field.type) and (pa.types.is_floating(kind) or pa.types.is_integer(kind)))
        or (field.name == "ts" and pa.types.is_integer(kind))
        or (field.name == "series" and (pa.types.is_string(kind) or pa.types.is_large_string(kind)))
        or kind == field.type
        or pa.types.is_null(kind)
    )
    if not same:
        msg = f"{place}: column {field.name} is {kind}: write it as {field.type}"
        raise DataError(msg)
    if not field.nullable and column.null_count:
        msg = f"{place}: column {field.name} has {column.null_count} nulls: leave such rows out"
        raise DataError(msg)
    column = column.cast(field.type, safe=False)
    if field.name == "ts" and len(column) and compute.max(column).as_py() > LATEST:
        msg = f"{place}: column ts is not in seconds: write Unix seconds, or a timestamp"
        raise DataError(msg)
    return column


def _series(
    table: pa.Table, span: tuple[int, int], notes: list[str]
) -> tuple[list[Series], dict[str, NDArray[np.float64]]]:
    """Series by name, ordered by time, each time once; and their labels, float64 [T]: 1, 0, NaN where unknown."""
    table = table.filter(
        compute.and_(compute.greater_equal(table["ts"], span[0]), compute.less_equal(table["ts"], span[1]))
    )
    names = table["series"].combine_chunks().dictionary_encode()
    code, time = names.indices.to_numpy(), table["ts"].to_numpy()
    values = np.column_stack([table[c].to_numpy().astype(np.float64) for c in CHANNEL_COLUMNS])
    features = np.column_stack([table[f].to_numpy().astype(np.float32) for f in FEATURES])
    anomaly = table["anomaly"].cast(pa.int8()).to_numpy().astype(np.float64)
    series, labels, repeated, lost = [], {}, 0, 0
    for index, name in sorted(enumerate(names.dictionary.to_pylist()), key=lambda pair: pair[1]):
        own = np.flatnonzero(code == index)
        at, first = np.unique(time[own], return_index=True)
        repeated += len(own) - len(at)
        own = own[first]
        known = np.isfinite(values[own, 0])
        lost += int((~known).sum())
        own = own[known]
        if len(own):
            series.append(Series(name, time[own], values[own], features[own]))
            labels[name] = anomaly[own]
    if repeated:
        notes.append(f"{repeated} rows repeat a time of their series: the first of each is kept")
    if lost:
        notes.append(f"{lost} rows have a cpu_percent that is not finite: left out")
    return series, labels


def _faults(series: Series, anomaly: NDArray[np.float64], config: Config) -> list[Fault]:
    """Runs of rows that are labelled true as faults with an end."""
    runs: dict[int, list[int]] = defaultdict(list)
    for position, index in enumerate(np.flatnonzero(anomaly == 1)):
        runs[int(index) - position].append(int(index))
    return [
        describe_window(series, KIND, int(series.time[run[0]]), int(series.time[run[-1]]), config.labels)
        for run in runs.values()
    ]


def _skew(series: list[Series], config: Config) -> list[str]:
    """A note on stored features that training would compute otherwise."""
    compared = differ = 0
    worst: dict[str, float] = {}
    for one in series:
        full = one.time >= one.time[0] + config.features.window_seconds
        if not full.any():
            continue
        ours = series_features(replace(one, features=None), config.features)[full]
        theirs = one.features[full]
        apart = np.where(np.isnan(ours) & np.isnan(theirs), 0, np.abs(ours - theirs))
        apart = np.where(np.isnan(apart), np.inf, apart)
        compared += len(apart)
        differ += int((apart > SKEW).any(axis=1).sum())
        for index in np.flatnonzero((apart > SKEW).any(axis=0)):
            worst[FEATURES[index]] = max(worst.get(FEATURES[index], 0.0), float(apart[:, index].max()))
    if not compared:
        return ["no series is longer than the features' window: stored features are taken unchecked"]
    if not differ:
        return [f"the stored features of {compared} rows are those that training computes, within {SKEW:g}"]
    where = ", ".join(f"{name} by up to {value:.3g}" for name, value in worst.items())
    return [f"{differ} of {compared} stored rows differ from what training computes by more than {SKEW:g}: {where}"]
