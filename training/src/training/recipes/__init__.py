"""Ways to make a model, by name; each becomes one graph with the same input and outputs."""

from training.model import Model
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
"""Every recipe by its name."""
