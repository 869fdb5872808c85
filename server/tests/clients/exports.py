"""Models as scikit-learn, XGBoost and LightGBM export them, trained on a little data with a fixed seed."""

from collections.abc import Iterator

import lightgbm
import numpy as np
import onnxmltools
import pandas as pd
import xgboost
from onnxmltools.convert.common.data_types import FloatTensorType as FloatInput
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from repository import Export

ROWS = 9
OPSET = 18
REGIONS = ["eu", "us", "asia"]


def data() -> tuple[np.ndarray, np.ndarray]:
    """120 points of three classes in four dimensions."""
    rng = np.random.default_rng(3)
    labels = np.arange(120) % 3
    points = rng.normal(0, 1, (120, 4)) + labels[:, None] * np.array([1.5, -1.0, 0.5, 0.0])
    return points.astype(np.float32), labels


def rows(width: int = 4) -> np.ndarray:
    """What is asked in the tests: other points than those of training."""
    return np.random.default_rng(4).normal(0.5, 1.5, (ROWS, width)).astype(np.float32)


def sklearn_models() -> Iterator[Export]:
    points, labels = data()
    names = np.array(["low", "middle", "high"])
    linear = LogisticRegression().fit(points, labels)
    forest = RandomForestClassifier(5, max_depth=4, random_state=0).fit(points, labels)
    yield Export("sklearn-zipmap", skl(linear), {"X": rows()}, maps={"output_probability": ["0", "1", "2"]})
    yield Export("sklearn-dense", skl(forest, zipmap=False), {"X": rows()})
    yield Export("sklearn-columns", skl(linear, zipmap="columns"), {"X": rows()})
    strings = LogisticRegression().fit(points, names[labels])
    yield Export(
        "sklearn-strings",
        skl(strings),
        {"X": rows()},
        maps={"output_probability": ["high", "low", "middle"]},
    )
    yield Export("sklearn-strings-dense", skl(strings, zipmap=False), {"X": rows()})
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(points.astype(np.float64), labels)
    doubles = to_onnx(scaled, points[:1].astype(np.float64), target_opset=OPSET, options={"zipmap": False})
    yield Export("sklearn-double", doubles.SerializeToString(), {"X": rows().astype(np.float64)})
    network = MLPClassifier((8,), max_iter=1000, random_state=0).fit(points, labels)
    yield Export("sklearn-mlp", skl(network, zipmap=False), {"X": rows()})
    boosted = GradientBoostingRegressor(n_estimators=10, random_state=0).fit(points, points.sum(axis=1))
    yield Export("sklearn-regressor", skl(boosted), {"X": rows()})
    two = RandomForestRegressor(3, max_depth=4, random_state=0).fit(points, points[:, :2])
    yield Export("sklearn-two-targets", skl(two), {"X": rows()})
    isolation = IsolationForest(n_estimators=10, random_state=0).fit(points)
    yield Export("sklearn-isolation", skl(isolation), {"X": rows()})
    yield Export(
        "sklearn-adaboost",
        skl(AdaBoostClassifier(n_estimators=3, random_state=0).fit(points, labels)),
        {"X": rows()},
        maps={"output_probability": ["0", "1", "2"]},
    )
    pairs = OneVsOneClassifier(LogisticRegression()).fit(points, labels)
    yield Export("sklearn-pairs", skl(pairs, zipmap=False), {"X": rows()})
    yield columns()


def skl(model: object, *, zipmap: bool | str = True) -> bytes:
    options = {} if zipmap is True else {"zipmap": zipmap}
    points, _ = data()
    exported = to_onnx(model, points[:1], target_opset={"": OPSET, "ai.onnx.ml": 3}, options={id(model): options})
    return exported.SerializeToString()


def columns() -> Export:
    """A pipeline with an input for each column, one of them of strings."""
    points, labels = data()
    frame = pd.DataFrame({"cpu": points[:, 0], "mem": points[:, 1], "region": [REGIONS[i] for i in labels]})
    prepare = ColumnTransformer([("n", StandardScaler(), ["cpu", "mem"]), ("r", OneHotEncoder(), ["region"])])
    model = make_pipeline(prepare, LogisticRegression()).fit(frame, labels)
    types = [
        ("cpu", FloatTensorType([None, 1])),
        ("mem", FloatTensorType([None, 1])),
        ("region", StringTensorType([None, 1])),
    ]
    exported = to_onnx(model, initial_types=types, target_opset=OPSET)
    asked = rows(2)
    region = np.array([[REGIONS[i % 3]] for i in range(ROWS)], dtype=object)
    inputs = {"cpu": asked[:, :1].copy(), "mem": asked[:, 1:].copy(), "region": region}
    maps = {"output_probability": ["0", "1", "2"]}
    return Export("sklearn-pipeline", exported.SerializeToString(), inputs, maps=maps)


def boosted_models() -> Iterator[Export]:
    points, labels = data()
    types = [("input", FloatInput([None, 4]))]
    target = points.sum(axis=1)
    few = {"n_estimators": 8, "max_depth": 3, "random_state": 0, "n_jobs": 1}
    for name, model, goal in [
        ("xgboost-classifier", xgboost.XGBClassifier(**few), labels),
        ("xgboost-regressor", xgboost.XGBRegressor(**few), target),
    ]:
        exported = onnxmltools.convert_xgboost(model.fit(points, goal), initial_types=types, target_opset=15)
        yield Export(name, exported.SerializeToString(), {"input": rows()})
    few |= {"min_child_samples": 5, "verbose": -1}
    classifier = lightgbm.LGBMClassifier(**few).fit(points, labels)
    regressor = lightgbm.LGBMRegressor(**few).fit(points, target)
    light: list[tuple[str, object, dict, dict[str, list[str]]]] = [
        ("lightgbm-zipmap", classifier, {}, {"probabilities": ["0", "1", "2"]}),
        ("lightgbm-dense", classifier, {"zipmap": False}, {}),
        ("lightgbm-regressor", regressor, {}, {}),
    ]
    for name, model, options, maps in light:
        exported = onnxmltools.convert_lightgbm(model, initial_types=types, target_opset=15, **options)
        yield Export(name, exported.SerializeToString(), {"input": rows()}, maps=maps)
