"""LightGBM: boosted trees that tell benign from malignant, as one node of ONNX."""

import json
import sys
from pathlib import Path

import lightgbm
import numpy as np
import onnx
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from training.export.graph import GraphBuilder
from training.export.trees import lightgbm_trees

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

# Train: float32, which is what will be sent.
data = load_breast_cancer()
names = [name.replace(" ", "_") for name in data.feature_names]
x, y = data.data.astype(np.float32), data.target
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
settings = {"objective": "binary", "num_leaves": 8, "verbosity": -1, "num_threads": 1, "seed": 0}
model = lightgbm.train(settings, lightgbm.Dataset(x_train, y_train), num_boost_round=60)

# Export: the trees as they are, a missing value where training sent it, then the sigmoid.
graph = GraphBuilder()
lightgbm_trees(model, range(len(names))).add_to(graph, "features", "sum")
graph.node("Sigmoid", "sum", output="column")
graph.constant("axis", np.array([1], dtype=np.int64))
graph.node("Squeeze", "column", "axis", output="benign")
named = {"onnxd.features": ",".join(names)}
made = graph.model("tumours", {"features": ["N", len(names)]}, {"benign": onnx.TensorProto.FLOAT}, named)
onnx.save(made, folder / "model.onnx")

# Rows to ask, and what LightGBM says of them.
answers = model.predict(x_test, num_threads=1)
rows = [dict(zip(names, map(float, row))) for row in x_test]
says = [{"benign": float(answer)} for answer in answers]
(folder / "asked.json").write_text(json.dumps(rows))
(folder / "expected.json").write_text(json.dumps(says))
print(f"accuracy {((answers > 0.5) == y_test).mean():.3f}; the first test row is {says[0]}")  # noqa: PLR2004
