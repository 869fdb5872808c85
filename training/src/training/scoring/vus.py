"""VUS-PR: the volume under the precision-recall surface, for labels whose borders are not sharp.

Paparrizos et al., "Volume Under the Surface: A New Accuracy Evaluation Measure for Time-Series Anomaly Detection",
PVLDB 15(11), 2022. For every buffer length from 0 to L an anomaly's label is carried on to both sides with a weight
that falls as the square root of the distance; each length gives a precision and recall curve of ranges, and the volume
is the mean of the areas under them. This is what TSB-AD computes (github.com/TheDatumOrg/TSB-AD, `generate_curve` with
L = 100 and 250 thresholds), to rounding; here one sort and one running sum for each length do instead of a pass over
the data for each length and threshold.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.bool_]
BUFFER = 100
"""Longest buffer L, rows: TSB-AD's default."""
THRESHOLDS = 250
"""Thresholds of a curve, at evenly spaced ranks of the scores: TSB-AD's default."""


def ranges(labels: Labels) -> list[tuple[int, int]]:
    """First and last row of each run of true values in bool [T]."""
    steps = np.diff(np.concatenate([[False], labels, [False]]).astype(np.int8))
    firsts, ends = np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist()
    return [(first, end - 1) for first, end in zip(firsts, ends)]


def extend(labels: Labels, runs: list[tuple[int, int]], buffer: int) -> Floats:
    """Labels carried on to both sides: `sqrt(1 - d / buffer)` at d rows from a run, d up to half the buffer.

    Returns:
        float64 [T], 0 to 1. Where two runs' buffers overlap they add up, to 1 at most.
    """
    weight = labels.astype(np.float64)
    half = buffer // 2
    for first, last in runs:
        after = np.arange(last + 1, min(last + half + 1, len(labels)))
        weight[after] += np.sqrt(1 - (after - last) / buffer)
        before = np.arange(max(first - half, 0), first)
        weight[before] += np.sqrt(1 - (first - before) / buffer)
    return np.minimum(weight, 1.0)


def vus_pr(
    scores: Sequence[Floats], labels: Sequence[Labels], buffer: int = BUFFER, thresholds: int | None = THRESHOLDS
) -> float:
    """VUS-PR of series pooled: one threshold for the rows of all, buffers that end where a series ends.

    With a single series it is TSB-AD's. TSB-AD's tables average over series: `mean_vus_pr`.

    Args:
        scores: float64 [T] for each series, finite, higher where more anomalous.
        labels: bool [T] for each series. A series without anomaly takes part with its false positives.
        buffer: Longest buffer, rows.
        thresholds: How many; None for one at every row, which a long and rarely anomalous set needs.

    Returns:
        0 to 1.

    Raises:
        ValueError: No row is anomalous, or arrays differ in length or hold NaN.
    """
    for score, label in zip(scores, labels, strict=True):
        if len(score) != len(label) or not np.isfinite(score).all():
            msg = f"{len(score)} scores and {len(label)} labels of a series: give one finite score for each label"
            raise ValueError(msg)
    score = np.concatenate([*scores, []])
    label = np.concatenate([*labels, []]).astype(np.bool_)
    if not label.any():
        msg = "VUS-PR needs at least one anomalous row"
        raise ValueError(msg)
    order = np.argsort(-score, kind="stable")
    fallen = -score[order]
    ranks = np.arange(len(score)) if thresholds is None else np.linspace(0, len(score) - 1, thresholds).astype(int)
    cuts = score[order[ranks]]
    chosen = np.searchsorted(fallen, fallen[ranks], side="right")
    positive = int(label.sum())
    in_runs = np.cumsum(label[order])[chosen - 1]
    runs = [ranges(one.astype(np.bool_)) for one in labels]
    areas = np.empty(buffer + 1)
    for length in range(buffer + 1):
        weight = np.concatenate([extend(one.astype(np.bool_), own, length) for one, own in zip(labels, runs)])
        found = np.cumsum(weight[order])[chosen - 1]
        # The rows that count as positive: those of the runs and the part of the buffers that is detected; half of
        # what that adds goes into the denominator of the recall.
        positives = (positive + positive + found - in_runs) / 2
        recall = np.minimum(found / positives, 1) * _existence(scores, runs, length // 2, cuts)
        areas[length] = np.sum(np.diff(recall, prepend=0.0) * found / chosen)
    return float(areas.mean())


def _existence(scores: Sequence[Floats], runs: list[list[tuple[int, int]]], half: int, cuts: Floats) -> Floats:
    """Share of the anomalies, buffers included and merged where they touch, with a score of at least each cut."""
    highest = []
    for score, own in zip(scores, runs):
        merged: list[list[int]] = []
        for first, last in own:
            if merged and merged[-1][1] + half >= first - half:
                merged[-1][1] = last
            else:
                merged.append([first, last])
        highest += [score[max(first - half, 0) : last + half + 1].max() for first, last in merged]
    return 1 - np.searchsorted(np.sort(highest), cuts, side="left") / len(highest)


def mean_vus_pr(
    scores: Sequence[Floats], labels: Sequence[Labels], buffer: int = BUFFER, thresholds: int | None = THRESHOLDS
) -> float:
    """Mean of the VUS-PR of each series that has an anomaly: each has thresholds of its own, as in TSB-AD's tables.

    Raises:
        ValueError: As in `vus_pr`.
    """
    pairs = [(score, label) for score, label in zip(scores, labels, strict=True) if label.any()]
    if not pairs:
        return vus_pr(scores, labels, buffer, thresholds)
    return float(np.mean([vus_pr([score], [label], buffer, thresholds) for score, label in pairs]))
