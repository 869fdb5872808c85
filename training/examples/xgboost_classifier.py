"""XGBoost: boosted trees that tell benign from malignant, as ONNX."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from xgboost import XGBClassifier

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

# Train: on an array and not on a DataFrame, since the converter takes no other names than f0, f1, ..
data = load_breast_cancer()
names = [name.replace(" ", "_") for name in data.feature_names]
x, y = data.data.astype(np.float32), data.target
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
model = XGBClassifier(n_estimators=60, max_depth=3, random_state=0).fit(x_train, y_train)

# Export: any number of rows, names for the columns.
graph = convert_xgboost(model, initial_types=[("features", FloatTensorType([None, len(names)]))], target_opset=15)
onnx.helper.set_model_props(graph, {"onnxd.features": ",".join(names)})
onnx.save(graph, folder / "model.onnx")

# Rows to ask, and what XGBoost says of them.
rows = [dict(zip(names, map(float, row))) for row in x_test]
says = [
    {"label": int(label), "probabilities": probabilities.tolist()}
    for label, probabilities in zip(model.predict(x_test), model.predict_proba(x_test))
]
(folder / "asked.json").write_text(json.dumps(rows))
(folder / "expected.json").write_text(json.dumps(says))
print(f"accuracy {model.score(x_test, y_test):.3f}; the first test row is {says[0]}")
