"""Tree ensembles as one `TreeEnsembleRegressor` node.

`TreeEnsembleClassifier` is avoided: onnxruntime 1.26.0 computed it wrongly for two classes (its issue 28557). A missing
value follows `nodes_missing_value_tracks_true`, which skl2onnx forgets (its issue 1253).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import lightgbm
import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from training.export.graph import ML_DOMAIN, GraphBuilder


def round_down(threshold: float) -> float:
    """The largest float32 not above a float64 threshold: `x <= threshold` stays the same for every float32 x."""
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-np.inf))
    return float(rounded)


@dataclass
class TreeAttributes:
    """Attributes of a `TreeEnsembleRegressor` node that has one target and adds up its trees."""

    tree: list[int] = field(default_factory=list)
    node: list[int] = field(default_factory=list)
    feature: list[int] = field(default_factory=list)
    mode: list[str] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    missing_left: list[int] = field(default_factory=list)
    leaf_tree: list[int] = field(default_factory=list)
    leaf_node: list[int] = field(default_factory=list)
    leaf_weight: list[float] = field(default_factory=list)

    def branch(self, place: tuple[int, int], test: tuple[int, float, bool], children: tuple[int, int]) -> None:
        """Adds `x[feature] <= threshold ? left : right`.

        Args:
            place: Tree and node.
            test: Feature, threshold (float64), whether NaN goes left.
            children: Nodes on the left and right.
        """
        feature, threshold, missing_left = test
        self._add(place, feature, "BRANCH_LEQ", round_down(threshold), children, missing_left=missing_left)

    def leaf(self, place: tuple[int, int], weight: float) -> None:
        """Adds a leaf at (tree, node) that adds `weight` to the sum."""
        self._add(place, 0, "LEAF", 0.0, (0, 0), missing_left=False)
        self.leaf_tree.append(place[0])
        self.leaf_node.append(place[1])
        self.leaf_weight.append(float(np.float32(weight)))

    def _add(  # noqa: PLR0913 - one argument an attribute of the operator
        self,
        place: tuple[int, int],
        feature: int,
        mode: str,
        threshold: float,
        children: tuple[int, int],
        *,
        missing_left: bool,
    ) -> None:
        self.tree.append(place[0])
        self.node.append(place[1])
        self.feature.append(feature)
        self.mode.append(mode)
        self.threshold.append(threshold)
        self.left.append(children[0])
        self.right.append(children[1])
        self.missing_left.append(int(missing_left))

    def scaled(self, factor: float) -> "TreeAttributes":
        """The same trees, their sum multiplied by `factor`."""
        return replace(self, leaf_weight=[float(np.float32(w * factor)) for w in self.leaf_weight])

    def add_to(self, g: GraphBuilder, x: str, output: str, base: float = 0.0) -> str:
        """Adds the node: float32 [N, F] in, float32 [N, 1] out, `base` plus the trees. Returns the output's name."""
        return g.node(
            "TreeEnsembleRegressor",
            x,
            output=output,
            domain=ML_DOMAIN,
            n_targets=1,
            base_values=[base],
            nodes_treeids=self.tree,
            nodes_nodeids=self.node,
            nodes_featureids=self.feature,
            nodes_modes=self.mode,
            nodes_values=self.threshold,
            nodes_truenodeids=self.left,
            nodes_falsenodeids=self.right,
            nodes_missing_value_tracks_true=self.missing_left,
            target_treeids=self.leaf_tree,
            target_nodeids=self.leaf_node,
            target_ids=[0] * len(self.leaf_tree),
            target_weights=self.leaf_weight,
        )


HistModel = HistGradientBoostingClassifier | HistGradientBoostingRegressor


def boosting_trees(model: HistModel, columns: Sequence[int]) -> tuple[TreeAttributes, float]:
    """The trees of a fitted histogram gradient boosting with one output, and the constant to add.

    `columns` says which column of the node's input each of the model's features is.

    skl2onnx 1.20.0 cannot convert these. The trees are read from scikit-learn's private `_predictors`; the version is
    pinned and the parity test guards it.

    Raises:
        ValueError: More than one output, or categorical splits.
    """
    rounds: list[Any] = model._predictors  # noqa: SLF001 - see above
    trees = TreeAttributes()
    for index, predictors in enumerate(rounds):
        if len(predictors) != 1 or predictors[0].nodes["is_categorical"].any():
            msg = "only ensembles with one output and numerical splits are exported"
            raise ValueError(msg)
        for position, node in enumerate(predictors[0].nodes):
            if node["is_leaf"]:
                trees.leaf((index, position), float(node["value"]))
            else:
                column = columns[int(node["feature_idx"])]
                test = (column, float(node["num_threshold"]), bool(node["missing_go_to_left"]))
                trees.branch((index, position), test, (int(node["left"]), int(node["right"])))
    base = np.asarray(model._baseline_prediction)  # noqa: SLF001
    return trees, float(base.ravel()[0])


def lightgbm_trees(booster: lightgbm.Booster, columns: Sequence[int]) -> TreeAttributes:
    """The trees of a fitted LightGBM booster with one output; their sum is its `predict(raw_score=True)`.

    `columns` says which column of the node's input each of the booster's features is. The objective's sigmoid is left
    to the caller, and its initial score is in the first tree's leaves. LightGBM compares in float64; where it was
    trained without missing values, it takes NaN for 0.

    Raises:
        ValueError: More than one output, categorical splits, zero as missing value, or trees that are averaged.
    """
    model = booster.dump_model()
    if model["num_tree_per_iteration"] != 1 or model["average_output"]:
        msg = "only boosters with one output whose trees are added up are exported; train with boosting gbdt or dart"
        raise ValueError(msg)
    trees = TreeAttributes()
    for index, tree in enumerate(model["tree_info"]):
        _add_lightgbm_tree(trees, index, tree["tree_structure"], columns)
    return trees


def _add_lightgbm_tree(trees: TreeAttributes, index: int, root: dict[str, Any], columns: Sequence[int]) -> None:
    """Adds a tree, its nodes numbered from the root on."""
    waiting, count = [(0, root)], 1
    while waiting:
        position, node = waiting.pop()
        if "leaf_value" in node:
            trees.leaf((index, position), node["leaf_value"])
            continue
        if node["decision_type"] != "<=" or node["missing_type"] == "Zero":
            msg = "only numerical splits are exported; train without categorical features and zero_as_missing"
            raise ValueError(msg)
        # "Everything that is there" is written as the largest float64.
        threshold = min(node["threshold"], float(np.finfo(np.float32).max))
        missing_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0
        test = (columns[node["split_feature"]], threshold, missing_left)
        trees.branch((index, position), test, (count, count + 1))
        waiting += [(count, node["left_child"]), (count + 1, node["right_child"])]
        count += 2
