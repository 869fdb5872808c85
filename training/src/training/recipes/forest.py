"""An isolation forest over what rises: it learns without labels, and is a weak detector of what matters.

```
score    = sigmoid((-mean path length(relu(z)) - t) / tau)      a row that few cuts isolate is anomalous
forecast = clip(baseline, 0, 100)                               the rolling median
```

Its score cannot rise with a z-score beyond those that it was fitted on, and three z-scores that are a little high
isolate a row as well as one that is very high: on real pods it misses faults that the others find.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.ensemble import IsolationForest

from training.config import Config
from training.export.graph import GraphBuilder, Limits, add_outputs, add_prepared, finish
from training.export.iforest import average_path_length, path_trees
from training.features import Table
from training.model import FOLDS, UNCALIBRATED, Calibration, Floats, Outputs, Rows, allowed_alarms, answers, fit_limits

USUAL_SCORE = 0.01
"""Score of the median row."""
DIGITS = 6


@dataclass(frozen=True)
class Forest:
    """A fitted isolation forest.

    Attributes:
        limits: Defaults and clips of the inputs.
        forest: Over relu(z), three columns.
        calibration: From the negative mean path length, in edges, to the score.
    """

    keeps_threshold: ClassVar[bool] = True
    has_trees: ClassVar[bool] = True

    limits: Limits
    forest: IsolationForest
    calibration: Calibration = UNCALIBRATED

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Forest":
        """Fits on the rows outside alert windows; labels are not looked at.

        The threshold keeps the budget of false alarms on series that a forest has not seen, as if all these rows were
        normal; tau gives their median a score of 0.01.

        Raises:
            ValueError: Fewer than two rows are left.
        """
        rows = table.rows(table.warm & ~alert_windows(table, config))
        least = 2
        if len(rows.time) < least:
            msg = f"{len(rows.time)} rows outside alert windows; an isolation forest needs {least}, give it more days"
            raise ValueError(msg)
        limits = fit_limits(table, config.model)
        model = cls._grow(rows, limits, config)
        _, series = np.unique(rows.series, return_inverse=True)
        raw = model.raw(rows.features)
        if series.max() > 0:
            for fold in range(FOLDS):
                own = series % FOLDS == fold
                if own.any():
                    raw[own] = cls._grow(rows.rows(~own), limits, config).raw(rows.features[own])
        return replace(model, calibration=_calibrate(raw, config))

    @classmethod
    def _grow(cls, rows: Table, limits: Limits, config: Config) -> "Forest":
        samples = min(config.model.forest_samples, len(rows.time))
        forest = IsolationForest(n_estimators=config.model.forest_trees, max_samples=samples, random_state=config.seed)
        return cls(limits, forest.fit(_risen(limits.prepare(rows.features))))

    def raw(self, features: Rows) -> Floats:
        """The negative mean path length in edges: float32 [N, 5] in, float64 [N] out."""
        if not len(features):
            return np.empty(0)
        score = -self.forest.score_samples(_risen(self.limits.prepare(features)))
        return average_path_length(int(self.forest.max_samples_)) * np.log2(score)

    def predict(self, features: Rows) -> Outputs:
        """Answers to float32 [N, 5], any values, NaN for missing."""
        of_score = (self.raw(features) - self.calibration.threshold) / self.calibration.tau
        return answers(of_score, self.limits.prepare(features), np.zeros(len(features)))

    def to_onnx(self, name: str) -> onnx.ModelProto:
        """The same as an ONNX graph; the trees look at columns 0 to 2. `1 / tau` is folded into their leaves."""
        g = GraphBuilder()
        x = add_prepared(g, self.limits)
        risen = g.node("Relu", x.columns, output="risen")
        threshold, tau = self.calibration.threshold, self.calibration.tau
        trees = path_trees(self.forest, -1.0 / (len(self.forest.estimators_) * tau))
        add_outputs(g, trees.add_to(g, risen, "logit", -threshold / tau), x.baseline)
        return finish(g, name)


def _risen(prepared: Rows) -> Rows:
    """relu(z), float32 [N, 3]."""
    return np.maximum(prepared[:, :3], np.float32(0.0))


def alert_windows(table: Table, config: Config) -> NDArray[np.bool_]:
    """Which rows, bool [N], are within `episode_gap` of an alarm of the rule in their series."""
    alarm = table.features[:, 0] >= config.model.rule_z
    out = np.zeros(len(table.time), dtype=np.bool_)
    for series in np.unique(table.series):
        own = table.series == series
        time, at = table.time[own], table.time[own & alarm]
        first = np.searchsorted(at, time - config.episode_gap, side="left")
        out[own] = first < np.searchsorted(at, time + config.episode_gap, side="right")
    return out


def _calibrate(raw: Floats, config: Config) -> Calibration:
    """Threshold and spread from raw sums of rows that all count as normal, float64 [N]."""
    ordered = np.sort(raw)[::-1]
    allowed = allowed_alarms(len(ordered), config.model)
    threshold = float((ordered[max(allowed - 1, 0)] + ordered[allowed]) / 2)
    tau = float((np.median(raw) - threshold) / logit(USUAL_SCORE))
    return Calibration(round(threshold, DIGITS), round(max(tau, 0.1), DIGITS))
