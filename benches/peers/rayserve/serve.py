"""Ray Serve with batching, on a Ray of its own."""

import os
import threading
from typing import Any

import ray
from onnx_model import OnnxModel
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(num_replicas=int(os.environ["WORKERS"]), max_ongoing_requests=256)
class Predictor:
    """An object of features in, an object of outputs out."""

    def __init__(self) -> None:
        """Loads the model."""
        self.model = OnnxModel()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def answer(self, rows: list[dict[str, float]]) -> list[dict[str, Any]]:
        """Runs the rows of one batch."""
        return self.model.answers(rows)

    async def __call__(self, request: Request) -> JSONResponse:
        """One request is one row of a batch."""
        return JSONResponse(await self.answer(await request.json()))


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False, object_store_memory=80 * 1024 * 1024)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])})
    serve.run(Predictor.bind(), route_prefix="/predict", logging_config={"enable_access_log": False})
    threading.Event().wait()
