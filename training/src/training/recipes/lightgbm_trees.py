"""Gradient boosting by LightGBM that can only rise with each z-score and the CPU level, and a boosted forecast."""

from dataclasses import dataclass

import lightgbm

from training.config import Config
from training.export.trees import TreeAttributes, lightgbm_trees
from training.features import Table
from training.model import Floats, Rows
from training.recipes.ensembles import DECISION_COLUMNS, Ensembles, learnable


@dataclass(frozen=True)
class LightGbm(Ensembles):
    """A fitted pair of LightGBM boosters."""

    @classmethod
    def fit(cls, table: Table, config: Config) -> "LightGbm":
        """Fits both ensembles, on one thread: the same rows give the same trees."""
        shared = {
            "num_leaves": config.model.tree_leaves,
            "min_data_in_leaf": config.model.tree_min_samples,
            "learning_rate": config.model.tree_learning_rate,
            "lambda_l2": config.model.tree_l2,
            "seed": config.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": 1,
            "verbosity": -1,
        }
        decision = {"objective": "binary", "monotone_constraints": [1] * len(DECISION_COLUMNS)}
        forecast = {"objective": "regression_l1"}
        rows = learnable(table, config)
        return cls(
            rows.limits,
            _boost(shared | decision, rows.decision, rows.anomalous, config.model.tree_count),
            _boost(shared | forecast, rows.forecast, rows.rise, config.model.tree_count),
        )

    @staticmethod
    def total(ensemble: lightgbm.Booster, columns: Rows) -> Floats:
        """The trees' sum, float32 [N, K] in, float64 [N] out."""
        return ensemble.predict(columns, raw_score=True, num_threads=1)

    @staticmethod
    def exported(ensemble: lightgbm.Booster, columns: list[int]) -> tuple[TreeAttributes, float]:
        """The trees over these columns of `Limits.prepare`, and the constant to add."""
        return lightgbm_trees(ensemble, columns), 0.0


def _boost(parameters: dict[str, object], columns: Rows, target: Floats, rounds: int) -> lightgbm.Booster:
    return lightgbm.train(parameters, lightgbm.Dataset(columns, target), num_boost_round=rounds)
