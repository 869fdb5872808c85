"""Triton's clients, and requests of theirs from and to NumPy arrays.

Triton's and KServe's packages each bring messages of the same names, which one pool of descriptors does not take: here
Triton's get a pool of their own.
"""

from unittest.mock import patch

import numpy as np
from google.protobuf import (
    descriptor_pool,
    json_format,  # noqa: F401  before the others: what it needs belongs into the usual pool
)
from tritonclient import http

import oip
import oracle
from repository import Export

with patch.object(descriptor_pool, "Default", return_value=descriptor_pool.DescriptorPool()):
    from tritonclient import grpc

Tensors = dict[str, np.ndarray]
HttpClient = http.InferenceServerClient
GrpcClient = grpc.InferenceServerClient


def http_inputs(tensors: Tensors, *, binary: bool = True) -> list[http.InferInput]:
    made = []
    for name, array in tensors.items():
        given = http.InferInput(name, list(array.shape), oip.datatype(array))
        made.append(given.set_data_from_numpy(array, binary_data=binary))
    return made


def grpc_inputs(tensors: Tensors) -> list[grpc.InferInput]:
    made = []
    for name, array in tensors.items():
        given = grpc.InferInput(name, list(array.shape), oip.datatype(array))
        made.append(given.set_data_from_numpy(array))
    return made


def wrong_inputs(array: np.ndarray) -> list[tuple[Tensors, str]]:
    """What a model with one input X, float32 like this array, refuses, with a word that the message must hold."""
    return [
        ({"X": array.astype(np.float64)}, "FP64"),
        ({"X": array.astype(np.int64)}, "INT64"),
        ({"X": array[:, :3].copy()}, "3"),
        ({"X": array.reshape(-1)}, "X"),
        ({"Y": array}, "Y"),
        ({"X": array, "Y": array}, "Y"),
        ({"X": array.astype(str).astype(object)}, "BYTES"),
    ]


def http_outputs(names: list[str], **options: object) -> list[http.InferRequestedOutput]:
    return [http.InferRequestedOutput(name, **options) for name in names]


def check(result: http.InferResult | grpc.InferResult, export: Export, expected: Tensors | None = None) -> None:
    """A result of either client has every output, and each is ONNX Runtime's to the bit."""
    for name, array in (export.expected() if expected is None else expected).items():
        got = result.as_numpy(name)
        assert got is not None, f"no output {name}"
        oracle.same_bits(got, array, f"{export.name}: {name}")
