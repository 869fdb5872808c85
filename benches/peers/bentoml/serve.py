"""A BentoML service with adaptive batching. Started by `bentoml serve`."""

import os

import bentoml
import numpy as np
from numpy.typing import NDArray
from onnx_model import OnnxModel


@bentoml.service(
    workers=int(os.environ["WORKERS"]),
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    traffic={"timeout": 30, "max_concurrency": 256},
)
class Predictor:
    """The model."""

    def __init__(self) -> None:
        """Loads the model."""
        self.model = OnnxModel()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=1000)
    async def predict(self, rows: NDArray[np.float32]) -> list[dict[str, float]]:
        """Runs the rows of one batch, which BentoML joins and takes apart."""
        outputs = self.model.run(np.asarray(rows, dtype=np.float32))
        columns = [values.ravel().tolist() for values in outputs.values()]
        return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]
