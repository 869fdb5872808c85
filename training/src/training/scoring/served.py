"""A graph as the server runs it, and whether it answers as the model that it was made from, alone and in any batch."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from training.config import FEATURES, OUTPUTS
from training.features import Table
from training.model import Model, Outputs, Rows

PARITY_ROWS = 10_000
SCORE_TOLERANCE = 1e-5
FORECAST_TOLERANCE = 1e-3
"""Largest difference between a model and its graph: of the score, and of the forecast in percentage points."""
THRESHOLD = 0.5
BATCH_SIZES = (1, 2, 3, 5, 7, 8, 16, 64, 1024)


def session(model: bytes) -> ort.InferenceSession:
    """An ONNX Runtime session as the server makes it: one thread, CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(served: ort.InferenceSession, features: Rows) -> Outputs:
    """The graph's answers to float32 [N, 5]."""
    return Outputs(*served.run(list(OUTPUTS), {"features": features}))


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


def parity(model: Model, served: ort.InferenceSession, rows: Rows) -> Parity:
    """Compares a model and its graph on float32 [N, 5]."""
    expected, got = model.predict(rows), run(served, rows)
    clear = np.abs(expected.score - THRESHOLD) > SCORE_TOLERANCE
    return Parity(
        rows=len(rows),
        decisions_changed=int(((expected.anomaly != got.anomaly) & clear).sum()),
        score=float(np.abs(expected.score - got.score).max()),
        forecast=float(np.abs(expected.forecast - got.forecast).max()),
        valid=bool(
            ((got.score >= 0) & (got.score <= 1)).all() and ((got.forecast >= 0) & (got.forecast <= 100)).all()  # noqa: PLR2004
        ),
    )


def is_batch_invariant(served: ort.InferenceSession, rows: Rows) -> bool:
    """Whether each row's answer has the same bits in every batch size."""
    whole = run(served, rows)
    for size in BATCH_SIZES:
        for start in range(0, len(rows), size):
            part = run(served, rows[start : start + size])
            for name in OUTPUTS:
                if not np.array_equal(getattr(part, name), getattr(whole, name)[start : start + size]):
                    return False
    return True
