"""The model, as every Python server here runs it: one session on one thread, features by name, all outputs.

The place of the file is the environment variable `MODEL_FILE`; the names are in the manifest beside it.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


class OnnxModel:
    """A session and the names of what goes in."""

    def __init__(self) -> None:
        """Loads the file that `MODEL_FILE` names."""
        file = Path(os.environ["MODEL_FILE"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        manifest = json.loads(file.with_name("manifest.json").read_text())
        (taken,) = manifest["signature"]["inputs"]
        self.input = taken["name"]
        self.features = [feature["name"] for feature in taken["features"]]
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __reduce__(self) -> tuple[type["OnnxModel"], tuple[()]]:
        """A server that hands the model to its workers makes each load the file: a session cannot be sent."""
        return OnnxModel, ()

    def run(self, rows: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Runs the rows [N, features]: each output by its name."""
        return dict(zip(self.outputs, self.session.run(None, {self.input: rows}), strict=True))

    def rows(self, requests: list[dict[str, float]]) -> NDArray[np.float32]:
        """Rows [N, features] of objects of named features."""
        return np.array([[request[name] for name in self.features] for request in requests], dtype=np.float32)

    def answers(self, requests: list[dict[str, float]]) -> list[dict[str, Any]]:
        """An object of named outputs for each object of named features."""
        columns = {name: values.ravel().tolist() for name, values in self.run(self.rows(requests)).items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
