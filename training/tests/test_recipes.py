"""Every recipe: the same in numpy and ONNX Runtime, safe for any input; and what each is there for."""

from dataclasses import replace

import lightgbm
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from training import cli, comparisons
from training.candidate import fit
from training.config import FEATURES, Config
from training.data.days import Day
from training.export.graph import GraphBuilder, to_bytes
from training.export.trees import lightgbm_trees
from training.features import Table
from training.model import Model
from training.recipes import RECIPES
from training.recipes.forest import alert_windows
from training.scoring.evaluate import evaluate
from training.scoring.served import Graph, hard_rows, is_batch_invariant, parity, session
from training.train import Run


@pytest.fixture(scope="module")
def table(run: Run, config: Config) -> Table:
    """The training day."""
    return run.tables[config.train_day]


@pytest.fixture(scope="module")
def fitted(table: Table, config: Config) -> dict[str, Model]:
    """Every recipe, fitted and calibrated."""
    return {name: fit(name, table, config)[0] for name in RECIPES}


@pytest.fixture(params=RECIPES)
def model(request: pytest.FixtureRequest, fitted: dict[str, Model]) -> Model:
    """Each in turn."""
    return fitted[request.param]


def served(model: Model) -> bytes:
    return to_bytes(model.to_onnx("anomaly"))


def test_graph_is_the_model_on_hard_rows(model: Model, table: Table) -> None:
    content = served(model)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    rows = hard_rows(table, seed=11)
    found = parity(model.predict(rows), Graph(content).predict(rows))
    assert found.rows >= 10_000
    assert found.holds, found


def test_answers_do_not_depend_on_the_batch(model: Model, table: Table) -> None:
    assert is_batch_invariant(Graph(served(model)), hard_rows(table, seed=12)[:2_000])


def test_any_float_gives_finite_answers_in_range(model: Model) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, (20_000, 5), dtype=np.uint64)
    answers = Graph(served(model)).predict(bits.astype(np.uint32).view(np.float32))
    for values, most in ((answers.score, 1), (answers.forecast, 100)):
        assert np.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= most


def test_same_rows_give_the_same_bytes(fitted: dict[str, Model], table: Table, config: Config) -> None:
    for name in ("rule", "lightgbm", "isolation-forest"):
        assert served(fit(name, table, config)[0]) == served(fitted[name])


def test_no_rows_give_no_answers(model: Model) -> None:
    outputs = model.predict(np.empty((0, len(FEATURES)), dtype=np.float32))
    assert [len(o) for o in vars(outputs).values()] == [0, 0, 0]


@pytest.mark.parametrize("name", ["rule", "monotone-logistic", "gradient-boosting", "lightgbm"])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_raising_a_z_score_never_lowers_the_score(fitted: dict[str, Model], name: str, column: int) -> None:
    rng = np.random.default_rng(column)
    z = rng.standard_t(2, (3_000, 3)) * 5
    rows = np.column_stack([z, rng.uniform(0, 100, 3_000), rng.uniform(0.5, 30, 3_000)]).astype(np.float32)
    raised = rows.copy()
    raised[:, column] += rng.exponential(5, 3_000).astype(np.float32)
    assert (fitted[name].raw(raised) >= fitted[name].raw(rows)).all()


def test_calibrated_models_find_the_faults_of_another_day(model: Model, run: Run, config: Config) -> None:
    day = run.tables[config.holdout_days[0]]
    found = evaluate(model.predict(day.features), day, config.episode_gap)
    assert found.auc_pr > 5 * found.base_rate
    assert found.event_recall > 0
    assert found.false_samples_per_pod_day < 20


def test_unknown_recipe_is_refused(table: Table, config: Config) -> None:
    with pytest.raises(ValueError, match="recipe 'magic' is not known; take one of rule, monotone-logistic"):
        fit("magic", table, config)


@pytest.mark.parametrize("limit", [3.0, 5.0])
def test_rule_alarms_from_its_threshold_on(table: Table, config: Config, limit: float) -> None:
    rule = fit("rule", table, replace(config, model=replace(config.model, rule_z=limit)))[0]
    z = np.array([limit, np.nextafter(np.float32(limit), np.float32(0)), limit + 0.1, -50], dtype=np.float32)
    rows = np.column_stack([z, z * 0 + 99, z * 0 + 99, z * 0 + 20, z * 0 + 5]).astype(np.float32)
    for answers in (rule.predict(rows), Graph(served(rule)).predict(rows)):
        assert answers.score[0] == 0.5
        assert answers.anomaly[[0, 2, 3]].tolist() == [True, True, False]
        np.testing.assert_allclose(answers.forecast, np.clip(20 + 5 * z, 0, 100), rtol=1e-6)


def test_rule_forecast_is_the_cpu_of_now(fitted: dict[str, Model], table: Table) -> None:
    rows = table.rows(table.warm & (np.abs(table.features[:, 0]) < 100))
    np.testing.assert_allclose(fitted["rule"].predict(rows.features).forecast, rows.cpu, atol=1e-4)


