"""LitServe with batching."""

import os
from typing import Any

from litserve import LitAPI, LitServer
from onnx_model import OnnxModel


class Predictor(LitAPI):
    """An object of features in, an object of outputs out."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe's signature
        """Loads the model."""
        self.model = OnnxModel()

    def decode_request(self, request: dict[str, float]) -> dict[str, float]:
        """A request is a row."""
        return request

    def batch(self, inputs: list[dict[str, float]]) -> list[dict[str, float]]:
        """The rows stay a list: one array is made of them at once."""
        return inputs

    def predict(self, rows: list[dict[str, float]]) -> list[dict[str, Any]]:
        """Runs the rows of one batch."""
        return self.model.answers(rows)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Each row has its answer already."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """An answer is an object."""
        return output


if __name__ == "__main__":
    server = LitServer(
        Predictor(max_batch_size=64, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=int(os.environ["WORKERS"]),
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
