"""Gates on how good a candidate is: G6 quality, G8 slices, G9 calibration, G10 negative controls.

Never the point-adjusted F1, by which a detector that fires at random looks good.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, poisson

from training.candidate import make
from training.config import SAMPLES_PER_DAY
from training.features import Table, join
from training.gates.gate import Case, Check, Finding, finding
from training.model import Outputs, answers_of, decision_rows
from training.pipeline.compare import stack
from training.recipes import RECIPES
from training.scoring.evaluate import count_episodes, evaluate

RECALL_LOSS = 0.02
PRECISION_LOSS = 0.01
MOST_EPISODES = 1.0
"""False alert episodes a pod-day."""
MORE_EPISODES = 1.2
"""Times the champion's ..."""
CHANCE_OF_MORE = 0.1
"""... beyond chance: a day of a few pods has a handful of false episodes."""
FEW_EPISODES = 0.1
"""A pod-day: a slice with less has no more than others."""
NAIVE_SHARE = 0.95
FORECAST_RATIO = 1.02
SLICE_LOSS = 0.15
SLICE_EPISODES = 3.0
SLICE_EVENTS = 20
"""Slices with fewer events are reported, not judged."""
MOST_CALIBRATION_ERROR = 0.05
CHANCE = 1.5
"""Times what a random order gives: what an AUC-PR by chance may reach."""
SHUFFLES = 20
REPRODUCED = 1e-6
HASH = re.compile(r"(-[0-9a-f]{8,10})?-[0-9a-z]{5}$")
"""What Kubernetes appends to a workload's name to name its pod."""


def quality(case: Case) -> Finding:
    """G6: on days that it has not seen, no worse than the champion, within what chance does, and of use by itself."""
    ours = case.compared.together
    naive = ours.forecast_mae / ours.forecast_mae_naive
    false = round(ours.false_episodes_per_pod_day * ours.pod_days)
    alone = float(poisson.sf(false - 1, MOST_EPISODES * ours.pod_days))
    checks = [
        Check(
            alone >= CHANCE_OF_MORE,
            f"false episodes a pod-day: {ours.false_episodes_per_pod_day:.2f}, at most {MOST_EPISODES:.2f} (chance "
            f"{alone:.2f} of so many at {MOST_EPISODES:.2f}, at least {CHANCE_OF_MORE})",
        ),
        Check(naive <= NAIVE_SHARE, f"forecast MAE {naive:.2f} of 'it stays as it is', at most {NAIVE_SHARE}"),
        Check(ours.event_recall > 0, f"event recall {ours.event_recall:.2f} of {ours.events} events"),
    ]
    if case.champion_compared is None:
        return finding("G6", "quality", [*checks, Check(holds=True, text="no champion to compare with")])
    theirs = case.champion_compared.together
    difference = case.differences["auc_pr"]
    recall = theirs.event_recall - ours.event_recall
    chance = more_by_chance(
        round(ours.false_episodes_per_pod_day * ours.pod_days),
        round(theirs.false_episodes_per_pod_day * theirs.pod_days),
    )
    checks += [
        Check(
            recall <= RECALL_LOSS or case.differences["event_recall"]["high"] >= 0,
            f"event recall {ours.event_recall:.2f}, champion {theirs.event_recall:.2f}: at most 0.02 less, or a 90 % "
            f"interval of the difference ({_interval(case.differences['event_recall'])}) that reaches 0",
        ),
        Check(
            ours.auc_pr >= theirs.auc_pr - PRECISION_LOSS or difference["high"] >= 0,
            f"AUC-PR {ours.auc_pr:.3f}, champion {theirs.auc_pr:.3f}: at most 0.01 less, or a 90 % interval of the "
            f"difference ({_interval(difference)}) that reaches 0",
        ),
        Check(
            chance >= CHANCE_OF_MORE,
            f"false episodes a pod-day: {ours.false_episodes_per_pod_day:.2f}, champion "
            f"{theirs.false_episodes_per_pod_day:.2f}: at most 1.2 times as many (chance {chance:.2f} of so many if it "
            f"gives 1.2 times as many, at least {CHANCE_OF_MORE})",
        ),
        Check(
            ours.forecast_mae <= FORECAST_RATIO * theirs.forecast_mae,
            f"forecast MAE {ours.forecast_mae:.3f}, champion {theirs.forecast_mae:.3f}: at most 1.02 times",
        ),
    ]
    return finding("G6", "quality", checks)


def _interval(difference: Mapping[str, float]) -> str:
    return f"{difference['low']:+.3f} to {difference['high']:+.3f}"


def more_by_chance(ours: int, theirs: int) -> float:
    """Chance of at least so many episodes of ours among all, if the rate is 1.2 times the champion's.

    The conditional test of two Poisson rates over the same time (Przyborowski & Wilenski, Biometrika 1940).
    """
    share = MORE_EPISODES / (1 + MORE_EPISODES)
    return float(binom.sf(ours - 1, ours + theirs, share)) if ours else 1.0


