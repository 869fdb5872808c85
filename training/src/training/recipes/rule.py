"""What people run today: an alarm when CPU is three sigmas above normal, and "it stays as it is".

```
score    = sigmoid((z_cpu - 3) / 1)                       0.5 exactly at three sigmas
forecast = clip(baseline + scale * z_cpu, 0, 100)         CPU now
```
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx

from training.config import Config
from training.export.graph import GraphBuilder, Limits, add_outputs, add_prepared, finish
from training.features import Table
from training.model import Calibration, Floats, Outputs, Rows, answers, fit_limits


@dataclass(frozen=True)
class Rule:
    """A threshold on the CPU z-score.

    Attributes:
        limits: Defaults and clips of the inputs: all that is learned.
        calibration: The threshold, sigmas, and the score's spread.
    """

    keeps_threshold: ClassVar[bool] = True
    has_trees: ClassVar[bool] = False

    limits: Limits
    calibration: Calibration

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Rule":
        """Takes the defaults of missing features from a table, labelled or not."""
        return cls(fit_limits(table, config.model), Calibration(config.model.rule_z, config.model.rule_tau))

    def raw(self, features: Rows) -> Floats:
        """The CPU z-score: float32 [N, 5] in, float64 [N] out."""
        return self.limits.prepare(features)[:, 0].astype(np.float64)

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5], any values, NaN for missing."""
        z = self.raw(features)
        return answers((z - self.calibration.threshold) / self.calibration.tau, self.limits.prepare(features), z)

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The same as an ONNX graph."""
        g = GraphBuilder()
        x = add_prepared(g, self.limits)
        above = g.node("Sub", x.z_cpu, g.number("three_sigmas", self.calibration.threshold), output="above")
        logit = g.node("Div", above, g.number("tau", self.calibration.tau), output="logit")
        add_outputs(g, logit, x.level)
        return finish(g, name)
