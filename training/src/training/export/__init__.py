"""From fitted models to ONNX graphs, written node by node: small, readable, and the same bytes every time."""
