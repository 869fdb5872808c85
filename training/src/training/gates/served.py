"""Gates that run the candidate in the server's own program: G3 parity, G5 latency."""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
import requests

from training import onnxd
from training.config import FEATURES, OUTPUTS, REQUIRED
from training.gates.gate import Case, Check, Finding, finding
from training.manifest import to_bytes
from training.model import Outputs, Rows
from training.scoring.served import FORECAST_TOLERANCE, SCORE_TOLERANCE, Graph, Parity, parity

ROWS_OF_A_REQUEST = 500
BENCH_SECONDS = 4
LIMITS = {1: 200.0, 64: 1_000.0}
"""Microseconds that a run of so many rows may take on one thread."""
RATIO = 1.5
"""And at most this many times the champion's, where it is not small anyway ..."""
SMALL = 0.1
"""... below this share of the limit."""
LOAD_SECONDS = 2.0
MEMORY_BYTES = 64 * 1024 * 1024
DTYPES = {"BOOL": np.bool_, "FP32": np.float32}


def agreement(case: Case) -> Finding:
    """G3: the graph answers as the model that it was made from, in ONNX Runtime and in the server."""
    whole = parity(case.expected, Graph(case.onnx).predict(case.rows))
    # A server refuses a row without a required feature, and infinities.
    columns = [FEATURES.index(name) for name in REQUIRED]
    taken = np.isfinite(case.rows[:, columns]).all(axis=1) & ~np.isinf(case.rows).any(axis=1)
    rows = case.rows[taken]
    expected = Outputs(*(getattr(case.expected, name)[taken] for name in OUTPUTS))
    with tempfile.TemporaryDirectory() as folder:
        file = onnxd.place(Path(folder) / "candidate", case.onnx, to_bytes(case.manifest))
        repository = Path(folder) / "repository"
        repository.mkdir()
        # Loads it in a child process and runs its golden samples, as every server will.
        onnxd.call(["push", file, "--model", case.manifest["name"], "--repository", repository])
        with onnxd.serve(repository) as server:
            served = parity(expected, infer(server, case.manifest["name"], rows))
    samples = len(case.manifest["golden"]["samples"])
    return finding(
        "G3",
        "parity",
        [
            _agrees("in ONNX Runtime", whole),
            _agrees("through onnxd", served),
            Check(holds=True, text=f"{samples} golden samples answered by onnxd push"),
        ],
    )


def _agrees(where: str, found: Parity) -> Check:
    text = (
        f"{found.rows:,} rows {where}: {found.decisions_changed} decisions changed, score within {found.score:.1e} "
        f"(at most {SCORE_TOLERANCE:.0e}), forecast within {found.forecast:.1e} (at most {FORECAST_TOLERANCE:.0e})"
    )
    return Check(found.holds, text)


def infer(server: onnxd.Server, model: str, rows: Rows) -> Outputs:
    """A server's answers to float32 [N, 5], by the Open Inference Protocol with binary tensors."""
    parts = [_infer(server, model, rows[i : i + ROWS_OF_A_REQUEST]) for i in range(0, len(rows), ROWS_OF_A_REQUEST)]
    return Outputs(*(np.concatenate([part[name] for part in parts]) for name in OUTPUTS))


def _infer(server: onnxd.Server, model: str, rows: Rows) -> dict[str, np.ndarray]:
    content = np.ascontiguousarray(rows, dtype="<f4").tobytes()
    size = {"parameters": {"binary_data_size": len(content)}}
    outputs = [{"name": name, "parameters": {"binary_data": True}} for name in OUTPUTS]
    asked = {
        "inputs": [{"name": "features", "datatype": "FP32", "shape": list(rows.shape), **size}],
        "outputs": outputs,
    }
    head = json.dumps(asked).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    answer = requests.post(f"http://{server.http}/v2/models/{model}/infer", head + content, headers=headers, timeout=60)
    answer.raise_for_status()
    length = int(answer.headers["Inference-Header-Content-Length"])
    found, at = {}, length
    for output in json.loads(answer.content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = np.frombuffer(answer.content[at : at + size], DTYPES[output["datatype"]])
        at += size
    return found


def latency(case: Case) -> Finding:
    """G5: a run of one row and of 64 take microseconds, not much more than the champion's; loading is quick and small.

    Medians by `onnxd bench`: at a p99, a machine that others use as well tells of them.
    """
    checks = []
    with tempfile.TemporaryDirectory() as folder:
        ours = _times(onnxd.place(Path(folder) / "candidate", case.onnx, to_bytes(case.manifest)))
        theirs = {}
        if case.champion is not None:
            theirs = _times(onnxd.place(Path(folder) / "champion", case.champion.onnx, case.champion.manifest_bytes))
    for rows, limit in LIMITS.items():
        beside = f", champion {theirs[rows]:.0f}" if rows in theirs else ""
        enough = ours[rows] <= limit and (rows not in theirs or ours[rows] <= max(RATIO * theirs[rows], SMALL * limit))
        checks.append(Check(enough, f"{rows} rows: {ours[rows]:.0f} us{beside}, at most {limit:,.0f}"))
    before, start = _memory(), time.perf_counter()
    loaded = Graph(case.onnx)
    seconds, grown = time.perf_counter() - start, _memory() - before
    del loaded
    checks.append(Check(seconds <= LOAD_SECONDS, f"loads in {seconds * 1e3:.0f} ms, at most {LOAD_SECONDS * 1e3:,.0f}"))
    checks.append(Check(grown <= MEMORY_BYTES, f"takes {grown / 2**20:.1f} MiB, at most {MEMORY_BYTES // 2**20}"))
    return finding("G5", "latency", checks)


def _times(file: Path) -> dict[int, float]:
    """Median microseconds of runs on one thread, by their rows."""
    words = ["bench", file, "--only", "alone", "--seconds", str(BENCH_SECONDS)]
    cells = onnxd.call(words).answer["alone"]["cells"]
    return {cell["batch"]: cell["run_us"] for cell in cells if cell["workers"] == 1}


def _memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 if Path("/proc/self/statm").exists() else 0
