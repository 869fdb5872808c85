"""gRPC requests made by hand: typed contents instead of raw bytes, and messages that contradict themselves."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

import oip
import oracle
import triton
from repository import Export
from running import Server

service_pb2 = triton.grpc.service_pb2

Models = dict[str, Export]
Stub = triton.grpc.service_pb2_grpc.GRPCInferenceServiceStub

FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


@pytest.fixture
def stub(server: Server) -> Iterator[Stub]:
    with grpc.insecure_channel(server.grpc) as channel:
        yield Stub(channel)


def request(model: str, tensors: dict[str, np.ndarray], *, typed: bool = True) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name=model, id="typed")
    for name, array in tensors.items():
        kind = oip.datatype(array)
        tensor = made.inputs.add(name=name, datatype=kind, shape=array.shape)
        if not typed:
            made.raw_input_contents.append(oip.to_bytes(array))
            continue
        values = oracle.text(array) if kind == "BYTES" else array.reshape(-1).tolist()
        getattr(tensor.contents, FIELDS[kind]).extend(values)
    return made


def answers(response: service_pb2.ModelInferResponse) -> dict[str, np.ndarray]:
    """The reply's tensors, which may be raw or typed."""
    tensors = {}
    for i, output in enumerate(response.outputs):
        if response.raw_output_contents:
            tensors[output.name] = oip.from_bytes(response.raw_output_contents[i], output.datatype, output.shape)
        else:
            values = list(getattr(output.contents, FIELDS[output.datatype]))
            tensors[output.name] = np.array(values, dtype=oip.DTYPES[output.datatype]).reshape(output.shape)
    return tensors


def code(stub: Stub, message: service_pb2.ModelInferRequest) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        stub.ModelInfer(message)
    assert caught.value.details()
    return caught.value.code()


def test_typed(stub: Stub, export: Export) -> None:
    expected = export.expected()
    kinds = {oip.datatype(array) for array in [*export.inputs.values(), *expected.values()]}
    message = request(export.name, export.inputs, typed=kinds <= set(FIELDS))
    response = stub.ModelInfer(message)
    assert response.id == "typed"
    got = answers(response)
    assert list(got) == list(expected)
    for name, array in expected.items():
        oracle.same_bits(got[name], array, name)


def test_half_precision_is_raw_only(stub: Stub) -> None:
    for model, kind in [("type-float16", "FP16"), ("type-bfloat16", "BF16")]:
        message = service_pb2.ModelInferRequest(model_name=model)
        message.inputs.add(name="x", datatype=kind, shape=[1, 3]).contents.fp32_contents.extend([1, 2, 3])
        assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


def test_raw_and_typed_at_once(stub: Stub, models: Models) -> None:
    message = request("sklearn-dense", models["sklearn-dense"].inputs)
    message.raw_input_contents.append(oip.to_bytes(models["sklearn-dense"].inputs["X"]))
    assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


def test_raw_contents_that_do_not_fit(stub: Stub, models: Models) -> None:
    inputs = models["tokens"].inputs
    for change in (
        lambda raw: raw.pop(),
        lambda raw: raw.append(b""),
        lambda raw: raw.__setitem__(0, raw[0][:-1]),
        lambda raw: raw.__setitem__(1, raw[1] + bytes(8)),
        lambda raw: raw.__setitem__(0, b""),
    ):
        message = request("tokens", inputs, typed=False)
        raw = list(message.raw_input_contents)
        change(raw)
        del message.raw_input_contents[:]
        message.raw_input_contents.extend(raw)
        assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("body", [b"\1\0\0", b"\xff\xff\xff\xffa", b"\5\0\0\0abc", b"\1\0\0\0a", b"\1\0\0\0a" * 3])
def test_strings_that_do_not_fit(stub: Stub, body: bytes) -> None:
    message = service_pb2.ModelInferRequest(model_name="type-string")
    message.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    message.raw_input_contents.append(body)
    assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("shape", [[2, 4], [0, 4], [-1, 4], [2**62, 4], [2**32, 2**32, 4], [], [1, 4, 1]])
def test_shapes_that_do_not_fit(stub: Stub, shape: list[int]) -> None:
    for typed in (True, False):
        message = request("sklearn-dense", {"X": np.ones((1, 4), dtype=np.float32)}, typed=typed)
        del message.inputs[0].shape[:]
        message.inputs[0].shape.extend(shape)
        assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


def test_values_that_do_not_fit(stub: Stub) -> None:
    for kind, field, value in [
        ("INT8", "int_contents", 128),
        ("INT16", "int_contents", -32769),
        ("UINT8", "uint_contents", 256),
        ("UINT16", "uint_contents", 65536),
    ]:
        message = service_pb2.ModelInferRequest(model_name=f"type-{kind.lower()}")
        tensor = message.inputs.add(name="x", datatype=kind, shape=[1, 3])
        getattr(tensor.contents, field).extend([1, 2, value])
        assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


def test_values_in_another_field(stub: Stub) -> None:
    message = service_pb2.ModelInferRequest(model_name="sklearn-dense")
    message.inputs.add(name="X", datatype="FP32", shape=[1, 4]).contents.fp64_contents.extend([1, 2, 3, 4])
    assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


def test_neither_raw_nor_typed(stub: Stub) -> None:
    message = service_pb2.ModelInferRequest(model_name="sklearn-dense")
    message.inputs.add(name="X", datatype="FP32", shape=[1, 4])
    assert code(stub, message) == grpc.StatusCode.INVALID_ARGUMENT


def test_unknown_method(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/Nothing")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"")
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_not_a_message(server: Server) -> None:
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff\xff\xff")
    assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT)
