"""Writes the models of the benches as a repository that onnxd serves: the same files in every run.

`gbt` is a LightGBM of 300 trees of depth 6 as onnxmltools converts it, `iforest` a scikit-learn IsolationForest of 100
trees as skl2onnx exports it (not fused: about 2,700 nodes), `mlp` a net of 30-256-256-1. All take 30 features and give
`score`. `make bench-models` runs it in an environment of models/requirements.lock.
"""

import argparse
import hashlib
import importlib.metadata
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import onnxmltools
import onnxruntime as ort
import skl2onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxmltools.convert.common.data_types import FloatTensorType as LightgbmFloats
from skl2onnx.common.data_types import FloatTensorType as SklearnFloats
from sklearn.ensemble import IsolationForest

SEED = 20261127
FEATURES = 30
TRAINING_ROWS = 4096
GOLDEN_ROWS = 8
TOLERANCE = 1e-4
OPSET = 17
OPSET_ML = 3
IR_VERSION = 8
"""The oldest that these opsets need, so that every server's runtime reads the files."""
HIDDEN = 256
MADE_AT = "2026-11-27T00:00:00Z"
"""Not the clock: a manifest is the same however often it is made."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Made:
    """A graph, and what the library that it came from answers to the golden rows."""

    graph: onnx.ModelProto
    expected: Floats
    higher_is: str


def training_set() -> tuple[Floats, Floats]:
    """Rows [N, 30] of a fixed seed and a target that no single feature explains."""
    rng = np.random.default_rng(SEED)
    rows = rng.standard_normal((TRAINING_ROWS, FEATURES)).astype(np.float32)
    wave = np.sin(rows[:, 0] * 2) + rows[:, 1] * rows[:, 2] - np.abs(rows[:, 3]) + rows[:, 4:12].sum(axis=1) / 4
    noise = rng.standard_normal(TRAINING_ROWS) / 10
    return rows, (wave + noise).astype(np.float32)


def gbt(rows: Floats, target: Floats, golden: Floats) -> Made:
    """LightGBM, 300 trees of depth 6."""
    model = lightgbm.LGBMRegressor(
        n_estimators=300,
        max_depth=6,
        num_leaves=63,
        learning_rate=0.05,
        random_state=SEED,
        n_jobs=1,
        deterministic=True,
        force_row_wise=True,
        verbose=-1,
    )
    model.fit(rows, target)
    shape = [("features", LightgbmFloats([None, FEATURES]))]
    # The newest target that its LightGBM converter knows; the graph then imports the oldest opsets it can do with.
    graph = onnxmltools.convert_lightgbm(model, initial_types=shape, target_opset=15)
    return Made(graph, model.predict(golden).astype(np.float32), "more_anomalous")


def iforest(rows: Floats, golden: Floats) -> Made:
    """An isolation forest of 100 trees, exported without any fusion."""
    model = IsolationForest(n_estimators=100, random_state=SEED, n_jobs=1).fit(rows)
    shape = [("features", SklearnFloats([None, FEATURES]))]
    graph = skl2onnx.to_onnx(model, initial_types=shape, target_opset={"": OPSET, "ai.onnx.ml": OPSET_ML})
    return Made(graph, model.decision_function(golden).astype(np.float32), "better")


def mlp(golden: Floats) -> Made:
    """A net with fixed weights: what it says means nothing, what it costs is what a net of this size costs."""
    rng = np.random.default_rng(SEED)
    widths = [FEATURES, HIDDEN, HIDDEN, 1]
    nodes, weights, source, values = [], [], "features", golden
    for layer, (width, outputs) in enumerate(itertools.pairwise(widths)):
        weight = (rng.standard_normal((width, outputs)) / np.sqrt(width)).astype(np.float32)
        bias = (rng.standard_normal(outputs) / 10).astype(np.float32)
        weights += [numpy_helper.from_array(weight, f"weight{layer}"), numpy_helper.from_array(bias, f"bias{layer}")]
        last = outputs == 1
        nodes.append(helper.make_node("Gemm", [source, f"weight{layer}", f"bias{layer}"], [f"sum{layer}"]))
        source = "score" if last else f"active{layer}"
        nodes.append(helper.make_node("Sigmoid" if last else "Relu", [f"sum{layer}"], [source]))
        values = values @ weight + bias
        values = 1 / (1 + np.exp(-values)) if last else np.maximum(values, 0)
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N", 1])],
        weights,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="onnx", ir_version=IR_VERSION)
    return Made(model, values.ravel().astype(np.float32), "more_anomalous")


def only_score(name: str, graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its float output named `score`, a named batch dimension, and no copy of an opset import.

    A forest's label stays, as skl2onnx gives it. Names that a converter draws by chance are counted instead.
    """
    graph.graph.name = name
    for index, node in enumerate(graph.graph.node):
        node.name = f"{node.op_type}{index}"
    floats = [one for one in graph.graph.output if one.type.tensor_type.elem_type == TensorProto.FLOAT]
    (output,) = floats
    for node in graph.graph.node:
        for names in (node.input, node.output):
            names[:] = ["score" if name == output.name else name for name in names]
    output.name = "score"
    for value in (*graph.graph.input, *graph.graph.output):
        shape = value.type.tensor_type.shape.dim
        shape[0].dim_param = "N"
        if value in graph.graph.output and len(shape) > 1 and not shape[1].dim_value:
            shape[1].dim_value = 1
    opsets = {(one.domain, one.version) for one in graph.opset_import}
    del graph.opset_import[:]
    graph.opset_import.extend(helper.make_opsetid(*one) for one in sorted(opsets))
    graph.ir_version = IR_VERSION
    onnx.checker.check_model(graph)
    return graph


