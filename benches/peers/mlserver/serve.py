"""An MLServer runtime with adaptive batching: its settings are in the two JSON files beside it."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from onnx_model import OnnxModel


class Onnx(MLModel):
    """Answers the Open Inference Protocol."""

    async def load(self) -> bool:
        """Loads the model."""
        self.model = OnnxModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Runs the rows of one batch, which MLServer joins and takes apart."""
        outputs = self.model.run(NumpyCodec.decode_input(payload.inputs[0]))
        encoded = [NumpyCodec.encode_output(name, values) for name, values in outputs.items()]
        return InferenceResponse(model_name=self.name, outputs=encoded)
