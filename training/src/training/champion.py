"""The champion: a logistic that can only rise with each z-score, and a linear forecast that scales with its series.

```
score    = sigmoid((w . log(1 + relu(z)) + w_s * clip((level - 70) / 30, 0, 1) - t) / tau),  w >= 0
level    = baseline + scale * z_cpu
forecast = clip(baseline + scale * (v . [clip(z, -5, 5), clip(z_cpu - 5, 0, 40)] + v_0), 0, 100)
```
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from scipy.optimize import minimize
from scipy.special import expit

from training.config import Config, ModelConfig
from training.export.graph import GraphBuilder, Limits, add_front, add_outputs, finish
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


@dataclass(frozen=True)
class Champion:
    """The fitted champion.

    Attributes:
        config: Shape of its terms.
        limits: Defaults and clips of the inputs.
        weights: float64 [3], of `log(1 + relu(z))`, none negative.
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

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Champion":
        """Fits the weights on labelled rows and the forecast on rows whose future is known."""
        limits = fit_limits(table, config.model, config.features.z_limit)
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
        """`log(1 + relu(z))`, float64 [N, 3]."""
        return np.log1p(np.maximum(prepared[:, :3].astype(np.float64), 0.0))

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
        """The same as an ONNX graph of core operators. `1 / tau` is folded into the weights."""
        g = GraphBuilder()
        front = add_front(g, self.limits)
        config, tau = self.config, self.calibration.tau
        zero, one = g.number("zero_z", 0.0), g.number("one", 1.0)
        positive = g.node("Max", front.z, zero, output="z_positive")
        logs = _log(g, g.node("Add", positive, one, output="z_positive_1"))
        shifted = g.node("Sub", front.level, g.number("saturation_start", config.saturation_start), output="over")
        share = g.node("Div", shifted, g.number("saturation_width", config.saturation_width), output="over_share")
        saturation = g.node("Clip", share, zero, one, output="saturation")
        terms = g.node("Concat", logs, saturation, output="terms", axis=1)
        weights = np.append(self.weights, config.saturation_weight) / tau
        logit = _linear(g, terms, weights, -self.calibration.threshold / tau, "logit")
        add_outputs(g, front, logit, self._add_forecast(g, front.z, front.z_cpu))
        return finish(g, name)

    def _add_forecast(self, g: GraphBuilder, z: str, z_cpu: str) -> str:
        limit = self.config.forecast_z_limit
        low, high = g.number("z_low", -limit), g.number("z_high", limit)
        near = g.node("Clip", z, low, high, output="z_near")
        beyond = g.node("Sub", z_cpu, high, output="z_beyond")
        most = g.number("excess_limit", self.config.forecast_excess_limit)
        excess = g.node("Clip", beyond, "zero_z", most, output="z_excess")
        terms = g.node("Concat", near, excess, output="forecast_terms", axis=1)
        return _linear(g, terms, self.coefficients, self.intercept, "g_of_z")


def _log(g: GraphBuilder, x: str) -> str:
    """Natural logarithm, computed in float64.

    ONNX Runtime's float32 kernel gives the last rows of a batch another last bit than the first ones. A double's last
    bit is lost when it becomes a float, so a row's answer does not depend on its batch.
    """
    double = g.node("Cast", x, output="z_double", to=TensorProto.DOUBLE)
    return g.node("Cast", g.node("Log", double, output="z_log_double"), output="z_log", to=TensorProto.FLOAT)


def _linear(g: GraphBuilder, terms: str, weights: Floats, intercept: float, output: str) -> str:
    """Weighted sum of columns plus a constant, [N, K] -> [N, 1]."""
    column = g.constant(f"{output}_weights", weights[:, None])
    return g.node("Gemm", terms, column, g.constant(f"{output}_bias", np.array([intercept])), output=output)


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
