"""10,000 rows and ONNX Runtime's own answers to them, as JSON: {"rows": [..], "answers": [..]}."""

import json
import sys

import numpy as np
import onnxruntime

FEATURES = ["cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"]


def main() -> None:
    """Draws rows with missing features and extremes, runs them in one batch and prints both."""
    rng = np.random.default_rng(7)
    rows = rng.normal(0, 4, (10_000, 5)).astype(np.float32)
    rows[:, 3] = rng.uniform(0, 100, 10_000)
    rows[:, 4] = rng.uniform(5, 30, 10_000)
    rows[::97] *= np.float32(1e6)
    rows[::101] = rng.integers(-120, 120, rows[::101].shape)
    missing = rng.random((10_000, 5)) < 0.3
    missing[:, :2] = False
    rows[missing] = np.nan
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {"features": rows})
    named = [
        {name: float(value) for name, value in zip(FEATURES, row, strict=True) if not np.isnan(value)} for row in rows
    ]
    answers = [dict(zip(names, [value.item() for value in row], strict=True)) for row in zip(*outputs, strict=True)]
    json.dump({"rows": named, "answers": answers}, sys.stdout)


if __name__ == "__main__":
    main()
