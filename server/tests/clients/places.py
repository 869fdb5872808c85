"""Where the server under test and the runtime lie."""

import os
from pathlib import Path

import onnxruntime

ROOT = Path(__file__).resolve().parents[3]


def binary() -> Path:
    """The server to test: $ONNXD, or what cargo built last."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return Path(os.environ.get("ONNXD", target / "debug" / "onnxd")).resolve()


def library() -> Path:
    """The runtime's library of this environment, which the server is started with as well."""
    return next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
