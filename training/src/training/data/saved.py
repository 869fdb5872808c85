"""Days as one Parquet file, features included: no later step computes them again."""

import io
import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from training.config import CHANNELS, FEATURES, Config
from training.data.days import Day, Fault, Series
from training.features import series_features

ABOUT = b"onnxd.days"


def with_features(day: Day, config: Config) -> Day:
    """The day with the features of each series computed, where it does not bring its own."""
    return replace(day, series=[replace(s, features=series_features(s, config.features)) for s in day.series])


def to_parquet(days: list[Day]) -> bytes:
    """A row for each sample: `day`, `series`, `ts` in Unix seconds, channels, features; all else in the metadata."""
    columns: dict[str, list[pa.Array]] = {name: [] for name in ("day", "series", "ts", *CHANNELS, *FEATURES)}
    for day in days:
        for one in day.series:
            count = len(one.time)
            columns["day"].append(pa.array([day.name] * count))
            columns["series"].append(pa.array([one.name] * count))
            columns["ts"].append(pa.array(one.time))
            for index, channel in enumerate(CHANNELS):
                columns[channel].append(pa.array(one.values[:, index]))
            for index, feature in enumerate(FEATURES):
                columns[feature].append(pa.array(one.features[:, index]))
    about = [
        {
            **{k: v for k, v in vars(day).items() if k not in {"series", "faults"}},
            "series": [s.name for s in day.series],
            "faults": [asdict(f) for f in day.faults],
        }
        for day in days
    ]
    whole = pa.table({name: pa.chunked_array(parts) for name, parts in columns.items()})
    out = io.BytesIO()
    parquet.write_table(whole.replace_schema_metadata({ABOUT: json.dumps(about)}), out, compression="zstd")
    return out.getvalue()


def from_parquet(content: bytes) -> list[Day]:
    """The days that `to_parquet` wrote."""
    whole = parquet.read_table(io.BytesIO(content))
    names = np.asarray(whole["day"].to_pylist()), np.asarray(whole["series"].to_pylist())
    time = whole["ts"].to_numpy()
    values = np.column_stack([whole[c].to_numpy() for c in CHANNELS])
    features = np.column_stack([whole[f].to_numpy() for f in FEATURES])
    days = []
    for about in json.loads(whole.schema.metadata[ABOUT]):
        series = []
        for name in about["series"]:
            own = (names[0] == about["name"]) & (names[1] == name)
            series.append(Series(name, time[own], values[own], features[own]))
        days.append(Day(**{**about, "series": series, "faults": [Fault(**f) for f in about["faults"]]}))
    return days