def slices(case: Case) -> Finding:
    """G8: no namespace, workload or level of use for which it is much worse than for all."""
    table, names = join(list(case.tables.values())), [s.name for day in case.days for s in day.series]
    alarm = stack(case.compared.outputs).anomaly & table.warm
    whole = _rates(table, alarm, case.config.episode_gap)
    checks = []
    for kind, of in (("namespace", _namespaces), ("workload", _workloads), ("CPU use", _terciles)):
        part_of = of(table, names)
        for part in sorted(set(part_of.tolist())):
            recall, episodes, events = _rates(
                table.rows(part_of == part), alarm[part_of == part], case.config.episode_gap
            )
            judged = events >= SLICE_EVENTS
            good = recall >= whole[0] - SLICE_LOSS and episodes <= SLICE_EPISODES * max(whole[1], FEW_EPISODES)
            note = "" if judged else " (fewer than 20 events: not judged)"
            caught = f"recall {recall:.2f} of {events} events" if events else "no events"
            text = f"{kind} {part}: {caught}, {episodes:.2f} false episodes a pod-day{note}"
            checks.append(Check(good or not judged, text))
    all_text = f"all: recall {whole[0]:.2f} of {whole[2]} events, {whole[1]:.2f} false episodes a pod-day"
    return finding("G8", "slices", [Check(holds=True, text=all_text), *checks])


def _rates(table: Table, alarm: NDArray[np.bool_], gap: int) -> tuple[float, float, int]:
    """Event recall, false episodes a pod-day, events; NaN where there is none."""
    events = np.unique(table.event[table.anomalous])
    found = np.unique(table.event[table.anomalous & alarm])
    false = alarm & decision_rows(table) & ~table.anomalous
    days = table.warm.sum() / SAMPLES_PER_DAY
    recall = len(found) / len(events) if len(events) else float("nan")
    return recall, count_episodes(table, false, gap) / days if days else 0.0, len(events)


def _namespaces(table: Table, names: list[str]) -> NDArray[np.str_]:
    return np.array([n.split("/")[0] if "/" in n else "none" for n in names])[table.series]


def _workloads(table: Table, names: list[str]) -> NDArray[np.str_]:
    return np.array([HASH.sub("", n.split("/")[-1]) for n in names])[table.series]


def _terciles(table: Table, _names: list[str]) -> NDArray[np.str_]:
    count = int(table.series.max()) + 1
    level = np.array(
        [np.median(table.cpu[table.series == s]) if (table.series == s).any() else 0 for s in range(count)]
    )
    rank = np.searchsorted(np.quantile(level, [1 / 3, 2 / 3]), level)
    return np.array(["low", "middle", "high"])[rank][table.series]


def calibration(case: Case) -> Finding:
    """G9: a score is about the probability of an anomaly, and 0.5 is the operating point."""
    error = case.compared.together.calibration_error
    threshold = case.manifest["outputs_semantics"]["score"]["threshold"]
    decided = all(np.array_equal(o.anomaly, o.score >= np.float32(threshold)) for o in case.compared.outputs.values())
    return finding(
        "G9",
        "calibration",
        [
            Check(error <= MOST_CALIBRATION_ERROR, f"expected calibration error {error:.4f}, at most 0.05"),
            Check(decided, f"every decision is score >= {threshold}"),
        ],
    )


def controls(case: Case, previous: Callable[[], Check]) -> Finding:
    """G10: what cannot be learned is not learned, and what was measured before is measured again.

    The recipe is fitted to labels that were moved in time, on which nothing but chance can be right; a metric above
    chance there would come from labels that leak into features, or from a metric that flatters. Monotone recipes rank
    by z-scores whatever they are taught, so that the true labels of the test days would prove nothing here.

    Few anomalous rows do well by chance: see `by_chance`, and one event that happens to be moved onto another real one
    is worth a lot, so that the median of the draws is judged.
    """
    rng = np.random.default_rng(case.config.seed)
    shuffled = replace(case.train, event=moved(case.train, rng))
    kind = RECIPES[case.recipe]
    fitted = kind.fit(shuffled, case.config)
    test = join(list(case.tables.values()))
    outputs = answers_of(fitted.raw(test.features), fitted.calibration, fitted.predict(test.features).forecast)
    drawn = [_precision(outputs, replace(test, event=moved(test, rng)), case) for _ in range(SHUFFLES)]
    ratio, judged = float(np.median(drawn)), decision_rows(test)
    limit = CHANCE * by_chance(int(judged.sum()), int(test.anomalous[judged].sum()))
    text = f"labels moved in time, {SHUFFLES} times: AUC-PR {ratio:.2f} of the base rate, at most {limit:.2f}"
    return finding("G10", "negative controls", [Check(ratio <= limit, text), previous()])


def by_chance(rows: int, anomalous: int) -> float:
    """Times the base rate that AUC-PR is expected to be when the order is random.

    Bestgen, "Exact expected average precision of the random baseline" (2015), with H the rows' harmonic number:
    `((anomalous - 1) / (rows - 1) * (rows - H) + H) / rows`.
    """
    harmonic = float(np.sum(1 / np.arange(1, rows + 1)))
    return ((anomalous - 1) / (rows - 1) * (rows - harmonic) + harmonic) / anomalous


def moved(table: Table, rng: np.random.Generator) -> NDArray[np.int64]:
    """The events, those of each series moved in time by a random amount; runs of rows stay runs. int64 [N]."""
    event = table.event.copy()
    for series in np.unique(table.series):
        own = np.flatnonzero((table.series == series) & decision_rows(table))
        if len(own) > 1:
            event[own] = np.roll(table.event[own], int(rng.integers(1, len(own))))
    return event


def _precision(outputs: Outputs, table: Table, case: Case) -> float:
    found = evaluate(outputs, table, case.config.episode_gap)
    return found.auc_pr / found.base_rate


def reproduced(case: Case) -> Check:
    """The candidate, made once more from the same rows, answers as its file does."""
    again = make(case.recipe, case.train, case.config)
    difference = float(np.abs(again.expected.score - case.expected.score).max())
    return Check(
        difference <= REPRODUCED, f"made again from the same rows: score within {difference:.1e}, at most 1e-06"
    )
