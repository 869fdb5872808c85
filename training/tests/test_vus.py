"""VUS-PR against a plain reading of the paper's definition, threshold by threshold, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from training.scoring.vus import extend, mean_vus_pr, ranges, vus_pr


def plain(score: np.ndarray, label: np.ndarray, longest: int, thresholds: int) -> float:
    """The definition, step by step: nothing sorted, nothing shared between lengths or thresholds."""
    rows, runs, areas = len(score), ranges(label), []
    cuts = np.sort(score)[::-1][np.linspace(0, rows - 1, thresholds).astype(int)]
    for length in range(longest + 1):
        half = length // 2
        weight = label.astype(float)
        for first, last in runs:
            for row in range(rows):
                distance = row - last if row > last else first - row
                if 0 < distance <= half:
                    weight[row] += (1 - distance / length) ** 0.5
        weight = np.minimum(weight, 1)
        spans = [[first - half, last + half] for first, last in runs]
        joined = spans[:1]
        for span in spans[1:]:
            if joined[-1][1] >= span[0]:
                joined[-1][1] = span[1]
            else:
                joined.append(span)
        area, before = 0.0, 0.0
        for cut in cuts:
            chosen = score >= cut
            found = (weight * chosen).sum()
            positives = (label.sum() + (label | (chosen & (weight > 0))).astype(float) @ np.where(label, 1, weight)) / 2
            seen = np.mean([chosen[max(a, 0) : b + 1].any() for a, b in joined])
            recall = min(found / positives, 1) * seen
            area += (recall - before) * found / chosen.sum()
            before = recall
        areas.append(area)
    return float(np.mean(areas))


def made(seed: int, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.zeros(rows, dtype=bool)
    for first in rng.integers(0, rows - 20, size=4):
        label[first : first + int(rng.integers(1, 20))] = True
    return np.round(rng.normal(size=rows) + label, 2), label


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_definition(seed: int) -> None:
    score, label = made(seed)
    assert vus_pr([score], [label], 30, 60) == pytest.approx(plain(score, label, 30, 60), abs=1e-12)


@pytest.mark.parametrize("where", [slice(0, 12), slice(288, 300), slice(0, 300)])
def test_anomalies_at_the_edges(where: slice) -> None:
    score, _ = made(9)
    label = np.zeros(300, dtype=bool)
    label[where] = True
    assert vus_pr([score], [label], 20, 50) == pytest.approx(plain(score, label, 20, 50), abs=1e-12)


def test_known_values() -> None:
    label = np.zeros(100, dtype=bool)
    label[40:50] = True
    perfect = label.astype(float)
    assert vus_pr([perfect], [label], 0, None) == pytest.approx(1.0)
    # No buffer, one anomaly and a threshold at every row: average precision.
    score = np.random.default_rng(0).random(100)
    assert vus_pr([score], [label], 0, None) == pytest.approx(average_precision_score(label, score), abs=1e-12)
    # Length 2: a neighbour at distance 1 has the weight sqrt(1 / 2).
    np.testing.assert_allclose(extend(label, [(40, 49)], 2)[[38, 39, 40, 49, 50, 51]], [0, 0.5**0.5, 1, 1, 0.5**0.5, 0])
    assert extend(label, [(40, 49)], 1).sum() == 10


def test_near_misses_cost_less_than_far_ones() -> None:
    label = np.zeros(400, dtype=bool)
    label[200:210] = True
    at = [np.exp(-0.5 * ((np.arange(400) - centre) / 4) ** 2) for centre in (205, 215, 240, 350)]
    found = [vus_pr([score], [label]) for score in at]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.8
    assert found[3] < 0.1


def test_series_are_pooled_without_touching() -> None:
    (a, la), (b, lb) = made(1), made(2)
    gap = np.full(200, -9.0), np.zeros(200, dtype=bool)
    apart = vus_pr([np.concatenate([a, gap[0], b])], [np.concatenate([la, gap[1], lb])], 30, None)
    assert vus_pr([a, b], [la, lb], 30, None) == pytest.approx(apart, rel=0.05)
    assert mean_vus_pr([a, b], [la, lb], 30, 60) == pytest.approx((plain(a, la, 30, 60) + plain(b, lb, 30, 60)) / 2)
    quiet = [np.zeros(300), np.zeros(300, dtype=bool)]
    assert mean_vus_pr([a, quiet[0]], [la, quiet[1]], 30, 60) == vus_pr([a], [la], 30, 60)
    loud = vus_pr([a, np.full(300, 99.0)], [la, quiet[1]], 30, None)
    assert loud < vus_pr([a, quiet[0] - 99], [la, quiet[1]], 30, None), "a series without anomaly has false positives"


def test_bad_arguments() -> None:
    score, label = made(1)
    for wrong, text in (
        (([score], [np.zeros(300, dtype=bool)]), "at least one anomalous row"),
        (([score[:-1]], [label]), "one finite score for each label"),
        (([np.full(300, np.nan)], [label]), "one finite score for each label"),
    ):
        with pytest.raises(ValueError, match=text):
            vus_pr(*wrong)
    with pytest.raises(ValueError, match="at least one anomalous row"):
        mean_vus_pr([score], [np.zeros(300, dtype=bool)])
