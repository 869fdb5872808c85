"""A logistic that can only rise with each z-score, and a linear forecast that scales with its series.

```
score    = sigmoid((w . asinh(relu(z)) + w_s * clip((level - 70) / 30, 0, 1) - t) / tau),  w >= 0
level    = baseline + scale * z_cpu
forecast = clip(baseline + scale * (v . [clip(z, -5, 5), clip(z_cpu - 5, 0, 40)] + v_0), 0, 100)
```

asinh is linear for small z and logarithmic for large ones.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from training.config import FEATURES, Config, ModelConfig
from training.export.graph import GraphBuilder, Limits, add_defaults, add_outputs, finish
from training.features import Table
from training.model import (
    UNCALIBRATED,
    Calibration,
    Floats,
    Outputs,
    Rows,
    answers,
    decision_rows,
    fit_limits,
    forecast_rows,
)

DIGITS = 6
"""Weights are rounded to this many decimals: the last bits of an optimiser differ between processors."""
OPTIONS = {"maxiter": 5000, "ftol": 1e-14, "gtol": 1e-10}
CPU, BASELINE, SCALE = (FEATURES.index(f) for f in ("cpu_zscore", "cpu_baseline", "cpu_scale"))
Z_SCORES = range(3)


class Piece(NamedTuple):
    """`relu(slope * feature + offset)`, times the scale if `scaled`, and its weights in level and forecast."""

    feature: int
    slope: float
    offset: float
    scaled: bool = True
    in_level: float = 0.0
    in_forecast: float = 0.0


@dataclass(frozen=True)
class Logistic:
    """A fitted monotone logistic.

    Attributes:
        config: Shape of its terms.
        limits: Defaults and clips of the inputs.
        weights: float64 [3], of `asinh(relu(z))`, none negative.
        coefficients: float64 [4], the forecast's v.
        intercept: The forecast's v_0.
        calibration: From the raw sum to the score.
    """

    config: ModelConfig
    limits: Limits
    weights: Floats
    coefficients: Floats
    intercept: float
    calibration: Calibration = UNCALIBRATED
    needs_calibration: ClassVar[bool] = True
    has_trees: ClassVar[bool] = False

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Logistic":
        """Fits the weights on labelled rows and the forecast on rows whose future is known."""
        limits = fit_limits(table, config.model)
        shape = cls(config.model, limits, np.zeros(3), np.zeros(4), 0.0)
        rows = decision_rows(table)
        prepared = limits.prepare(table.features[rows])
        weights = _fit_logistic(shape.terms(prepared), shape.saturation(prepared), table.anomalous[rows], config.model)
        rows = forecast_rows(table)
        prepared = limits.prepare(table.features[rows])
        residual = (table.target[rows] - prepared[:, 3]) / prepared[:, 4]
        solution = _fit_huber(shape.forecast_terms(prepared), residual, config.model.huber_delta)
        return replace(
            shape,
            weights=weights.round(DIGITS),
            coefficients=solution[:-1].round(DIGITS),
            intercept=round(float(solution[-1]), DIGITS),
        )

    def terms(self, prepared: Rows) -> Floats:
        """`asinh(relu(z))`, float64 [N, 3]."""
        return np.arcsinh(np.maximum(prepared[:, :3].astype(np.float64), 0.0))

    def saturation(self, prepared: Rows) -> Floats:
        """`w_s * clip((level - start) / width, 0, 1)`, float64 [N]: a pod at its limit is in trouble anyway."""
        level = prepared[:, 5].astype(np.float64)
        share = np.clip((level - self.config.saturation_start) / self.config.saturation_width, 0.0, 1.0)
        return self.config.saturation_weight * share

    def forecast_terms(self, prepared: Rows) -> Floats:
        """`[clip(z, -5, 5), clip(z_cpu - 5, 0, 40)]`, float64 [N, 4]."""
        z = prepared[:, :3].astype(np.float64)
        limit = self.config.forecast_z_limit
        excess = np.clip(z[:, :1] - limit, 0.0, self.config.forecast_excess_limit)
        return np.hstack([np.clip(z, -limit, limit), excess])

    def raw(self, features: Rows) -> Floats:
        """The weighted sum before calibration: float32 [N, 5] in, float64 [N] out."""
        prepared = self.limits.prepare(features)
        return self.terms(prepared) @ self.weights + self.saturation(prepared)

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5], any values, NaN for missing."""
        prepared = self.limits.prepare(features)
        logit = (self.raw(features) - self.calibration.threshold) / self.calibration.tau
        return answers(logit, prepared, self.forecast_terms(prepared) @ self.coefficients + self.intercept)

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The same as an ONNX graph. `1 / tau` is folded into the weights.

        A clip is a difference of relus, and a matrix product makes all relus of a row at once, where single columns
        would take a node for each limit. ONNX Runtime fuses each relu and sigmoid into the product before it. Written
        z+ and z- are relu(z) and relu(-z); z + 5 and z - 5 are three columns each, relu included; sinh(1) becomes the
        column of ones that carries t; a negative baseline or scale becomes 0.

        ```
        x             = features, NaN filled, clipped to +-100                                          [N, 5]
        positive      = relu(x T + t) = z_cpu+  z_memory+  z_disk_io+  sinh(1)                          [N, 4]
        pieces        = relu(x P + p) = z_cpu+  z_cpu-  z + 5  z - 5  z_cpu - 45  1      baseline       [N, 11]
        factors       = relu(x Q + q) = scale   scale   scale  scale  scale       scale  1              [N, 11]
        parts         = pieces * factors                                                                [N, 11]
        level         = parts . (1, -1, 0 ... 0, 1)                                                     [N, 1]
        forecast      = clip(parts . (0, 0, v, v_excess - v, -v_excess, v_0 - 5 sum(v), 1), 0, 100)
        score         = sigmoid(asinh(positive) . (w, -t) + w_s * clip((level - 70) / 30, 0, 1))
        ```
        """
        g = GraphBuilder()
        least, most = g.number("least", -self.limits.limit), g.number("most", self.limits.limit)
        x = g.node("Clip", add_defaults(g, self.limits), least, most, output="x")
        pieces = self._pieces()
        parts = _add_parts(g, x, pieces)
        level = _add_sum(g, parts, [p.in_level for p in pieces], "level")
        percent = _add_sum(g, parts, [p.in_forecast for p in pieces], "percent")
        add_outputs(g, self._add_logit(g, x, level), percent)
        return finish(g, name)

    def _pieces(self) -> list[Piece]:
        """The straight pieces that level and forecast consist of.

        `clip(z, -a, a) = relu(z + a) - relu(z - a) - a` and `clip(z - a, 0, b) = relu(z - a) - relu(z - a - b)`.
        """
        v, v_excess = self.coefficients[:3], self.coefficients[3]
        v_beyond = np.array([v_excess, 0.0, 0.0]) - v
        near = self.config.forecast_z_limit
        far = near + self.config.forecast_excess_limit
        return [
            Piece(CPU, 1.0, 0.0, in_level=1.0),
            Piece(CPU, -1.0, 0.0, in_level=-1.0),
            *(Piece(z, 1.0, near, in_forecast=v[z]) for z in Z_SCORES),
            *(Piece(z, 1.0, -near, in_forecast=v_beyond[z]) for z in Z_SCORES),
            Piece(CPU, 1.0, -far, in_forecast=-v_excess),
            Piece(CPU, 0.0, 1.0, in_forecast=self.intercept - near * v.sum()),
            Piece(BASELINE, 1.0, 0.0, scaled=False, in_level=1.0, in_forecast=1.0),
        ]

    def _add_logit(self, g: GraphBuilder, x: str, level: str) -> str:
        """The score's logit, [N, 1]. The saturation term is what the product is added to, `C` in `A B + C`."""
        config, tau = self.config, self.calibration.tau
        select, offset = np.zeros((len(FEATURES), 4)), np.zeros(4)
        select[Z_SCORES, Z_SCORES] = 1.0
        offset[3] = np.sinh(1.0)
        terms = g.node("Asinh", _add_relu(g, x, select, offset, "positive"), output="terms")
        width = config.saturation_width
        share = {"alpha": 1.0 / width, "beta": -config.saturation_start / width}
        saturation = g.node("HardSigmoid", level, output="saturation", **share)
        weights = g.constant("logit_weights", np.append(self.weights, -self.calibration.threshold)[:, None] / tau)
        return g.node("Gemm", terms, weights, saturation, output="logit", beta=config.saturation_weight / tau)


