"""Manifests: what the server needs to know of a model, and the proof that it computes what training computed.

The schema is `manifest.schema.json` beside this file; a manifest that it refuses is never written.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from training.config import FEATURES, OUTPUTS, REQUIRED, Config
from training.data.days import Day, iso
from training.export.graph import Limits
from training.features import Table
from training.model import Model, Rows

NAME = "anomaly"
TOLERANCE = 1e-4
MAX_BYTES = 64 * 1024 * 1024
PACKAGES = ("numpy", "onnx", "onnxruntime", "protobuf", "scikit-learn", "scipy")
HORIZON_TARGET = "cpu_percent"

DESCRIPTIONS = {
    "cpu_zscore": "CPU now against its rolling median, in scaled median absolute deviations.",
    "memory_zscore": "Memory now against its rolling median, in scaled median absolute deviations.",
    "disk_io_zscore": "Disk operations now against their rolling median, in scaled median absolute deviations.",
    "cpu_baseline": "The rolling median of CPU; without it the training fleet's median is used.",
    "cpu_scale": "The rolling scale of CPU (never under its floor); without it the training fleet's median is used.",
}

GOLDEN_INPUTS: list[dict[str, float]] = [
    {"cpu_zscore": 2.1, "memory_zscore": 1.5},
    {"cpu_zscore": 0.0, "memory_zscore": 0.0, "disk_io_zscore": 0.0, "cpu_baseline": 20.0, "cpu_scale": 5.0},
    {"cpu_zscore": -3.0, "memory_zscore": 0.2, "cpu_baseline": 48.0, "cpu_scale": 13.0},
    {"cpu_zscore": 1.0, "memory_zscore": 2.0, "disk_io_zscore": 3.0},
    {"cpu_zscore": 15.0, "memory_zscore": 1.0, "disk_io_zscore": 1.0, "cpu_baseline": 10.0, "cpu_scale": 5.0},
    {"cpu_zscore": 6.0, "memory_zscore": 0.0, "disk_io_zscore": 0.0, "cpu_baseline": 65.0, "cpu_scale": 6.0},
    {"cpu_zscore": 100.0, "memory_zscore": 100.0, "disk_io_zscore": 100.0, "cpu_baseline": 90.0, "cpu_scale": 20.0},
    {"cpu_zscore": 1e6, "memory_zscore": -1e6},
    {"cpu_zscore": -1e6, "memory_zscore": 1e6, "disk_io_zscore": -1e6, "cpu_baseline": -1e6, "cpu_scale": 1e6},
    {"cpu_zscore": 0.5, "memory_zscore": -0.5, "cpu_baseline": 99.0},
]
"""Requests that every version answers at load: typical, missing optional features, saturated, far out of range."""


def rows_of(inputs: list[dict[str, float]]) -> Rows:
    """Requests as rows, float32 [N, 5]; a feature that is left out is NaN."""
    return np.array([[one.get(f, np.nan) for f in FEATURES] for one in inputs], dtype=np.float32)


def golden_samples(model: Model) -> list[dict[str, Any]]:
    """The golden requests with the training-side model's answers, not the graph's."""
    outputs = model.predict(rows_of(GOLDEN_INPUTS))
    return [
        {
            "input": request,
            "expected": {
                "anomaly": bool(outputs.anomaly[i]),
                "score": float(outputs.score[i]),
                "forecast": float(outputs.forecast[i]),
            },
            "atol": TOLERANCE,
            "rtol": TOLERANCE,
        }
        for i, request in enumerate(GOLDEN_INPUTS)
    ]


def histogram(values: NDArray[np.float32], bins: int) -> dict[str, Any]:
    """Equal-mass reference histogram of a feature or score, float32 [N].

    Bin i holds `edges[i] <= x < edges[i+1]`, the last one also its upper edge; at run time the outer bins hold what
    lies beyond. Where many values are equal, bins join, so there can be fewer than `bins`.

    Returns:
        `edges` (one more than `p`), `p` (sums to 1, of the values that are not missing), `p_missing`, `n`.
    """
    present = values[np.isfinite(values)]
    quantiles = np.quantile(present.astype(np.float64), np.linspace(0, 1, bins + 1))
    edges = np.unique([float(f"{q:.6g}") for q in quantiles])
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0] + 1.0])
    inner = np.searchsorted(edges[1:-1], present, side="right")
    p = np.bincount(inner, minlength=len(edges) - 1) / len(present)
    return {
        "edges": edges.tolist(),
        "p": p.round(6).tolist(),
        "p_missing": round(1 - len(present) / len(values), 6),
        "n": len(present),
    }


def reference(model: Model, table: Table, bins: int) -> dict[str, Any]:
    """Reference histograms of each feature and of the score on the training rows past the warm-up."""
    rows = table.features[table.warm]
    # A feature that nobody measures has no distribution to compare with.
    measured = [i for i in range(len(FEATURES)) if np.isfinite(rows[:, i]).any()]
    found = {FEATURES[i]: histogram(rows[:, i], bins) for i in measured}
    found["score"] = histogram(model.predict(rows).score, bins)
    return found


def signature(limits: Limits, table: Table) -> dict[str, Any]:
    """Names, types and policies of the input's features and of the outputs."""
    rows = table.features[table.warm]
    features = []
    for i, name in enumerate(FEATURES):
        required = name in REQUIRED
        present = rows[np.isfinite(rows[:, i]), i]
        span = {"min": present.min(), "max": present.max()} if len(present) else {}
        features.append(
            {
                "name": name,
                "required": required,
                "missing": "reject" if required else "nan",
                "default": None if required else round(float(limits.default[i]), 4),
                **{bound: round(float(value), 4) for bound, value in span.items()},
                "unit": "sigma" if name.endswith("zscore") else "percent",
                "description": DESCRIPTIONS[name],
            }
        )
    kinds = {"anomaly": "bool", "score": "float32", "forecast": "float32"}
    packed = {"name": "features", "dtype": "float32", "shape": [-1, len(FEATURES)], "features": features}
    return {
        "layout": "packed",
        "inputs": [packed],
        "outputs": [{"name": name, "dtype": kinds[name], "shape": [-1]} for name in OUTPUTS],
    }


