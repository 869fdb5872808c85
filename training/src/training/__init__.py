"""Training of the anomaly models that onnxd serves: data, features, champion, challenger, export, manifests."""

__version__ = "0.1.0"
