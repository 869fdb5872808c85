"""scikit-learn: a regression on a table of numbers and words, each column an input of its own, as ONNX."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

# Train: a DataFrame, as most tables are.
data = load_diabetes(as_frame=True, scaled=False)
table = data.data.astype(np.float32)
table["sex"] = np.where(table["sex"] == 1, "f", "m").astype(object)
numbers = [name for name in table.columns if name != "sex"]
x_train, x_test, y_train, y_test = train_test_split(table, data.target, random_state=0)
columns = make_column_transformer((StandardScaler(), numbers), (OneHotEncoder(), ["sex"]))
model = make_pipeline(columns, Ridge()).fit(x_train, y_train)

# Export: every column is an input with its own type, and its name is what clients send.
kinds = {name: StringTensorType if name == "sex" else FloatTensorType for name in table.columns}
inputs = [(name, kind([None, 1])) for name, kind in kinds.items()]
onnx.save(to_onnx(model, initial_types=inputs, target_opset=17), folder / "model.onnx")

# Rows to ask, and what scikit-learn says of them.
rows = x_test.to_dict("records")
says = [{"variable": float(value)} for value in model.predict(x_test)]
(folder / "asked.json").write_text(json.dumps(rows))
(folder / "expected.json").write_text(json.dumps(says))
print(f"R2 {model.score(x_test, y_test):.3f}; the first test row is {says[0]}")
