"""A graph as the server runs it, and whether it answers as the model that it was made from, alone and in any batch."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from training.config import FEATURES, OUTPUTS
from training.features import Table
from training.model import Outputs, Rows

PARITY_ROWS = 10_000
SCORE_TOLERANCE = 1e-5
FORECAST_TOLERANCE = 1e-3
"""Largest difference between a model and its graph: of the score, and of the forecast in percentage points."""
THRESHOLD = 0.5
INVARIANCE_ROWS = 2_000
BATCH_SIZES = (1, 2, 3, 5, 7, 8, 16, 64, 1024)


def session(model: bytes) -> ort.InferenceSession:
    """An ONNX Runtime session as the server makes it: one thread, CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Graph:
    """A graph of the contract in a session as the server makes it."""

    def __init__(self, onnx: bytes) -> None:
        """Loads it.

        Raises:
            RuntimeError: ONNX Runtime refuses it.
        """
        self._session = session(onnx)

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5]."""
        return Outputs(*self._session.run(list(OUTPUTS), {"features": features}))


def hard_rows(table: Table, seed: int, count: int = PARITY_ROWS) -> Rows:
    """At least `count` rows that a graph must survive: real ones, heavy tails over 30 decades, NaN, +-Inf.

    Returns:
        float32 [M, 5], shuffled, M >= count.
    """
    rng = np.random.default_rng(seed)
    real = table.features[table.warm]
    real = real[rng.integers(0, len(real), count // 2)]
    size = (count - len(real), len(FEATURES))
    wild = (rng.standard_cauchy(size) * 10.0 ** rng.integers(-2, 30, size)).astype(np.float32)
    usual = rng.normal(0, 8, (count // 4, len(FEATURES))).astype(np.float32)
    rows = np.concatenate([real, wild, usual])
    rng.shuffle(rows)
    for value in (np.nan, np.inf, -np.inf):
        spoiled = rng.random(rows.shape) < 0.03  # noqa: PLR2004 - a few of each
        rows[: len(rows) // 2][spoiled[: len(rows) // 2]] = value
    return rows


@dataclass(frozen=True)
class Parity:
    """How far the graph is from the training-side model.

    Attributes:
        rows: Compared.
        decisions_changed: Rows whose decision differs although the score is not within 1e-5 of the threshold.
        score: Largest absolute difference.
        forecast: Largest absolute difference, percentage points.
        valid: Whether all outputs are finite and in range.
    """

    rows: int
    decisions_changed: int
    score: float
    forecast: float
    valid: bool

    @property
    def holds(self) -> bool:
        """The gate: no changed decision, score within 1e-5, forecast within 1e-3, everything in range."""
        return (
            self.decisions_changed == 0
            and self.score <= SCORE_TOLERANCE
            and self.forecast <= FORECAST_TOLERANCE
            and self.valid
        )

    def rounded(self) -> dict[str, float | int]:
        """For a manifest: differences with two digits."""
        return {
            "rows": self.rows,
            "decisions_changed": self.decisions_changed,
            "score_max_difference": float(f"{self.score:.2g}"),
            "forecast_max_difference": float(f"{self.forecast:.2g}"),
        }


def parity(expected: Outputs, got: Outputs) -> Parity:
    """Compares the answers of a model and of its graph to the same rows."""
    clear = np.abs(expected.score - THRESHOLD) > SCORE_TOLERANCE
    in_range = ((got.score >= 0) & (got.score <= 1)).all() and ((got.forecast >= 0) & (got.forecast <= 100)).all()  # noqa: PLR2004
    return Parity(
        rows=len(expected.score),
        decisions_changed=int(((expected.anomaly != got.anomaly) & clear).sum()),
        score=float(np.abs(expected.score - got.score).max()),
        forecast=float(np.abs(expected.forecast - got.forecast).max()),
        valid=bool(in_range),
    )


def is_batch_invariant(served: Graph, rows: Rows) -> bool:
    """Whether each row's answer has the same bits in every batch size."""
    whole = served.predict(rows)
    for size in BATCH_SIZES:
        for start in range(0, len(rows), size):
            part = served.predict(rows[start : start + size])
            for name in OUTPUTS:
                if not np.array_equal(getattr(part, name), getattr(whole, name)[start : start + size]):
                    return False
    return True
