"""ONNX Runtime's own answers, and comparison of a server's answers with them."""

import ctypes
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

# Types that the runtime does not take from NumPy by itself: their name there, and their number in ONNX.
EXTENSIONS = {
    "bfloat16": (BFLOAT16, TensorProto.BFLOAT16),
    "float8e4m3fn": (np.dtype(ml_dtypes.float8_e4m3fn), TensorProto.FLOAT8E4M3FN),
    "float8e4m3fnuz": (np.dtype(ml_dtypes.float8_e4m3fnuz), TensorProto.FLOAT8E4M3FNUZ),
    "float8e5m2": (np.dtype(ml_dtypes.float8_e5m2), TensorProto.FLOAT8E5M2),
    "float8e5m2fnuz": (np.dtype(ml_dtypes.float8_e5m2fnuz), TensorProto.FLOAT8E5M2FNUZ),
}

Tensors = dict[str, np.ndarray]


@cache
def session(path: Path) -> onnxruntime.InferenceSession:
    """One session a file, with the settings that the server chooses."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, inputs: Tensors) -> Tensors:
    """Every output of one run. A map from class to probability becomes a column a class."""
    chosen = session(path)
    names = [output.name for output in chosen.get_outputs()]
    return {name: columns(answer) for name, answer in zip(names, answers(chosen, inputs), strict=True)}


def answers(chosen: onnxruntime.InferenceSession, inputs: Tensors) -> list:
    """Every output of one run as the runtime gives it, of whatever type."""
    names = [output.name for output in chosen.get_outputs()]
    kinds = {port.type for port in [*chosen.get_inputs(), *chosen.get_outputs()]}
    if not kinds & {f"tensor({name})" for name in EXTENSIONS}:
        return chosen.run(names, inputs)
    values = {name: value_of(array) for name, array in inputs.items()}
    return [array_of(value) for value in chosen.run_with_ort_values(names, values)]


def columns(answer: np.ndarray | list[dict]) -> np.ndarray:
    """A sequence of maps, as scikit-learn's exports give it, as one array with the classes in their order."""
    if isinstance(answer, list) and answer and isinstance(answer[0], dict):
        return np.array([[row[label] for label in sorted(row)] for row in answer], dtype=np.float32)
    return np.asarray(answer)


def value_of(array: np.ndarray) -> onnxruntime.OrtValue:
    for dtype, number in EXTENSIONS.values():
        if array.dtype == dtype:
            bits = np.ascontiguousarray(array).view(np.dtype(f"u{dtype.itemsize}"))
            return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def array_of(value: onnxruntime.OrtValue) -> np.ndarray:
    kind = value.data_type().removeprefix("tensor(").removesuffix(")")
    if kind not in EXTENSIONS:
        return value.numpy()
    size = value.tensor_size_in_bytes()
    memory = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(memory, dtype=EXTENSIONS[kind][0]).reshape(value.shape())


def same_bits(got: np.ndarray, expected: np.ndarray, what: str = "") -> None:
    """The same type, shape and bytes: NaN equals the same NaN, 0.0 is not -0.0."""
    assert got.shape == expected.shape, f"{what}: shape {got.shape}, not {expected.shape}"
    if expected.dtype.kind in "OSU":
        assert text(got) == text(expected), f"{what}: {text(got)[:8]}, not {text(expected)[:8]}"
        return
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, not {expected.dtype}"
    if got.tobytes() == expected.tobytes():
        return
    differ = np.frombuffer(got.tobytes(), np.uint8) != np.frombuffer(expected.tobytes(), np.uint8)
    at = int(np.argmax(differ)) // got.dtype.itemsize
    message = f"{what}: element {at} is {got.flat[at]!r}, not {expected.flat[at]!r}"
    raise AssertionError(message)


def same_text(got: object, expected: np.ndarray, what: str = "") -> None:
    """A JSON answer: every number rounds to the same bits in the output's type."""
    if expected.dtype.kind in "OSU":
        same_bits(np.array(got, dtype=object).reshape(expected.shape), expected, what)
        return
    array = np.array(got, dtype=np.float64) if expected.dtype.kind not in "iub" else np.array(got)
    if expected.dtype.kind in "iub" and array.size:
        assert array.dtype.kind in ("b" if expected.dtype.kind == "b" else "iu"), f"{what}: {array.dtype} in JSON"
    assert array.shape == expected.shape, f"{what}: shape {array.shape}, not {expected.shape}"
    same_bits(array.astype(expected.dtype), expected, what)


def text(array: np.ndarray) -> list[bytes]:
    return [v if isinstance(v, bytes) else str(v).encode() for v in array.reshape(-1).tolist()]


def declared(path: Path) -> tuple[list[str], list[str]]:
    """Names of the graph's inputs (without initializers) and outputs."""
    graph = onnx.load(path, load_external_data=False).graph
    held = {tensor.name for tensor in graph.initializer}
    return [i.name for i in graph.input if i.name not in held], [o.name for o in graph.output]
