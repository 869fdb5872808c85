"""A scikit-learn IsolationForest as one `TreeEnsembleRegressor` node and five small ones.

Each leaf carries its share of the exponent, so the node's sum is ready for `exp`:
`score_samples = -2^(-mean path / c(n)) = -exp(sum over trees of -ln 2 * path / (T * c(n)))` (Liu, Ting, Zhou, 2008).
"""

import numpy as np
import onnx
from onnx import TensorProto
from sklearn.ensemble import IsolationForest

from training.export.graph import GraphBuilder
from training.export.trees import TreeAttributes

EULER = float(np.euler_gamma)


def average_path_length(samples: int) -> float:
    """c(n): mean path length of an unsuccessful search in a binary search tree of n samples (Liu et al., equation 1).

    c(0) = c(1) = 0 and c(2) = 1, as in scikit-learn; `H(n) ~ ln n + Euler's constant`.
    """
    if samples <= 1:
        return 0.0
    if samples == 2:  # noqa: PLR2004 - the formula's own special case
        return 1.0
    return 2.0 * (np.log(samples - 1.0) + EULER) - 2.0 * (samples - 1.0) / samples


def to_onnx(forest: IsolationForest, name: str = "iforest") -> onnx.ModelProto:
    """Exports a fitted forest.

    The graph takes `X` float32 [N, F], where NaN is missing if the forest was fitted so, and gives `anomaly` bool [N]
    (scikit-learn's `predict == -1`), `score_samples` and `decision_function` float32 [N] (lower is more anomalous).

    Raises:
        sklearn.exceptions.NotFittedError: The forest is not fitted.
    """
    features = forest.n_features_in_
    share = -np.log(2.0) / (len(forest.estimators_) * average_path_length(int(forest.max_samples_)))
    trees = path_trees(forest, float(share))
    g = GraphBuilder()
    exponent = trees.add_to(g, "X", "exponent")
    flat = g.node("Reshape", exponent, g.constant("flat", np.array([-1], dtype=np.int64)), output="exponent_flat")
    score = g.node("Neg", g.node("Exp", flat, output="depth_score"), output="score_samples")
    decision = g.node("Sub", score, g.number("offset", float(forest.offset_)), output="decision_function")
    g.node("Less", decision, g.number("zero", 0.0), output="anomaly")
    outputs = {
        "anomaly": TensorProto.BOOL,
        "score_samples": TensorProto.FLOAT,
        "decision_function": TensorProto.FLOAT,
    }
    return g.model(name, {"X": ["N", features]}, outputs, {"onnxd.name": name})


def path_trees(forest: IsolationForest, share: float) -> TreeAttributes:
    """The trees of a fitted forest; their sum is `share` times the sum of a row's path lengths."""
    trees = TreeAttributes()
    for index, (estimator, columns) in enumerate(
        zip(forest.estimators_, forest.estimators_features_, strict=True),
    ):
        _add_tree(trees, index, estimator.tree_, [int(c) for c in columns], share)
    return trees


def _add_tree(trees: TreeAttributes, index: int, tree: object, columns: list[int], share: float) -> None:
    """Adds one isolation tree. A leaf's path is its depth in edges plus c(samples in it)."""
    stack = [(0, 0)]
    while stack:
        node, depth = stack.pop()
        left, right = int(tree.children_left[node]), int(tree.children_right[node])  # type: ignore[attr-defined]
        if left < 0:
            samples = int(tree.n_node_samples[node])  # type: ignore[attr-defined]
            trees.leaf((index, node), share * (depth + average_path_length(samples)))
            continue
        test = (
            columns[int(tree.feature[node])],  # type: ignore[attr-defined]
            float(tree.threshold[node]),  # type: ignore[attr-defined]
            bool(tree.missing_go_to_left[node]),  # type: ignore[attr-defined]
        )
        trees.branch((index, node), test, (left, right))
        stack += [(right, depth + 1), (left, depth + 1)]
