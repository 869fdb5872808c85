"""Small graphs for what exporters of neural networks produce: other types, ranks and axes than a table's."""

from collections.abc import Iterator

import ml_dtypes
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from repository import Export

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

TYPES: dict[str, tuple[int, type | np.dtype]] = {
    "uint8": (TensorProto.UINT8, np.uint8),
    "uint16": (TensorProto.UINT16, np.uint16),
    "uint32": (TensorProto.UINT32, np.uint32),
    "uint64": (TensorProto.UINT64, np.uint64),
    "int8": (TensorProto.INT8, np.int8),
    "int16": (TensorProto.INT16, np.int16),
    "int32": (TensorProto.INT32, np.int32),
    "int64": (TensorProto.INT64, np.int64),
}

Node = tuple[str, list[str], list[str]]


def model(
    inputs: list[ValueInfoProto],
    outputs: list[ValueInfoProto],
    nodes: list[NodeProto],
    weights: dict[str, np.ndarray] | None = None,
) -> ModelProto:
    held = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def io(name: str, kind: int, shape: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(op: str, inputs: str, output: str, **attributes: object) -> NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def identity(name: str, kind: int, array: np.ndarray) -> Export:
    """What goes in comes out."""
    shape = ["N", *array.shape[1:]]
    made = model([io("x", kind, shape)], [io("y", kind, shape)], [node("Identity", "x", "y")])
    return Export(name, made.SerializeToString(), {"x": array})


def every_type() -> Iterator[Export]:
    """One model a type, asked for the type's limits."""
    for name, (kind, dtype) in TYPES.items():
        limits = np.iinfo(dtype)
        array = np.array([[limits.min, limits.max, 0], [1, 2, 3]], dtype=dtype)
        yield identity(f"type-{name}", kind, array)
    yield identity("type-bool", TensorProto.BOOL, np.array([[True, False], [False, True], [True, True]]))
    words = np.array([["plain", ""], ["ä ∂ 🜲", 'quoted "\\ \n\x01'], ["a\u2028b", "x" * 300]], dtype=object)
    yield identity("type-string", TensorProto.STRING, words)
    floats = np.array([[0.1, -0.0, 1e-40], [3.4e38, 1 / 3, 16777217.0]])
    yield identity("type-float32", TensorProto.FLOAT, floats.astype(np.float32))
    doubles = np.array([[0.1, -0.0, 5e-324], [1.7976931348623157e308, 1 / 3, 2.0**53 + 2]])
    yield identity("type-float64", TensorProto.DOUBLE, doubles)
    yield half_model()
    yield brain_model()


def half_model() -> Export:
    """Half precision in and out, as in networks converted to it."""
    nodes = [node("Mul", "x factor", "y")]
    shape: list[int | str] = ["N", 3]
    ports = [io("x", TensorProto.FLOAT16, shape)], [io("y", TensorProto.FLOAT16, shape)]
    made = model(*ports, nodes, {"factor": np.array([0.3, 2, -1], dtype=np.float16)})
    array = np.array([[0.1, 65504, -0.0], [1e-7, 3, 2.5]], dtype=np.float16)
    return Export("type-float16", made.SerializeToString(), {"x": array})


def brain_model() -> Export:
    nodes = [
        node("Cast", "x", "wide", to=TensorProto.FLOAT),
        node("Mul", "wide factor", "product"),
        node("Cast", "product", "y", to=TensorProto.BFLOAT16),
    ]
    shape: list[int | str] = ["N", 3]
    ports = [io("x", TensorProto.BFLOAT16, shape)], [io("y", TensorProto.BFLOAT16, shape)]
    made = model(*ports, nodes, {"factor": np.array([0.3, 2, -1], dtype=np.float32)})
    array = np.array([[0.1, 3e38, -0.0], [1e-30, 3, 2.5]], dtype=BFLOAT16)
    return Export("type-bfloat16", made.SerializeToString(), {"x": array})


def quantized() -> Export:
    """A quantized layer between QuantizeLinear and DequantizeLinear: float32 outside, int8 inside."""
    rng = np.random.default_rng(5)
    weights = {
        "scale": np.array(0.05, dtype=np.float32),
        "zero": np.array(0, dtype=np.int8),
        "weight": rng.integers(-90, 90, (4, 3)).astype(np.int8),
    }
    nodes = [
        node("QuantizeLinear", "x scale zero", "q"),
        node("DequantizeLinear", "q scale zero", "d"),
        node("DequantizeLinear", "weight scale zero", "w"),
        node("MatMul", "d w", "m"),
        node("QuantizeLinear", "m scale zero", "r"),
        node("DequantizeLinear", "r scale zero", "y"),
    ]
    made = model([io("x", TensorProto.FLOAT, ["N", 4])], [io("y", TensorProto.FLOAT, ["N", 3])], nodes, weights)
    return Export("quantized", made.SerializeToString(), {"x": rng.normal(0, 1, (6, 4)).astype(np.float32)})


def tokens() -> Export:
    """As a text encoder: ids and mask with two free axes, an embedding for each token and one for the text."""
    rng = np.random.default_rng(6)
    weights = {"table": rng.normal(0, 1, (50, 8)).astype(np.float32), "last": np.array([2], dtype=np.int64)}
    nodes = [
        node("Gather", "table input_ids", "found", axis=0),
        node("Cast", "attention_mask", "weight", to=TensorProto.FLOAT),
        node("Unsqueeze", "weight last", "column"),
        node("Mul", "found column", "last_hidden_state"),
        node("ReduceMax", "last_hidden_state", "pooled", axes=[1], keepdims=0),
    ]
    axes: list[int | str] = ["batch", "sequence"]
    inputs = [io("input_ids", TensorProto.INT64, axes), io("attention_mask", TensorProto.INT64, axes)]
    outputs = [
        io("last_hidden_state", TensorProto.FLOAT, [*axes, 8]),
        io("pooled", TensorProto.FLOAT, ["batch", 8]),
    ]
    made = model(inputs, outputs, nodes, weights)
    ids = rng.integers(0, 50, (3, 7))
    mask = (np.arange(7) < np.array([[7], [4], [1]])).astype(np.int64)
    return Export("tokens", made.SerializeToString(), {"input_ids": ids, "attention_mask": mask})


def shapes() -> Iterator[Export]:
    """Where the first axis is not a free number of rows."""
    total = [node("ReduceSum", "x axis", "y", keepdims=0)]
    weights = {"axis": np.array([1], dtype=np.int64)}
    four = model([io("x", TensorProto.FLOAT, [4, 3])], [io("y", TensorProto.FLOAT, [4])], total, weights)
    array = np.random.default_rng(8).normal(0, 1, (4, 3)).astype(np.float32)
    yield Export("fixed-batch", four.SerializeToString(), {"x": array})

    double = [node("Add", "x x", "y")]
    scalar = model([io("x", TensorProto.FLOAT, [])], [io("y", TensorProto.FLOAT, [])], double)
    yield Export("scalar", scalar.SerializeToString(), {"x": np.array(1.1, dtype=np.float32)})

    nodes = [node("ReduceSum", "a", "sum", keepdims=0), node("Mul", "b sum", "y"), node("Shape", "a", "size")]
    inputs = [io("a", TensorProto.FLOAT, ["P"]), io("b", TensorProto.FLOAT, ["Q", 2])]
    outputs = [io("y", TensorProto.FLOAT, ["Q", 2]), io("size", TensorProto.INT64, [1])]
    unlike = model(inputs, outputs, nodes)
    given = {"a": np.arange(5, dtype=np.float32) / 7, "b": np.arange(4, dtype=np.float32).reshape(2, 2) / 3}
    yield Export("unlike-axes", unlike.SerializeToString(), given)

    image = [node("GlobalAveragePool", "image", "pooled"), node("Flatten", "pooled", "features", axis=1)]
    picture = model(
        [io("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [io("features", TensorProto.FLOAT, ["N", 3])],
        image,
    )
    pixels = np.random.default_rng(9).uniform(0, 1, (2, 3, 8, 8)).astype(np.float32)
    yield Export("image", picture.SerializeToString(), {"image": pixels})


def external() -> Export:
    """Its weights lie in a file beside it."""
    weight = np.random.default_rng(10).normal(0, 1, (4, 2)).astype(np.float32)
    made = model(
        [io("x", TensorProto.FLOAT, ["N", 4])],
        [io("y", TensorProto.FLOAT, ["N", 2])],
        [node("MatMul", "x weight", "y")],
        {"weight": weight},
    )
    held = made.graph.initializer[0]
    held.ClearField("raw_data")
    held.data_location = TensorProto.EXTERNAL
    for key, value in [("location", "weights.bin"), ("offset", "0"), ("length", str(weight.nbytes))]:
        entry = held.external_data.add()
        entry.key, entry.value = key, value
    array = np.random.default_rng(11).normal(0, 1, (3, 4)).astype(np.float32)
    return Export("external", made.SerializeToString(), {"x": array}, files={"weights.bin": weight.tobytes()})


def handmade() -> Iterator[Export]:
    yield from every_type()
    yield quantized()
    yield tokens()
    yield from shapes()
    yield external()