def _add_parts(g: GraphBuilder, x: str, pieces: list[Piece]) -> str:
    """The pieces' values, each times its row's scale if it is scaled, [N, 5] -> [N, len(pieces)]."""
    shape = (len(FEATURES), len(pieces))
    slopes, factors = np.zeros(shape), np.zeros(shape)
    for column, piece in enumerate(pieces):
        slopes[piece.feature, column] = piece.slope
        factors[SCALE, column] = piece.scaled
    values = _add_relu(g, x, slopes, np.array([p.offset for p in pieces]), "pieces")
    return g.node("Mul", values, _add_relu(g, x, factors, 1.0 - factors[SCALE], "factors"), output="parts")


def _add_relu(g: GraphBuilder, x: str, matrix: Floats, offset: Floats, output: str) -> str:
    """`relu(x matrix + offset)`, [N, K] -> [N, M]."""
    constants = g.constant(f"{output}_matrix", matrix), g.constant(f"{output}_offset", offset)
    return g.node("Relu", g.node("Gemm", x, *constants, output=f"{output}_signed"), output=output)


def _add_sum(g: GraphBuilder, parts: str, weights: list[float], output: str) -> str:
    """Weighted sum of columns, [N, K] -> [N, 1].

    Not `MatMul` with a vector, which would give [N] at once: ONNX Runtime computes that row by row, 0.17 us each.
    """
    return g.node("Gemm", parts, g.constant(f"{output}_weights", np.array(weights)[:, None]), output=output)


