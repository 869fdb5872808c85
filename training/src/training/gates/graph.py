"""Gates that look at the graph alone: G1 artifact, G2 signature, G4 batch invariance, G7 robustness."""

import hashlib
from dataclasses import replace
from itertools import product
from pathlib import PurePosixPath

import numpy as np
import onnx

from training.config import FEATURES
from training.export.graph import ML_DOMAIN
from training.features import join, table
from training.gates.gate import Case, Check, Finding, finding
from training.manifest import MAX_BYTES
from training.model import decision_rows
from training.scoring.served import BATCH_SIZES, INVARIANCE_ROWS, Graph, is_batch_invariant

MOST_NODES = 500
DOMAINS = {"", "ai.onnx", ML_DOMAIN}
MOST_OPSET = 25
"""Of ai.onnx; ONNX Runtime 1.31, the oldest that serves, runs it."""
MONOTONE_STEPS = 41
MONOTONE_SLACK = 2.5e-7
"""ONNX Runtime's Sigmoid is an approximation that is monotone only up to the last bits of 1."""
FUZZ_ROWS = 100_000
NOISE = 0.01
MOST_FLIPS = 0.005
MOST_WITHOUT_DISK = 0.2
MOST_ROWS = 0.999
"""Of normal rows; a few are about to alarm, where anything moves a score."""
SCALE = 1000.0


def artifact(case: Case) -> Finding:
    """G1: the file is what its manifest says, valid ONNX of known operators, of a size that serves."""
    stated = case.manifest["artifact"]
    model = onnx.load_from_string(case.onnx)
    try:
        onnx.checker.check_model(model, full_check=True)
        valid = "onnx.checker: valid"
    except onnx.checker.ValidationError as error:
        valid = f"onnx.checker: {str(error).splitlines()[0]}"
    domains = {opset.domain for opset in model.opset_import}
    opset = max(o.version for o in model.opset_import if o.domain in {"", "ai.onnx"})
    outside = [
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and (entry.value.startswith("/") or ".." in PurePosixPath(entry.value).parts)
    ]
    sha256 = hashlib.sha256(case.onnx).hexdigest()
    return finding(
        "G1",
        "artifact",
        [
            Check(sha256 == stated["sha256"], f"SHA-256 {sha256[:12]}, in the manifest {stated['sha256'][:12]}"),
            Check(len(case.onnx) <= MAX_BYTES, f"{len(case.onnx):,} bytes, at most {MAX_BYTES:,}"),
            Check(valid.endswith(": valid"), valid),
            Check(domains <= DOMAINS, f"operators of {', '.join(sorted(d or 'ai.onnx' for d in domains))}"),
            Check(not outside, f"external data outside its folder: {', '.join(outside) or 'none'}"),
            Check(opset <= MOST_OPSET, f"opset {opset}, at most {MOST_OPSET}"),
            Check(len(model.graph.node) <= MOST_NODES, f"{len(model.graph.node)} nodes, at most {MOST_NODES}"),
        ],
    )


