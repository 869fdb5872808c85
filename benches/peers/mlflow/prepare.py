"""Writes the model as MLflow keeps models, for `mlflow models serve`: into the folder `model` of the current one."""

import os

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import infer_signature
from onnx_model import OnnxModel

model = OnnxModel()
rows = np.zeros((1, len(model.features)), dtype=np.float32)
mlflow.onnx.save_model(
    onnx.load(os.environ["MODEL_FILE"]),
    "model",
    signature=infer_signature(rows, model.run(rows)),
    onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
    pip_requirements=[],
)
