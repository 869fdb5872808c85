"""What gradient boosting has in common, whichever library grows the trees: rows, answers and the graph.

```
score    = sigmoid((trees(z, level) - t) / tau)           level = baseline + scale * z_cpu
forecast = clip(baseline + scale * trees(z), 0, 100)      least absolute error
```
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from training.config import Config
from training.export.graph import GraphBuilder, Limits, add_outputs, add_prepared, finish
from training.export.trees import TreeAttributes
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

DECISION_COLUMNS = [0, 1, 2, 5]
"""Columns of `Limits.prepare`: the z-scores and the CPU level. The score can only rise with each."""
FORECAST_COLUMNS = [0, 1, 2]


class Learnable(NamedTuple):
    """What two ensembles learn from.

    Attributes:
        limits: Defaults and clips of the inputs.
        decision: float32 [N, 4], `DECISION_COLUMNS` of the judged rows.
        anomalous: bool [N].
        forecast: float32 [M, 3], `FORECAST_COLUMNS` of the rows whose future is known.
        rise: float64 [M], CPU one horizon later, in scales above the baseline.
    """

    limits: Limits
    decision: Rows
    anomalous: NDArray[Any]
    forecast: Rows
    rise: Floats


def learnable(table: Table, config: Config) -> Learnable:
    """The rows of a table that trees learn from."""
    limits = fit_limits(table, config.model)
    rows = decision_rows(table)
    decision = limits.prepare(table.features[rows])[:, DECISION_COLUMNS]
    known = forecast_rows(table)
    prepared = limits.prepare(table.features[known])
    rise = (table.target[known] - prepared[:, 3]) / prepared[:, 4]
    return Learnable(limits, decision, table.anomalous[rows], prepared[:, FORECAST_COLUMNS], rise)


@dataclass(frozen=True)
class Ensembles(ABC):
    """Two fitted ensembles of one library.

    Attributes:
        limits: Defaults and clips of the inputs.
        decision: Trees over z and level, monotone.
        forecast: Trees over z, in scales above the baseline.
        calibration: From the raw sum to the score.
    """

    keeps_threshold: ClassVar[bool] = False
    has_trees: ClassVar[bool] = True

    limits: Limits
    decision: Any
    forecast: Any
    calibration: Calibration = UNCALIBRATED

    @staticmethod
    @abstractmethod
    def total(ensemble: Any, columns: Rows) -> Floats:  # noqa: ANN401 - the library's own type
        """The trees' sum, float32 [N, K] in, N > 0, float64 [N] out."""

    @staticmethod
    @abstractmethod
    def exported(ensemble: Any, columns: list[int]) -> tuple[TreeAttributes, float]:  # noqa: ANN401
        """The trees over these columns of `Limits.prepare`, and the constant to add."""

    def raw(self, features: Rows) -> Floats:
        """The trees' sum before calibration: float32 [N, 5] in, float64 [N] out."""
        return self._total(self.decision, self.limits.prepare(features)[:, DECISION_COLUMNS])

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5], any values, NaN for missing."""
        prepared = self.limits.prepare(features)
        logit = (self.raw(features) - self.calibration.threshold) / self.calibration.tau
        return answers(logit, prepared, self._total(self.forecast, prepared[:, FORECAST_COLUMNS]))

    def _total(self, ensemble: Any, columns: Rows) -> Floats:  # noqa: ANN401
        """`total` for any number of rows: scikit-learn refuses to answer to none."""
        return self.total(ensemble, columns) if len(columns) else np.empty(0)

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The same as an ONNX graph: `Limits.prepare`, two `TreeEnsembleRegressor` nodes, the shared outputs.

        The trees name their columns of `prepared`, and `1 / tau` is folded into their leaves.
        """
        g = GraphBuilder()
        x = add_prepared(g, self.limits)
        prepared = g.node("Concat", x.columns, x.level, output="prepared", axis=1)

        trees, base = self.exported(self.decision, DECISION_COLUMNS)
        threshold, tau = self.calibration.threshold, self.calibration.tau
        logit = trees.scaled(1 / tau).add_to(g, prepared, "logit", (base - threshold) / tau)

        trees, base = self.exported(self.forecast, FORECAST_COLUMNS)
        g_of_z = trees.add_to(g, prepared, "g_of_z", base)
        percent = g.node("Add", g.node("Mul", x.scale, g_of_z, output="forecast_rise"), x.baseline, output="percent")
        add_outputs(g, logit, percent)
        return finish(g, name)
