"""Open Inference Protocol v2 over plain HTTP, without any client's library: JSON and the binary extension."""

import json
import struct

import ml_dtypes
import numpy as np

HEADER = "inference-header-content-length"

DATATYPES = {
    np.dtype(bool): "BOOL",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.uint16): "UINT16",
    np.dtype(np.uint32): "UINT32",
    np.dtype(np.uint64): "UINT64",
    np.dtype(np.int8): "INT8",
    np.dtype(np.int16): "INT16",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float16): "FP16",
    np.dtype(ml_dtypes.bfloat16): "BF16",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
    np.dtype(object): "BYTES",
}
DTYPES = {datatype: dtype for dtype, datatype in DATATYPES.items()}

Tensors = dict[str, np.ndarray]


def as_object(array: np.ndarray) -> np.ndarray:
    """Strings in whichever of NumPy's types, as objects; anything else as it is."""
    return array.astype(object) if array.dtype.kind in "SU" else array


def datatype(array: np.ndarray) -> str:
    return DATATYPES[as_object(array).dtype]


def to_bytes(array: np.ndarray) -> bytes:
    array = as_object(array)
    if array.dtype != object:
        return array.tobytes()
    parts = [v if isinstance(v, bytes) else str(v).encode() for v in array.reshape(-1).tolist()]
    return b"".join(struct.pack("<I", len(part)) + part for part in parts)


def from_bytes(data: bytes, kind: str, shape: list[int]) -> np.ndarray:
    if kind != "BYTES":
        return np.frombuffer(data, dtype=DTYPES[kind]).reshape(shape)
    values = []
    while data:
        (size,) = struct.unpack_from("<I", data)
        values.append(data[4 : 4 + size])
        data = data[4 + size :]
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array.reshape(shape)


def encode_binary(inputs: Tensors, **extra: object) -> tuple[bytes, dict[str, str]]:
    """A request whose tensors follow its JSON, and its headers; all outputs are asked for in the same way."""
    listed, raw = [], []
    for name, array in inputs.items():
        data = to_bytes(array)
        parameters = {"binary_data_size": len(data)}
        listed.append(
            {"name": name, "shape": list(array.shape), "datatype": datatype(array), "parameters": parameters},
        )
        raw.append(data)
    head = json.dumps({"inputs": listed, "parameters": {"binary_data_output": True}, **extra}).encode()
    headers = {"content-type": "application/octet-stream", HEADER: str(len(head))}
    return head + b"".join(raw), headers


def encode_json(inputs: Tensors, *, nested: bool = False, **extra: object) -> bytes:
    """A request all in JSON, its data flat or nested."""
    listed = [
        {"name": name, "shape": list(array.shape), "datatype": datatype(array), "data": to_list(array, nested=nested)}
        for name, array in inputs.items()
    ]
    return json.dumps({"inputs": listed, **extra}).encode()


def to_list(array: np.ndarray, *, nested: bool) -> object:
    array = array if nested else array.reshape(-1)
    plain = array.astype(np.float64) if array.dtype in (np.float16, np.float32, ml_dtypes.bfloat16) else array
    return plain.tolist()


def decode(body: bytes, headers: dict[str, str]) -> tuple[dict, Tensors]:
    """The reply's JSON and its tensors, whichever way each was sent."""
    size = headers.get(HEADER)
    head = json.loads(body if size is None else body[: int(size)])
    rest = b"" if size is None else body[int(size) :]
    tensors = {}
    for output in head["outputs"]:
        count = (output.get("parameters") or {}).get("binary_data_size")
        if count is not None:
            tensors[output["name"]] = from_bytes(rest[:count], output["datatype"], output["shape"])
            rest = rest[count:]
        else:
            tensors[output["name"]] = from_json(output)
    assert not rest, f"{len(rest)} bytes after the last tensor"
    return head, tensors


def from_json(output: dict) -> np.ndarray:
    array = np.array(output["data"], dtype=DTYPES[output["datatype"]])
    return array.reshape(output["shape"])
