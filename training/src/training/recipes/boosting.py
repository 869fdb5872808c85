"""Gradient boosting that can only rise with each z-score and the CPU level, and a boosted forecast.

```
score    = sigmoid((trees(z, level) - t) / tau)           level = baseline + scale * z_cpu
forecast = clip(baseline + scale * trees(z), 0, 100)      least absolute error
```
"""

from dataclasses import dataclass
from typing import ClassVar

import onnx
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from training.config import Config
from training.export.graph import GraphBuilder, Limits, add_defaults, add_outputs, finish
from training.export.trees import boosting_trees
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
"""Columns of `Limits.prepare`: the z-scores and the CPU level."""
FORECAST_COLUMNS = [0, 1, 2]


@dataclass(frozen=True)
class Boosting:
    """A fitted gradient boosting.

    Attributes:
        limits: Defaults and clips of the inputs.
        decision: Trees over z and level, monotone.
        forecast: Trees over z, in scales above the baseline.
        calibration: From the raw sum to the score.
    """

    limits: Limits
    decision: HistGradientBoostingClassifier
    forecast: HistGradientBoostingRegressor
    calibration: Calibration = UNCALIBRATED
    needs_calibration: ClassVar[bool] = True
    has_trees: ClassVar[bool] = True

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Boosting":
        """Fits both ensembles."""
        limits = fit_limits(table, config.model)
        shared = {
            "max_iter": config.model.tree_count,
            "max_leaf_nodes": config.model.tree_leaves,
            "min_samples_leaf": config.model.tree_min_samples,
            "learning_rate": config.model.tree_learning_rate,
            "l2_regularization": config.model.tree_l2,
            "early_stopping": False,
            "random_state": config.seed,
        }
        decision = HistGradientBoostingClassifier(monotonic_cst=[1] * len(DECISION_COLUMNS), **shared)
        forecast = HistGradientBoostingRegressor(loss="absolute_error", **shared)
        rows = decision_rows(table)
        decision.fit(limits.prepare(table.features[rows])[:, DECISION_COLUMNS], table.anomalous[rows])
        rows = forecast_rows(table)
        prepared = limits.prepare(table.features[rows])
        forecast.fit(prepared[:, FORECAST_COLUMNS], (table.target[rows] - prepared[:, 3]) / prepared[:, 4])
        return cls(limits, decision, forecast)

    def raw(self, features: Rows) -> Floats:
        """The trees' sum before calibration: float32 [N, 5] in, float64 [N] out."""
        return self.decision.decision_function(self.limits.prepare(features)[:, DECISION_COLUMNS])

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5], any values, NaN for missing."""
        prepared = self.limits.prepare(features)
        logit = (self.raw(features) - self.calibration.threshold) / self.calibration.tau
        return answers(logit, prepared, self.forecast.predict(prepared[:, FORECAST_COLUMNS]))

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The same as an ONNX graph: `Limits.prepare`, two `TreeEnsembleRegressor` nodes, the shared outputs.

        The trees name their columns of `prepared`, and `1 / tau` is folded into their leaves.
        """
        g = GraphBuilder()
        raised = g.node("Max", add_defaults(g, self.limits), g.constant("low", self.limits.low), output="raised")
        x = g.node("Min", raised, g.number("limit", self.limits.limit), output="clipped")
        z_cpu, _, baseline, scale = g.split(x, [1, 2, 1, 1], ["z_cpu", "z_rest", "baseline", "scale"])
        level = g.node("Add", g.node("Mul", scale, z_cpu, output="rise"), baseline, output="level")
        prepared = g.node("Concat", x, level, output="prepared", axis=1)

        trees, base = boosting_trees(self.decision, DECISION_COLUMNS)
        threshold, tau = self.calibration.threshold, self.calibration.tau
        logit = trees.scaled(1 / tau).add_to(g, prepared, "logit", (base - threshold) / tau)

        trees, base = boosting_trees(self.forecast, FORECAST_COLUMNS)
        g_of_z = trees.add_to(g, prepared, "g_of_z", base)
        percent = g.node("Add", g.node("Mul", scale, g_of_z, output="forecast_rise"), baseline, output="percent")
        add_outputs(g, logit, percent)
        return finish(g, name)
