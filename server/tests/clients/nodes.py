"""The onnx package's models, one or more an operator, and what ONNX Runtime itself makes of each.

Run as a program it is a worker: it tries the cases whose numbers it reads and says what became of each, so that a case
that crashes or hangs the runtime costs its worker only.
"""

import json
import os
import select
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx.backend.test.runner import Runner

import oip
import oracle

# The longest that one model may take to load and run.
LIMIT = 20.0


@dataclass
class Case:
    """A model, what it is asked, and what the onnx package expects of it."""

    name: str
    model: onnx.ModelProto
    inputs: list
    outputs: list
    rtol: float
    atol: float

    def named(self) -> oip.Tensors:
        """The inputs by name, of those that are plain tensors."""
        names = [port.name for port in self.model.graph.input]
        return {name: oip.as_object(np.asarray(plain(value))) for name, value in zip(names, self.inputs, strict=True)}

    def carried(self) -> str | None:
        """Why the protocol has no way to say its inputs or outputs, if it has none."""
        ports = [*self.model.graph.input, *self.model.graph.output]
        kinds = {port.type.WhichOneof("value") for port in ports}
        if others := kinds - {"tensor_type"}:
            return f"a {'/'.join(sorted(others)).replace('_type', '')} among inputs or outputs"
        types = {onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type) for port in ports}
        if others := types - SERVED:
            return f"tensors of {'/'.join(sorted(others)).lower()}"
        return None


SERVED = {"FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "BOOL", "STRING"}
SERVED |= {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
SERVED |= {f"FLOAT8{kind}" for kind in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ")}


def as_carried(tensors: oip.Tensors) -> oip.Tensors:
    """What the protocol carries of them: float8 as float16, which holds all its values."""
    eight = {dtype for name, (dtype, _) in oracle.EXTENSIONS.items() if name.startswith("float8")}
    return {name: array.astype(np.float16) if array.dtype in eight else array for name, array in tensors.items()}


@cache
def cases() -> tuple[Case, ...]:
    """All of them, in the order of their names."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests  # noqa: PLC0415  makes all data, for some seconds

        made = load_model_tests(kind="node")
    found = [Case(c.name, c.model, *c.data_sets[0], c.rtol, c.atol) for c in made]
    return tuple(sorted(found, key=lambda case: case.name))


def plain(value: object) -> object:
    """A case's value as arrays: some are messages, some scalars."""
    value = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return np.asarray(value) if isinstance(value, np.generic) else value


def attempt(case: Case) -> str:
    """Runs a case in the runtime alone: "" if it gives what the onnx package expects, else why not."""
    try:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        content = case.model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  whatever it is, it is the answer
        return f"does not load: {first_line(error)}"
    try:
        given = {port.name: plain(value) for port, value in zip(case.model.graph.input, case.inputs, strict=True)}
        got = oracle.answers(session, given)
    except Exception as error:  # noqa: BLE001
        return f"does not run: {first_line(error)}"
    try:
        expected = [plain(value) for value in case.outputs]
        Runner.assert_similar_outputs(expected, got, case.rtol, case.atol)
    except Exception as error:  # noqa: BLE001
        return f"gives another answer: {first_line(error)}"
    return ""


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


class Worker:
    """A process that tries cases one by one."""

    def __init__(self, numbers: list[int]) -> None:
        """Starts it on these cases."""
        self.left = list(numbers)
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        self.process.stdin.write(json.dumps(self.left).encode() + b"\n")
        self.process.stdin.close()
        self.deadline = time.monotonic() + LIMIT + 60
        self.pending = b""

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def results(self) -> Iterator[tuple[int, str]]:
        """What came out since the last call; the one in progress has failed when its process ends or takes too long."""
        data = os.read(self.process.stdout.fileno(), 1 << 16) if self.readable() else None
        if data:
            *lines, self.pending = (self.pending + data).split(b"\n")
            for line in lines:
                self.deadline = time.monotonic() + LIMIT
                yield self.left.pop(0), json.loads(line)
        elif data is not None or time.monotonic() > self.deadline:
            reason = "takes too long" if data is None else "ends the process"
            self.stop()
            if self.left:
                yield self.left.pop(0), reason
            if self.left:
                self.start()

    def readable(self) -> bool:
        return bool(select.select([self.process.stdout], [], [], 0.2)[0])


def runtime_alone(numbers: list[int], workers: int = 2) -> dict[int, str]:
    """What the runtime makes of these cases, by their number in `cases()`."""
    found: dict[int, str] = {}
    pool = [Worker(numbers[i::workers]) for i in range(workers)]
    while any(worker.left for worker in pool):
        for worker in pool:
            if worker.left:
                found.update(worker.results())
    for worker in pool:
        worker.stop()
    return found


def main() -> None:
    """Tries the cases whose numbers come in, and prints a line for each."""
    for number in json.loads(sys.stdin.readline()):
        sys.stdout.write(json.dumps(attempt(cases()[number])) + "\n")
        sys.stdout.flush()


def write_tree(root: Path, chosen: list[Case]) -> dict[str, Path]:
    """A plain repository of these cases, named by test."""
    paths = {}
    for case in chosen:
        folder = root / case.name / "1"
        folder.mkdir(parents=True)
        paths[case.name] = folder / "model.onnx"
        paths[case.name].write_bytes(case.model.SerializeToString())
        # A file that has just changed may still be being written; the server would look at it again later.
        os.utime(paths[case.name], (0, 0))
    return paths


if __name__ == "__main__":
    main()
