"""scikit-learn: a pipeline that fills gaps, scales and classifies wines, as ONNX."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from skl2onnx import to_onnx
from sklearn.datasets import load_wine
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

# Train: float32, which is what will be sent.
data = load_wine()
names = [name.replace("/", "_") for name in data.feature_names]
x, y = data.data.astype(np.float32), data.target_names[data.target]
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()).fit(x_train, y_train)

# Export: probabilities as a tensor, any number of rows, names for the columns.
graph = to_onnx(model, x_train[:1], options={"zipmap": False}, target_opset=17)
onnx.helper.set_model_props(graph, {"onnxd.features": ",".join(names)})
onnx.save(graph, folder / "model.onnx")

# Rows to ask, and what scikit-learn says of them.
rows = [dict(zip(names, map(float, row))) for row in x_test]
says = [
    {"label": str(label), "probabilities": probabilities.tolist()}
    for label, probabilities in zip(model.predict(x_test), model.predict_proba(x_test))
]
(folder / "asked.json").write_text(json.dumps(rows))
(folder / "expected.json").write_text(json.dumps(says))
print(f"accuracy {model.score(x_test, y_test):.3f}; the first test row is {says[0]}")
