"""A KServe model server: the first version of its protocol, one row as a list. Its settings are its own flags."""

from typing import Any

import numpy as np
from kserve import Model, ModelServer
from onnx_model import OnnxModel


class Predictor(Model):
    """The model, named `model`."""

    def __init__(self) -> None:
        """Loads the model."""
        super().__init__("model")
        self.model = OnnxModel()
        self.ready = True

    async def predict(self, payload: dict[str, Any], *_more: object) -> dict[str, Any]:
        """Runs the rows of one request."""
        outputs = self.model.run(np.array(payload["instances"], dtype=np.float32))
        columns = [values.ravel().tolist() for values in outputs.values()]
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]}


if __name__ == "__main__":
    ModelServer().start([Predictor()])
