"""What the replay test needs of Python: the real pods as a table, and models that differ in one thing.

`pods.py tables FOLDER OUT` writes `<day>.csv` for each day of the data in FOLDER, by the training package's features.
`pods.py models MODEL_FOLDER OUT` writes variants of a model, each a folder with its own manifest.

The training package is found by PYTHONPATH.
"""

import csv
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from training.config import Config
from training.data.nezha import read_day
from training.features import table

HEAD = [
    "series",
    "ts",
    "cpu_zscore",
    "memory_zscore",
    "disk_io_zscore",
    "cpu_baseline",
    "cpu_scale",
    "cpu_percent",
    "anomaly",
    "node",
]
DAYS = ("2022-08-22", "2022-08-23", "2023-01-29")


def tables(folder: Path, out: Path) -> None:
    """Writes each day as a table in the order of time. What is too near to a fault to be called either has no label."""
    out.mkdir(parents=True, exist_ok=True)
    for name in DAYS:
        day = read_day(folder, name)
        rows = table(day, Config())
        rows = rows.rows(rows.warm)
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEAD)
            for i in np.argsort(rows.time, kind="stable"):
                label = str(bool(rows.anomalous[i])).lower() if rows.judged[i] else ""
                features = [repr(float(value)) for value in rows.features[i]]
                pod = day.series[rows.series[i]].name
                writer.writerow([pod, rows.time[i], *features, repr(float(rows.cpu[i])), label, "worker"])


def replaced(
    model: ModelProto, output: str, nodes: list[NodeProto], values: dict[str, NDArray[np.generic]]
) -> ModelProto:
    """The model with an output that other nodes make; what made it until now gets another name."""
    changed = ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"{output}_before" if name == output else name for name in names]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    onnx.checker.check_model(changed)
    return changed


def naive(model: ModelProto) -> ModelProto:
    """Forecasts the last value: baseline + scale * z of the CPU, in percent."""
    columns = {"n_z": 0, "n_base": 3, "n_scale": 4}
    takes = model.graph.input[0].name
    nodes = [helper.make_node("Gather", [takes, name], [f"{name}_column"], axis=1) for name in columns]
    nodes += [
        helper.make_node("Mul", ["n_scale_column", "n_z_column"], ["n_product"]),
        helper.make_node("Add", ["n_base_column", "n_product"], ["n_sum"]),
        helper.make_node("Clip", ["n_sum", "n_low", "n_high"], ["n_clipped"]),
        helper.make_node("Reshape", ["n_clipped", "n_flat"], ["forecast"]),
    ]
    values: dict[str, NDArray[np.generic]] = {name: np.array([column]) for name, column in columns.items()}
    values |= {"n_low": np.array(0, np.float32), "n_high": np.array(100, np.float32)}
    return replaced(model, "forecast", nodes, values | {"n_flat": np.array([-1])})


def constant(model: ModelProto, *, alarm: bool) -> ModelProto:
    """Always gives an alarm, or never: a score lies between 0 and 1."""
    limit = np.array(2.0 if alarm else -1.0, np.float32)
    nodes = [helper.make_node("Less", ["score", "c_limit"], ["anomaly"])]
    return replaced(model, "anomaly", nodes, {"c_limit": limit})


def answers(model: ModelProto, rows: list[dict[str, float]], features: list[str]) -> list[dict[str, object]]:
    """What ONNX Runtime gives for rows of features; those that are left out are NaN."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = np.array([[row.get(name, np.nan) for name in features] for row in rows], np.float32)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {session.get_inputs()[0].name: inputs})
    return [{name: value[i].item() for name, value in zip(names, values, strict=True)} for i in range(len(rows))]


def models(folder: Path, out: Path) -> None:
    """Writes the variants: the same manifest but for what identifies the file, and golden samples that are its own."""
    original = onnx.load(folder / "model.onnx")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    features = [feature["name"] for feature in manifest["signature"]["inputs"][0]["features"]]
    variants = {
        "trained": original,
        "naive": naive(original),
        "silent": constant(original, alarm=False),
        "always": constant(original, alarm=True),
    }
    # Complete rows: not all variants have a default for what is missing.
    rows = [
        {"cpu_zscore": 2.1, "memory_zscore": 1.5, "disk_io_zscore": 0.2, "cpu_baseline": 6.0, "cpu_scale": 5.0},
        {"cpu_zscore": 14.0, "memory_zscore": 3.0, "disk_io_zscore": 9.0, "cpu_baseline": 20.0, "cpu_scale": 5.0},
    ]
    for version, (name, model) in enumerate(variants.items(), start=1):
        place = out / name
        place.mkdir(parents=True, exist_ok=True)
        data = model.SerializeToString()
        (place / "model.onnx").write_bytes(data)
        manifest["version"] = str(version)
        manifest["artifact"] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        expected = answers(model, rows, features)
        manifest["golden"]["samples"] = [
            {"input": row, "expected": answer, "atol": 1e-4, "rtol": 1e-4}
            for row, answer in zip(rows, expected, strict=True)
        ]
        (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


if __name__ == "__main__":
    {"tables": tables, "models": models}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