def signature(case: Case) -> Finding:
    """G2: whoever asks the champion can ask the candidate the same, and finds the same outputs."""
    ours = case.manifest["signature"]
    if case.champion is None or case.champion.manifest is None:
        return finding("G2", "signature", [Check(holds=True, text="no champion whose clients could break")])
    theirs = case.champion.manifest["signature"]

    def outputs(found: dict) -> set[tuple[str, str, int]]:
        return {(o["name"], o["dtype"], len(o["shape"])) for o in found["outputs"]}

    def features(found: dict, *, required: bool) -> set[str]:
        return {f["name"] for i in found["inputs"] for f in i.get("features", ()) if f["required"] or not required}

    missing = outputs(theirs) - outputs(ours)
    wanted = features(ours, required=True) - features(theirs, required=True)
    unknown = features(theirs, required=False) - features(ours, required=False)
    return finding(
        "G2",
        "signature",
        [
            Check(not missing, f"outputs of the champion that are missing: {_listed({m[0] for m in missing})}"),
            Check(not wanted, f"features that clients need not send now and would have to: {_listed(wanted)}"),
            Check(not unknown, f"features that clients may send now and no more: {_listed(unknown)}"),
        ],
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def batches(case: Case) -> Finding:
    """G4: a row's answer does not depend on the rows beside it, to the last bit."""
    same = is_batch_invariant(Graph(case.onnx), case.rows[:INVARIANCE_ROWS])
    sizes = f"{BATCH_SIZES[0]} to {BATCH_SIZES[-1]}"
    return finding(
        "G4", "batch invariance", [Check(same, f"{INVARIANCE_ROWS:,} rows in batches of {sizes}: same bits")]
    )


def robustness(case: Case) -> Finding:
    """G7: monotone in every z-score, sane without an optional feature and for any input, steady under noise."""
    graph = Graph(case.onnx)
    rng = np.random.default_rng(case.config.seed)
    rows = join(list(case.tables.values()))
    usual = rows.features[decision_rows(rows)]
    normal = rows.features[decision_rows(rows) & ~rows.anomalous]
    return finding(
        "G7",
        "robustness",
        [
            _monotone(graph),
            _without_disk(graph, normal),
            _any_input(graph, rng),
            _noise(graph, usual, rng),
            _units(case, graph),
        ],
    )


def _monotone(graph: Graph) -> Check:
    """Raising any z-score lowers no score, on a grid of 41 x 41 x 41 with a common baseline and scale."""
    steps = np.linspace(-10, 40, MONOTONE_STEPS)
    grid = np.array(list(product(steps, repeat=3)), dtype=np.float32)
    rows = np.column_stack([grid, np.full((len(grid), 2), (20.0, 5.0))]).astype(np.float32)
    score = graph.predict(rows).score.reshape([MONOTONE_STEPS] * 3)
    fall = max(0.0, *(float(-np.diff(score, axis=axis).min()) for axis in range(3)))
    return Check(fall <= MONOTONE_SLACK, f"largest fall of the score where a z-score rises: {abs(fall):.1e}")


def _without_disk(graph: Graph, normal: np.ndarray) -> Check:
    """Normal rows without disk I/O, as from a fleet that does not measure it."""
    missing = normal.copy()
    missing[:, FEATURES.index("disk_io_zscore")] = np.nan
    change = float(np.quantile(np.abs(graph.predict(missing).score - graph.predict(normal).score), MOST_ROWS))
    return Check(
        change <= MOST_WITHOUT_DISK, f"score without disk_io on normal rows: moves by {change:.3f}, at most 0.2"
    )


def _any_input(graph: Graph, rng: np.random.Generator) -> Check:
    """Any 32 bits as a feature: outputs stay finite and in range."""
    bits = rng.integers(0, 2**32, (FUZZ_ROWS, len(FEATURES)), dtype=np.uint64).astype(np.uint32)
    got = graph.predict(bits.view(np.float32))
    wrong = ~(np.isfinite(got.score) & (got.score >= 0) & (got.score <= 1))
    wrong |= ~(np.isfinite(got.forecast) & (got.forecast >= 0) & (got.forecast <= 100))  # noqa: PLR2004 - percent
    return Check(not wrong.any(), f"{FUZZ_ROWS:,} rows of any bits: {int(wrong.sum())} answers out of range")


def _noise(graph: Graph, rows: np.ndarray, rng: np.random.Generator) -> Check:
    noisy = (rows * (1 + rng.uniform(-NOISE, NOISE, rows.shape))).astype(np.float32)
    flips = float((graph.predict(noisy).anomaly != graph.predict(rows).anomaly).mean())
    return Check(flips <= MOST_FLIPS, f"decisions that 1 % of noise changes: {flips:.2%}, at most 0.5 %")


def _units(case: Case, graph: Graph) -> Check:
    """Disk I/O in another unit, a thousand times as large: z-scores are of no unit, where the floor is not absolute."""
    day = case.days[0]
    series = [replace(s, features=None) for s in day.series[:3]]
    absolute = case.config.features.floor_disk_absolute / case.config.features.floor_disk_relative
    series = [s for s in series if np.nanmin(np.abs(s.values[:, 2])) > absolute]
    if not series:
        return Check(holds=True, text="another unit of disk I/O: not tried, the fleet hardly uses the disk")
    larger = [replace(s, values=s.values * [1, 1, SCALE]) for s in series]
    plain, scaled = (table(replace(day, series=s, faults=[]), case.config) for s in (series, larger))
    warm = plain.warm
    change = np.abs(graph.predict(plain.features[warm]).score - graph.predict(scaled.features[warm]).score).max()
    return Check(bool(change <= 1e-3), f"disk I/O in a unit 1,000 times smaller: score moves by {change:.1e}")  # noqa: PLR2004
