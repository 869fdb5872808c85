"""PyTorch: a small network that classifies wines, with its scaling inside, as ONNX."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)

# Train.
data = load_wine()
names = [name.replace("/", "_") for name in data.feature_names]
x, y = data.data.astype(np.float32), data.target
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
mean, scale = torch.tensor(x_train.mean(axis=0)), torch.tensor(x_train.std(axis=0))


class Wines(torch.nn.Module):
    """Raw columns in, probabilities out: clients need not know how they are scaled."""

    def __init__(self) -> None:
        """Two layers."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.layers = torch.nn.Sequential(torch.nn.Linear(13, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float32 [N, 13] to float32 [N, 3]."""
        return torch.softmax(self.layers((features - self.mean) / self.scale), dim=1)


torch.manual_seed(0)
model = Wines()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.nll_loss(torch.log(model(torch.tensor(x_train))), torch.tensor(y_train)).backward()
    optimizer.step()

# Export: for inference, any number of rows, one file, names for the columns.
file = folder / "model.onnx"
torch.onnx.export(
    model.eval(),
    (torch.tensor(x_train[:2]),),
    file,
    input_names=["features"],
    output_names=["probabilities"],
    dynamic_shapes=({0: torch.export.Dim("rows")},),
    external_data=False,
    dynamo=True,
)
graph = onnx.load(file)
onnx.helper.set_model_props(graph, {"onnxd.features": ",".join(names)})
onnx.save(graph, file)

# Rows to ask, and what PyTorch says of them.
with torch.no_grad():
    answers = model(torch.tensor(x_test)).numpy()
rows = [dict(zip(names, map(float, row))) for row in x_test]
says = [{"probabilities": row.tolist()} for row in answers]
(folder / "asked.json").write_text(json.dumps(rows))
(folder / "expected.json").write_text(json.dumps(says))
print(f"accuracy {(answers.argmax(axis=1) == y_test).mean():.3f}; the first test row is {says[0]}")
