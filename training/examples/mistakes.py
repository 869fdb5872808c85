"""What goes wrong most often in an export, a file each, for `onnxd inspect` to find."""

import sys
from pathlib import Path

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
data = load_wine()
x = data.data.astype(np.float32)
logistic = LogisticRegression(max_iter=10_000).fit(x, data.target)
forest = RandomForestClassifier(10, random_state=0).fit(x, data.target)
network = MLPClassifier((8,), max_iter=1_000, random_state=0).fit(x, data.target)


def save(name: str, graph: onnx.ModelProto, *, named: bool = True, **how: object) -> None:
    """Writes NAME.onnx, with names for the columns unless told otherwise."""
    if named:
        onnx.helper.set_model_props(graph, {"onnxd.features": ",".join(data.feature_names)})
    onnx.save(graph, folder / f"{name}.onnx", **how)


tensor = {"options": {"zipmap": False}, "target_opset": 17}
# The example row decides the type, and NumPy's is float64.
save("float64", to_onnx(forest, data.data[:1], **tensor))
# What skl2onnx does with classifiers unless told otherwise.
save("zipmap", to_onnx(logistic, x[:1], target_opset=17))
# [1, 13] in the place of [None, 13].
save("fixed", to_onnx(logistic, initial_types=[("X", FloatTensorType([1, 13]))], **tensor))
# Nobody said what the columns are.
save("unnamed", to_onnx(logistic, x[:1], **tensor), named=False)
# Operators that the server's ONNX Runtime does not know yet.
newest = to_onnx(network, x[:1], **tensor)
next(opset for opset in newest.opset_import if not opset.domain).version = 99
save("opset", newest)
# Weights in a file of their own, as PyTorch writes them unless told otherwise.
large = to_onnx(network, x[:1], **tensor)
for weights in large.graph.initializer:
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights), weights.name))
save("external", large, save_as_external_data=True, location="weights.bin", size_threshold=64)
