"""FastAPI + onnxruntime: an object of features in, an object of outputs out. Started by uvicorn."""

import orjson
from fastapi import FastAPI, Request, Response
from onnx_model import OnnxModel

app = FastAPI()
model = OnnxModel()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Runs the model where the request is: handing 10 us of work to a thread would cost more."""
    (answer,) = model.answers([orjson.loads(await request.body())])
    return Response(orjson.dumps(answer), media_type="application/json")
