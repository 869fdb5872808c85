"""Size, nodes and latency of graphs on this machine, through ONNX Runtime's Python interface on one thread.

`iforests` compares the compact IsolationForest export with skl2onnx's, which is a development tool and no dependency of
training itself.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import skl2onnx
from numpy.typing import NDArray
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import IsolationForest

from training.config import FEATURES, OUTPUTS
from training.export import iforest
from training.export.graph import ML_OPSET, OPSET, to_bytes
from training.manifest import NAME
from training.report import markdown
from training.repository import RepositoryError
from training.scoring.served import session

FOREST_FEATURES = 3
FIT_ROWS = 4_000
CHECK_ROWS = 10_000
BATCHES = {1: 2_000, 64: 500, 1024: 100}
SLOW_BATCHES = {1: 300, 64: 100, 1024: 20}
"""Rows of a run, and how many runs are timed."""


def models(repository: Path) -> str:
    """Measures every version of the repository's model. Returns markdown.

    Raises:
        RepositoryError: The repository does not hold the model.
    """
    paths = sorted((repository / NAME).glob("*/model.onnx"))
    if not paths:
        msg = f"{repository.name}: holds no {NAME}/<version>/model.onnx"
        raise RepositoryError(msg)
    rng = np.random.default_rng(0)
    rows = np.abs(rng.normal(0, 5, (max(BATCHES), len(FEATURES)))).astype(np.float32)
    body = []
    for path in paths:
        content = path.read_bytes()
        served = session(content)
        timed = []
        for batch, count in BATCHES.items():
            seconds = _times(_runner(served, list(OUTPUTS), {"features": rows[:batch]}), count)
            timed.append(" / ".join(f"{np.percentile(seconds, q) * 1e6:,.0f}" for q in (50, 99)))
        nodes = len(onnx.load_from_string(content).graph.node)
        body.append([f"{NAME} {path.parent.name}", f"{len(content):,}", str(nodes), *timed])
    return markdown(["model", "bytes", "nodes", *(f"batch {b} p50 / p99 us" for b in BATCHES)], body)


def iforests(trees: int) -> str:
    """Fits a forest on heavy-tailed rows, exports it both ways and measures both. Returns markdown."""
    rng = np.random.default_rng(0)
    rows = rng.standard_t(3, (FIT_ROWS, FOREST_FEATURES)).astype(np.float32)
    forest = IsolationForest(n_estimators=trees, random_state=0).fit(rows)
    check = rng.standard_t(3, (CHECK_ROWS, FOREST_FEATURES)).astype(np.float32)
    expected = forest.decision_function(check)
    types = [("X", FloatTensorType([None, FOREST_FEATURES]))]
    standard = skl2onnx.to_onnx(forest, initial_types=types, target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET})
    body = [
        _forest("skl2onnx", standard, "scores", check, expected),
        _forest("compact (`export/iforest.py`)", iforest.to_onnx(forest), "decision_function", check, expected),
    ]
    latency = [f"batch {b} p50 us" for b in SLOW_BATCHES]
    return markdown(["export", "bytes", "nodes", "load ms", *latency, "largest difference"], body)


def _forest(
    name: str, model: onnx.ModelProto, output: str, rows: NDArray[np.float32], expected: NDArray[np.float64]
) -> list[str]:
    """One row of the table; `output` is compared with `expected`, float64 [N]."""
    content = to_bytes(model)
    load = np.median(_times(lambda: session(content), 3))
    served = session(content)
    latency = [
        f"{np.median(_times(_runner(served, [output], {'X': rows[:batch]}), count)) * 1e6:,.1f}"
        for batch, count in SLOW_BATCHES.items()
    ]
    difference = np.abs(served.run([output], {"X": rows})[0].ravel() - expected).max()
    nodes = f"{len(model.graph.node):,}"
    return [name, f"{len(content):,}", nodes, f"{load * 1e3:,.0f}", *latency, f"{difference:.1e}"]


def _runner(
    served: ort.InferenceSession, outputs: list[str], feed: dict[str, NDArray[np.float32]]
) -> Callable[[], object]:
    return lambda: served.run(outputs, feed)


def _times(action: Callable[[], object], count: int) -> NDArray[np.float64]:
    """Seconds of each of `count` runs of an action, float64 [count]."""
    times = np.empty(count)
    for i in range(count):
        start = time.perf_counter()
        action()
        times[i] = time.perf_counter() - start
    return times
