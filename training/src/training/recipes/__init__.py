"""Ways to make a model; each becomes one graph with the same input and outputs."""

from training.model import Model
from training.recipes.boosting import Boosting
from training.recipes.logistic import Logistic

RECIPES: dict[str, type[Model]] = {
    "monotone-logistic": Logistic,
    "gradient-boosting": Boosting,
}
"""Every recipe by its name."""
