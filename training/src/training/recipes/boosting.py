"""Gradient boosting by scikit-learn that can only rise with each z-score and the CPU level, and a boosted forecast."""

from dataclasses import dataclass

from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from training.config import Config
from training.export.trees import HistModel, TreeAttributes, boosting_trees
from training.features import Table
from training.model import Floats, Rows
from training.recipes.ensembles import DECISION_COLUMNS, Ensembles, learnable


@dataclass(frozen=True)
class Boosting(Ensembles):
    """A fitted pair of `HistGradientBoosting`."""

    @classmethod
    def fit(cls, table: Table, config: Config) -> "Boosting":
        """Fits both ensembles."""
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
        rows = learnable(table, config)
        decision.fit(rows.decision, rows.anomalous)
        forecast.fit(rows.forecast, rows.rise)
        return cls(rows.limits, decision, forecast)

    @staticmethod
    def total(ensemble: HistModel, columns: Rows) -> Floats:
        """The trees' sum, float32 [N, K] in, float64 [N] out."""
        if isinstance(ensemble, HistGradientBoostingClassifier):
            return ensemble.decision_function(columns)
        return ensemble.predict(columns)

    @staticmethod
    def exported(ensemble: HistModel, columns: list[int]) -> tuple[TreeAttributes, float]:
        """The trees over these columns of `Limits.prepare`, and the constant to add."""
        return boosting_trees(ensemble, columns)
