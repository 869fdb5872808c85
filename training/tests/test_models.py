"""Champion and challenger: monotone, the same in numpy and ONNX Runtime, safe for any input."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from training.config import FEATURES, OUTPUTS, Config
from training.export.graph import to_bytes
from training.model import calibrate, decision_rows
from training.scoring.served import Graph, hard_rows, is_batch_invariant, parity, session
from training.train import Run, Trained

ROWS = 12_000
NAMES = ("champion", "challenger")


@pytest.fixture(params=NAMES)
def trained(request: pytest.FixtureRequest, run: Run) -> Trained:
    """Each model in turn."""
    return getattr(run, request.param)


def random_rows(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    z = rng.standard_t(2, (count, 3)) * 5
    return np.column_stack([z, rng.uniform(0, 100, count), rng.uniform(0.5, 30, count)]).astype(np.float32)


def test_graph_keeps_the_contract(trained: Trained) -> None:
    model = onnx.load_from_string(trained.version.onnx)
    onnx.checker.check_model(model, full_check=True)
    served = session(trained.version.onnx)
    assert [(i.name, i.type, i.shape) for i in served.get_inputs()] == [("features", "tensor(float)", ["N", 5])]
    assert [(o.name, o.type, o.shape) for o in served.get_outputs()] == [
        ("anomaly", "tensor(bool)", ["N"]),
        ("score", "tensor(float)", ["N"]),
        ("forecast", "tensor(float)", ["N"]),
    ]
    assert model.ir_version == 8
    assert {o.domain: o.version for o in model.opset_import}.items() <= {"": 17, "ai.onnx.ml": 3}.items()
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata == {"onnxd.features": ",".join(FEATURES), "onnxd.name": "anomaly"}


def test_parity_on_ten_thousand_hard_rows(trained: Trained, run: Run, config: Config) -> None:
    rows = hard_rows(run.tables[config.train_day], seed=7, count=ROWS)
    assert len(rows) >= 10_000
    assert np.isnan(rows).any(axis=1).sum() > 500
    assert np.isinf(rows).any(axis=1).sum() > 500
    found = parity(trained.model.predict(rows), Graph(trained.version.onnx).predict(rows))
    assert found.holds, found


def test_any_float_gives_finite_answers_in_range(trained: Trained) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2**32, (20_000, 5), dtype=np.uint64).astype(np.uint32).view(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3.4e38, -3.4e38, 1e-45], dtype=np.float32)
    grid = np.stack(np.meshgrid(*[special] * 5), axis=-1).reshape(-1, 5)
    answers = Graph(trained.version.onnx).predict(np.concatenate([rows, grid]))
    assert np.isfinite(answers.score).all()
    assert np.isfinite(answers.forecast).all()
    assert answers.score.min() >= 0
    assert answers.score.max() <= 1
    assert answers.forecast.min() >= 0
    assert answers.forecast.max() <= 100
    np.testing.assert_array_equal(answers.anomaly, answers.score >= 0.5)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_raising_a_z_score_never_lowers_the_score(trained: Trained, column: int) -> None:
    served = Graph(trained.version.onnx)
    rows = random_rows(column, 5_000)
    raised = rows.copy()
    raised[:, column] += np.random.default_rng(column).exponential(5, len(rows)).astype(np.float32)
    assert (trained.model.raw(raised) >= trained.model.raw(rows)).all()
    # ONNX Runtime's Sigmoid is an approximation that is monotone only up to the last bits of 1.
    assert (served.predict(raised).score - served.predict(rows).score).min() > -2.5e-7


def test_champion_weights_are_not_negative(run: Run) -> None:
    assert (run.champion.model.weights >= 0).all()


def test_answers_do_not_depend_on_the_batch(trained: Trained, run: Run, config: Config) -> None:
    rows = hard_rows(run.tables[config.train_day], seed=3)[:3_000]
    assert is_batch_invariant(Graph(trained.version.onnx), rows)


def test_optimised_graph_is_small(trained: Trained, tmp_path: Path) -> None:
    """A node costs almost half a microsecond whatever it does: half of what a request may take, if nobody counts."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    ort.InferenceSession(trained.version.onnx, options, providers=["CPUExecutionProvider"])
    nodes = [n.op_type for n in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert len(nodes) <= 16, nodes


def test_champion_level_has_the_bits_of_its_definition(run: Run) -> None:
    """A sum of relus in the graph, `baseline + scale * z` in training."""
    champion = run.champion.model
    rows = random_rows(5, 5_000)
    model = onnx.load_from_string(run.champion.version.onnx)
    model.graph.output.append(onnx.helper.make_tensor_value_info("level", onnx.TensorProto.FLOAT, ["N", 1]))
    level = session(model.SerializeToString()).run(["level"], {"features": rows})[0]
    np.testing.assert_array_equal(level[:, 0], champion.limits.prepare(rows)[:, 5])


def test_no_rows_give_no_answers(trained: Trained) -> None:
    answers = session(trained.version.onnx).run(list(OUTPUTS), {"features": np.empty((0, 5), np.float32)})
    assert [a.shape for a in answers] == [(0,)] * 3


def test_missing_features_mean_the_defaults(trained: Trained) -> None:
    model = trained.model
    filled = np.tile(model.limits.default, (2, 1))
    filled[0, 0] = 9.0
    missing = np.full((2, 5), np.nan, dtype=np.float32)
    missing[0, 0] = 9.0
    served = Graph(trained.version.onnx)
    for name in OUTPUTS:
        np.testing.assert_array_equal(getattr(served.predict(filled), name), getattr(served.predict(missing), name))


def test_forecast_scales_with_its_series(trained: Trained) -> None:
    """Twice the baseline and the scale, the same z-scores: twice the forecast."""
    rows = random_rows(1, 1_000)
    rows[:, 3] = rows[:, 3] / 8 + 20
    rows[:, 4] = np.minimum(rows[:, 4], 3)
    rows[:, 0] = rows[:, 0].clip(-2, 2)
    double = rows * np.array([1, 1, 1, 2, 2], dtype=np.float32)
    served = Graph(trained.version.onnx)
    np.testing.assert_allclose(served.predict(double).forecast, 2 * served.predict(rows).forecast, rtol=1e-5)


def test_same_model_gives_the_same_bytes(trained: Trained) -> None:
    assert to_bytes(trained.model.to_onnx("anomaly")) == trained.version.onnx


def test_threshold_keeps_the_false_alarm_budget(run: Run, config: Config) -> None:
    table = run.tables[config.train_day]
    raw = np.random.default_rng(0).normal(size=len(table.time)) + 5 * table.anomalous
    rows = decision_rows(table) & ~table.anomalous
    for budget in (0.0, 1.0, 20.0):
        model = replace(config.model, false_samples_per_pod_day=budget)
        found = calibrate(raw, table, model)
        allowed = int(rows.sum() / 1440 * budget)
        assert abs(int((raw[rows] >= found.threshold).sum()) - allowed) <= 1


def test_calibration_needs_both_kinds_of_rows(run: Run, config: Config) -> None:
    table = run.tables[config.train_day]
    normal = table.rows(~table.anomalous)
    with pytest.raises(ValueError, match="normal and anomalous"):
        calibrate(np.zeros(len(normal.time)), normal, config.model)
