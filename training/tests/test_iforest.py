"""The compact IsolationForest export equals scikit-learn, missing values included."""

import numpy as np
import onnx
import pytest
from sklearn.ensemble import IsolationForest

from training.export.graph import to_bytes
from training.export.iforest import average_path_length, to_onnx
from training.export.trees import round_down
from training.scoring.served import session

ROWS = 10_000


def data(seed: int, rows: int, missing: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, (rows, 4)).astype(np.float32)
    x[rng.random(x.shape) < missing] = np.nan
    return x


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize(("trees", "max_features", "contamination"), [(100, 1.0, "auto"), (30, 0.5, 0.05)])
def test_scores_equal_scikit_learn(trees: int, max_features: float, contamination: float | str, missing: float) -> None:
    forest = IsolationForest(n_estimators=trees, max_features=max_features, contamination=contamination, random_state=1)
    forest.fit(data(0, 3_000, missing))
    rows = data(1, ROWS, missing)
    served = session(to_bytes(to_onnx(forest)))
    anomaly, score, decision = served.run(["anomaly", "score_samples", "decision_function"], {"X": rows})
    expected = forest.decision_function(rows)
    np.testing.assert_allclose(score, forest.score_samples(rows), rtol=0, atol=1e-6)
    np.testing.assert_allclose(decision, expected, rtol=0, atol=1e-6)
    clear = np.abs(expected) > 1e-6
    np.testing.assert_array_equal(anomaly[clear], forest.predict(rows)[clear] == -1)
    assert bool(np.isnan(rows).any()) == (missing > 0)


def test_rows_on_a_threshold_take_the_same_branch() -> None:
    forest = IsolationForest(n_estimators=20, random_state=2).fit(data(3, 1_000, 0.0))
    tree = forest.estimators_[0].tree_
    thresholds = tree.threshold[tree.children_left >= 0]
    exact = np.array([round_down(t) for t in thresholds], dtype=np.float32)
    values = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))])
    rows = np.stack([np.roll(values, i) for i in range(4)], axis=1)
    (score,) = session(to_bytes(to_onnx(forest))).run(["score_samples"], {"X": rows})
    np.testing.assert_allclose(score, forest.score_samples(rows), rtol=0, atol=1e-6)


def test_graph_is_one_tree_node_and_five_small_ones() -> None:
    model = to_onnx(IsolationForest(n_estimators=10, random_state=0).fit(data(0, 500, 0.0)))
    onnx.checker.check_model(model, full_check=True)
    operators = [n.op_type for n in model.graph.node]
    assert operators == ["TreeEnsembleRegressor", "Reshape", "Exp", "Neg", "Sub", "Less"]


@pytest.mark.parametrize("value", [0.1, -0.1, 1 / 3, 1e-46, 16777217.0, 2.0])
def test_thresholds_are_rounded_down(value: float) -> None:
    rounded = round_down(value)
    assert rounded <= value
    assert float(np.nextafter(np.float32(rounded), np.float32(np.inf))) > value


def test_average_path_length() -> None:
    assert [average_path_length(n) for n in (0, 1, 2)] == [0, 0, 1]
    assert average_path_length(256) == pytest.approx(10.2448, abs=1e-4)