def manifest(name: str, made: Made, model: bytes, rows: Floats, golden: Floats) -> dict[str, Any]:
    """The manifest of version 1, with the golden rows and what the runtime answered to them.

    Raises:
        SystemExit: The graph does not answer what the library answered that it came from.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    answers = dict(zip([one.name for one in session.get_outputs()], session.run(None, {"features": golden})))
    worst = float(np.abs(answers["score"].ravel() - made.expected).max())
    if worst > TOLERANCE:
        message = f"{name}: the graph's scores are {worst} from the library's, more than {TOLERANCE}"
        raise SystemExit(message)
    values = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64"}
    outputs = [
        {
            "name": one.name,
            "dtype": values[one.type.tensor_type.elem_type],
            "shape": [dim.dim_value or -1 for dim in one.type.tensor_type.shape.dim],
        }
        for one in made.graph.graph.output
    ]
    semantics: dict[str, Any] = {"score": {"role": "score", "higher_is": made.higher_is}}
    semantics |= {one["name"]: {"role": "class"} for one in outputs if one["name"] != "score"}
    features = [
        {
            "name": f"f{index}",
            "required": True,
            "missing": "reject",
            "default": None,
            "min": round(float(rows[:, index].min()), 4),
            "max": round(float(rows[:, index].max()), 4),
        }
        for index in range(FEATURES)
    ]
    samples = [
        {
            "input": {f"f{index}": float(value) for index, value in enumerate(row)},
            "expected": {key: value[number].item() for key, value in answers.items()},
            "atol": TOLERANCE,
            "rtol": TOLERANCE,
        }
        for number, row in enumerate(golden)
    ]
    packages = ("lightgbm", "numpy", "onnx", "onnxmltools", "onnxruntime", "scikit-learn", "skl2onnx")
    return {
        "schema_version": "1.0",
        "name": name,
        "version": "1",
        "created_at": MADE_AT,
        "artifact": {
            "path": "model.onnx",
            "sha256": hashlib.sha256(model).hexdigest(),
            "bytes": len(model),
            "format": "onnx",
            "ir_version": made.graph.ir_version,
            "opsets": {one.domain or "ai.onnx": one.version for one in made.graph.opset_import},
            "external_data": [],
        },
        "signature": {
            "layout": "packed",
            "inputs": [{"name": "features", "dtype": "float32", "shape": [-1, FEATURES], "features": features}],
            "outputs": outputs,
        },
        "outputs_semantics": semantics,
        "golden": {"runtime": f"onnxruntime {ort.__version__}", "batch_invariant": True, "samples": samples},
        "training": {
            "mlflow_run_id": None,
            "data": [{"uri": f"synthetic:{SEED}", "sha256": hashlib.sha256(rows.tobytes()).hexdigest()}],
            "environment": {package: importlib.metadata.version(package) for package in packages},
            "seed": SEED,
        },
        "metrics": {},
        "limits": {},
    }


def write(folder: Path, name: str, model: bytes, document: dict[str, Any]) -> None:
    """Writes version 1 and the aliases that make it the champion, in place of what was there."""
    shutil.rmtree(folder / name, ignore_errors=True)
    version = folder / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(model)
    text = json.dumps(document, indent=1).encode()
    (version / "manifest.json").write_bytes(text)
    aliases = {
        "champion": "1",
        "challengers": [],
        "previous": None,
        "epoch": 1,
        "manifest_sha256": {"1": hashlib.sha256(text).hexdigest()},
        "updated_at": MADE_AT,
        "by": "benches",
        "reason": "a model to measure servers with",
    }
    (folder / name / "aliases.json").write_text(json.dumps(aliases, indent=1))


def main() -> None:
    """Makes all models."""
    arguments = argparse.ArgumentParser(description="Writes the models of the benches as a repository.")
    arguments.add_argument("folder", type=Path, help="the repository; what it holds under these names is replaced")
    folder = arguments.parse_args().folder
    rows, target = training_set()
    golden = np.random.default_rng(SEED + 1).standard_normal((GOLDEN_ROWS, FEATURES)).astype(np.float32)
    made = {"gbt": gbt(rows, target, golden), "iforest": iforest(rows, golden), "mlp": mlp(golden)}
    for name, one in made.items():
        graph = only_score(name, one.graph)
        model = graph.SerializeToString(deterministic=True)
        document = manifest(name, one, model, rows, golden)
        write(folder, name, model, document)
        print(f"{folder / name}: {len(graph.graph.node)} nodes, {len(model)} bytes")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
