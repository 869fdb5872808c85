"""What champion and challenger have in common: their answers, their calibration, and the rows they are fitted on."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from training.config import FEATURES, SAMPLES_PER_DAY, Config, ModelConfig
from training.export.graph import Limits
from training.features import Table

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """A model's answers to N rows.

    Attributes:
        anomaly: bool [N], the decision: score >= 0.5.
        score: float32 [N] in [0, 1]; 0.5 is the operating point.
        forecast: float32 [N], CPU percent one horizon later, in [0, 100].
    """

    anomaly: NDArray[np.bool_]
    score: Rows
    forecast: Rows


@dataclass(frozen=True)
class Calibration:
    """From a model's raw sum to its score: `sigmoid((raw - threshold) / tau)`.

    Attributes:
        threshold: The raw sum at the operating point.
        tau: Its spread.
    """

    threshold: float
    tau: float


FOLDS = 10
"""Fits by which every series is left out once."""
UNCALIBRATED = Calibration(threshold=0.0, tau=1.0)


class Model(Protocol):
    """A fitted model: answers in numpy, and the same as an ONNX graph.

    Attributes:
        keeps_threshold: Whether `fit` sets the calibration, so that `calibrate` has nothing to do.
        has_trees: Whether its graph walks trees, a microsecond a row.
        limits: Defaults and clips of the inputs.
        calibration: From the raw sum to the score.
    """

    keeps_threshold: ClassVar[bool]
    has_trees: ClassVar[bool]
    limits: Limits
    calibration: Calibration

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Model":
        """Fits on the rows of a table."""
        ...

    def raw(self, features: Rows) -> Floats:
        """The uncalibrated sum behind the score: float32 [N, 5] in, float64 [N] out."""
        ...

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5], any values, NaN for missing."""
        ...

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The graph with the contract's input and outputs."""
        ...


def fit_limits(table: Table, config: ModelConfig) -> Limits:
    """Defaults and clips of the features: a missing baseline or scale becomes the training fleet's median."""
    level = np.median(table.features[table.warm][:, 3:], axis=0)
    default = np.array([config.z_default] * 3 + level.round(4).tolist(), dtype=np.float32)
    if len(default) != len(FEATURES):
        msg = f"limits for {len(default)} features, the contract has {len(FEATURES)}"
        raise AssertionError(msg)
    return Limits(default, config.input_limit)


def decision_rows(table: Table) -> NDArray[np.bool_]:
    """Which rows, bool [N], can be called normal or anomalous and are past the warm-up."""
    return table.warm & table.judged


def forecast_rows(table: Table) -> NDArray[np.bool_]:
    """Which rows, bool [N], are past the warm-up and have a known value one horizon later."""
    return table.warm & np.isfinite(table.target)


def held_out(kind: type[Model], table: Table, config: Config) -> tuple[Floats, Floats]:
    """Answers to rows whose series the model has not seen: each series is left out of one of at most ten fits.

    A threshold read from the rows that trees were fitted on would be too low, and a recipe chosen by them too flexible.
    Pods come and go, so a series that was not seen is what a model meets.

    Returns:
        Two float64 [N]: the uncalibrated sums behind the score, and the forecast in percent.
    """
    raw, forecast = np.full(len(table.time), np.nan), np.full(len(table.time), np.nan)
    names = np.unique(table.series)
    for names_left_out in np.array_split(names, min(FOLDS, len(names))):
        own = np.isin(table.series, names_left_out)
        fitted = kind.fit(table.rows(~own), config)
        raw[own] = fitted.raw(table.features[own])
        forecast[own] = fitted.predict(table.features[own]).forecast
    return raw, forecast


def calibrate(raw: Floats, table: Table, config: ModelConfig) -> Calibration:
    """Threshold from the false-alarm budget on normal rows, tau by the one-parameter form of Platt's scaling (1999).

    Args:
        raw: float64 [N], raw sums of the table's rows.
        table: Labelled rows.
        config: The budget.

    Raises:
        ValueError: No anomalous or no normal row.
    """
    rows = decision_rows(table)
    raw, anomalous = raw[rows], table.anomalous[rows]
    normal = np.sort(raw[~anomalous])[::-1]
    if anomalous.all() or not anomalous.any():
        msg = "calibration needs normal and anomalous rows"
        raise ValueError(msg)
    allowed = allowed_alarms(len(normal), config)
    # Halfway between the last allowed and the first refused normal row.
    threshold = float((normal[max(allowed - 1, 0)] + normal[allowed]) / 2)

    def loss(log_tau: float) -> float:
        logit = (raw - threshold) / np.exp(log_tau)
        return float(np.mean(np.logaddexp(0.0, logit) - anomalous * logit))

    log_tau = minimize_scalar(loss, bounds=(np.log(0.1), np.log(10.0)), method="bounded").x
    return Calibration(round(threshold, 6), round(float(np.exp(log_tau)), 6))


def answers_of(raw: Floats, calibration: Calibration, forecast: Floats) -> Outputs:
    """Outputs from uncalibrated sums and forecasts in percent, both float64 [N]."""
    score = expit((raw - calibration.threshold) / calibration.tau).astype(np.float32)
    return Outputs(score >= np.float32(0.5), score, forecast.astype(np.float32))


def allowed_alarms(normal: int, config: ModelConfig) -> int:
    """How many of `normal` rows, a minute each, may alarm: the budget, and never all of them."""
    return min(int(normal / SAMPLES_PER_DAY * config.false_samples_per_pod_day), normal - 1)


def answers(logit: Floats, prepared: Rows, g_of_z: Floats) -> Outputs:
    """Outputs from a logit and a forecast in scales above the baseline, both float64 [N]; see `export.graph`."""
    score = expit(logit).astype(np.float32)
    forecast = np.clip(prepared[:, 3] + prepared[:, 4] * g_of_z, 0.0, 100.0).astype(np.float32)
    return Outputs(score >= np.float32(0.5), score, forecast)