def _fit_logistic(terms: Floats, offset: Floats, anomalous: NDArray[np.bool_], config: ModelConfig) -> Floats:
    """Weights >= 0 of a ridge-penalised logistic regression with a fixed offset, by L-BFGS-B. float64 [K].

    Args:
        terms: float64 [N, K].
        offset: float64 [N], the saturation term with its given weight.
        anomalous: bool [N].
        config: The penalty.
    """
    design = np.column_stack([terms, np.ones(len(terms))])
    penalty = np.append(np.full(terms.shape[1], config.ridge), 0.0)

    def loss(p: Floats) -> tuple[float, Floats]:
        logit = design @ p + offset
        value = np.mean(np.logaddexp(0.0, logit) - anomalous * logit) + penalty @ p**2 / 2
        return float(value), design.T @ (expit(logit) - anomalous) / len(logit) + penalty * p

    bounds = [(0.0, None)] * terms.shape[1] + [(None, None)]
    start = np.zeros(design.shape[1])
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=OPTIONS).x[:-1]


def _fit_huber(terms: Floats, target: Floats, delta: float) -> Floats:
    """Coefficients and intercept of a linear regression with Huber's loss (1964), by L-BFGS-B. float64 [K + 1]."""
    design = np.column_stack([terms, np.ones(len(terms))])

    def loss(p: Floats) -> tuple[float, Floats]:
        error = design @ p - target
        size = np.abs(error)
        value = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2)).mean()
        return float(value), design.T @ np.clip(error, -delta, delta) / len(error)

    return minimize(loss, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options=OPTIONS).x