@pytest.mark.parametrize("name", ["rule", "isolation-forest"])
def test_labels_change_nothing_without_supervision(
    fitted: dict[str, Model], table: Table, config: Config, name: str
) -> None:
    unlabelled = replace(table, event=np.full_like(table.event, -1), judged=np.zeros_like(table.judged))
    assert served(fit(name, unlabelled, config)[0]) == served(fitted[name])


def test_forest_learns_outside_alert_windows(table: Table, config: Config) -> None:
    dropped = alert_windows(table, config)
    expected = np.zeros(len(table.time), dtype=bool)
    for i in np.flatnonzero(table.features[:, 0] >= 3):
        expected |= (table.series == table.series[i]) & (np.abs(table.time - table.time[i]) <= 300)
    assert 0 < expected.sum() < len(expected) / 2
    np.testing.assert_array_equal(dropped, expected)
    alarm = (table.features[:, 0] >= 3)[:, None]
    raised = replace(table, features=np.where(alarm, np.float32(90.0), table.features))
    again = fit("isolation-forest", raised, config)[0]
    assert again.calibration == fit("isolation-forest", table, config)[0].calibration


def test_forest_keeps_its_budget_and_needs_rows(fitted: dict[str, Model], table: Table, config: Config) -> None:
    rows = table.rows(table.warm & ~alert_windows(table, config))
    scores = fitted["isolation-forest"].predict(rows.features).score
    assert np.median(scores) < 0.05
    assert (scores >= 0.5).mean() < 0.01
    with pytest.raises(ValueError, match="0 rows outside alert windows; an isolation forest needs 2"):
        fit("isolation-forest", table.rows(~table.warm), config)[0]


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("boosting", ["gbdt", "dart"])
@pytest.mark.parametrize("objective", ["binary", "regression_l1", "regression"])
def test_lightgbm_export_equals_lightgbm(objective: str, boosting: str, missing: float) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_t(3, (4_000, 4)).astype(np.float32)
    y = x[:, 0] + np.sin(x[:, 1]) > 0.5
    x[rng.random(x.shape) < missing] = np.nan
    parameters = {"objective": objective, "boosting": boosting, "num_threads": 1, "verbosity": -1, "num_leaves": 12}
    booster = lightgbm.train(parameters, lightgbm.Dataset(x, y), num_boost_round=30)
    trees = lightgbm_trees(booster, [3, 2, 1, 0])
    exact = np.array(trees.threshold, dtype=np.float32)
    edges = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))])
    rows = np.concatenate([rng.standard_t(2, (5_000, 4)), np.stack([np.roll(edges, i) for i in range(4)], axis=1)])
    rows = rows.astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        rows[:3_000][rng.random((3_000, 4)) < 0.05] = value
    g = GraphBuilder()
    column = trees.add_to(g, "X", "column")
    g.node("Reshape", column, g.constant("flat", np.array([-1], dtype=np.int64)), output="sum")
    graph = g.model("lightgbm", {"X": ["N", 4]}, {"sum": TensorProto.FLOAT}, {})
    (got,) = session(to_bytes(graph)).run(["sum"], {"X": rows[:, ::-1].copy()})
    np.testing.assert_allclose(got, booster.predict(rows, raw_score=True, num_threads=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"objective": "multiclass", "num_class": 3}, "only boosters with one output"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "only boosters with one output"),
        ({"zero_as_missing": True}, "only numerical splits"),
        ({"categorical_feature": [0]}, "only numerical splits"),
    ],
)
def test_lightgbm_with_other_trees_is_refused(parameters: dict[str, object], message: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, (500, 2)).astype(np.float64)
    base = {"verbosity": -1, "num_threads": 1, "min_data_per_group": 1}
    categorical = parameters.get("categorical_feature", "auto")
    own = {k: v for k, v in parameters.items() if k != "categorical_feature"}
    data = lightgbm.Dataset(x, x[:, 0] % 3, categorical_feature=categorical, params={"min_data_per_group": 1})
    booster = lightgbm.train(base | own, data, num_boost_round=3)
    with pytest.raises(ValueError, match=message):
        lightgbm_trees(booster, [0, 1])


def test_comparison_of_recipes_has_a_row_each(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare-recipes", "--synthetic"]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    days = (config.train_day, *config.holdout_days)
    assert [r.split("|")[1].strip() for r in rows] == [f"{day}, {name}" for day in days for name in RECIPES]


def test_comparison_of_baselines(days: dict[str, Day], config: Config) -> None:
    """A baseline that is frozen in alert keeps a lasting alarm for longer."""
    short = {name: replace(day, series=day.series[:2]) for name, day in days.items()}
    tables = [
        [[cell.strip() for cell in row.split("|")[1:-1]] for row in one.splitlines()[2:]]
        for one in comparisons.baselines(short, config).split("\n\n")
    ]
    kinds = [f"{kind}, {how}" for kind in ("median/MAD", "EWMA") for how in ("always", "not in alert")]
    assert [row[0] for row in tables[0]] == [f"{day}, {kind}" for day in short for kind in kinds]
    assert [row[0] for row in tables[1]] == kinds
    median, median_frozen, ewma, ewma_frozen = (int(row[1]) for row in tables[1])
    assert median_frozen >= median + 30
    assert ewma_frozen >= ewma + 30