def semantics(config: Config) -> dict[str, Any]:
    """What the outputs mean."""
    return {
        "anomaly": {"role": "decision"},
        "score": {"role": "score", "higher_is": "more_anomalous", "threshold": 0.5, "range": [0, 1]},
        "forecast": {
            "role": "forecast",
            "unit": "percent",
            "horizon_seconds": config.model.horizon_seconds,
            "target_feature": HORIZON_TARGET,
            "range": [0, 100],
        },
    }


def provenance(days: list[Day], config: Config) -> dict[str, Any]:
    """Where a model comes from: data, code, environment and seed. No host, user or absolute path."""
    data = []
    for day in days:
        first, last = day.span
        entry = {"uri": day.uri, "sha256": day.sha256, "rows": day.rows, "from": iso(first), "to": iso(last)}
        data.append({**entry, "licence": day.licence})
        if day.faults_sha256:
            uri = day.uri.replace(".csv", "-faults.json")
            entry = {"uri": uri, "sha256": day.faults_sha256, "rows": len(day.faults)}
            data.append({**entry, "licence": day.licence})
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {
        "mlflow_run_id": None,
        "git_commit": None,
        "code_sha256": code_sha256(),
        "data": data,
        "environment": {"python": platform.python_version(), **versions},
        "seed": config.seed,
    }


def now() -> str:
    """The time, or `SOURCE_DATE_EPOCH` for reproducible manifests, RFC 3339."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return iso(int(epoch) if epoch else int(datetime.now(UTC).timestamp()))


def code_sha256() -> str:
    """SHA-256 over the package's source files, their names and contents in order."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".py", ".json"}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def artifact(content: bytes) -> dict[str, Any]:
    """Hash, size and versions of an ONNX file."""
    model = onnx.load_from_string(content)
    return {
        "path": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "format": "onnx",
        "ir_version": model.ir_version,
        "opsets": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "external_data": [],
    }


def runtime() -> str:
    """Which runtime checked the golden samples."""
    return f"onnxruntime {ort.__version__}"


def schema() -> dict[str, Any]:
    """The manifest's JSON schema."""
    return json.loads(resources.files("training").joinpath("manifest.schema.json").read_text(encoding="utf-8"))


def check(manifest: dict[str, Any]) -> None:
    """Validates a manifest.

    Raises:
        jsonschema.ValidationError: Says which key and why.
    """
    jsonschema.Draft202012Validator(schema()).validate(manifest)


def to_bytes(document: dict[str, Any]) -> bytes:
    """JSON as it is written to files: the same document gives the same bytes.

    Raises:
        ValueError: A number is not finite.
    """
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
