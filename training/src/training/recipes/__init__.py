"""Ways to make a model, by name: each a class with the interface of `model.Model`."""

from dataclasses import replace

from threadpoolctl import threadpool_limits

from training.config import Config
from training.features import Table
from training.model import Model, calibrate, held_out_raw
from training.recipes.boosting import Boosting
from training.recipes.forest import Forest
from training.recipes.lightgbm_trees import LightGbm
from training.recipes.logistic import Logistic
from training.recipes.rule import Rule

RECIPES: dict[str, type[Model]] = {
    "rule": Rule,
    "monotone-logistic": Logistic,
    "gradient-boosting": Boosting,
    "lightgbm": LightGbm,
    "isolation-forest": Forest,
}


@threadpool_limits.wrap(limits=1)
def fit(name: str, table: Table, config: Config) -> Model:
    """Fits a recipe and, unless it keeps its own threshold, calibrates it on series that it has not seen.

    On one thread: sums in another order would change the last bits of the models.

    Raises:
        ValueError: No such recipe, or the table does not hold what it needs.
    """
    if name not in RECIPES:
        msg = f"recipe {name!r} is not known; take one of {', '.join(RECIPES)}"
        raise ValueError(msg)
    kind = RECIPES[name]
    model = kind.fit(table, config)
    if kind.keeps_threshold:
        return model
    return replace(model, calibration=calibrate(held_out_raw(kind, table, config), table, config.model))
