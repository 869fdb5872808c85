"""The score of the Numenta Anomaly Benchmark (NAB) by its own rules.

Lavin & Ahmad, "Evaluating Real-time Anomaly Detection Algorithms", ICMLA 2015, arXiv:1510.03336, section II; details
as in github.com/numenta/NAB (`nab/sweeper.py`, `nab/runner.py`, `config/profiles.json`):

- a detection in a window earns `A_tp * sigma(y) / sigma(-1)`, where `sigma(y) = 2 / (1 + exp(5 y)) - 1` and y runs from
  -1 at the window's first row to just below 0 at its last; only the best one of a window counts;
- a window without a detection costs `A_fn`;
- a detection outside costs `A_fp * -sigma(y)`, y the rows since the window before it in units of that window's width:
  cheap right after a window, `A_fp` in full from 3 widths on or where no window came before;
- nothing in the probationary rows counts;
- one threshold for all series, the best one on the very rows that are scored, for every detector and profile alike;
- the sum is put on a scale where a detector without detections has 0 and a perfect one 100.

The threshold makes the score an upper bound of what a detector could do with its threshold fixed beforehand: compare it
with other NAB scores only. No point-adjusted F1 here: it flatters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.nab import Labelled

Floats = NDArray[np.float64]
STEEPNESS = 5.0
FAR = 3.0
"""From this many window widths behind a window on a false detection costs all of `A_fp`."""


@dataclass(frozen=True)
class Profile:
    """What a detection is worth: weights of found windows, false detections and missed windows."""

    found: float
    false: float
    missed: float


PROFILES = {
    "standard": Profile(found=1.0, false=0.11, missed=1.0),
    "reward_low_FP_rate": Profile(found=1.0, false=0.22, missed=1.0),
    "reward_low_FN_rate": Profile(found=1.0, false=0.11, missed=2.0),
}
"""The application profiles of NAB's `config/profiles.json`."""


@dataclass(frozen=True)
class NabScore:
    """A detector's score under one profile.

    Attributes:
        score: 0 as good as no detection, 100 perfect, below 0 worse than none.
        raw: The sum of all series before it is put on that scale.
        threshold: Scores of at least this are detections; infinite if none is best.
        found: Windows with a detection.
        windows: All windows.
        false: Detections outside windows.
    """

    score: float
    raw: float
    threshold: float
    found: int
    windows: int
    false: int


def sigma(position: Floats) -> Floats:
    """The scoring function `2 / (1 + exp(5 y)) - 1`, -1 from 3 on; y in widths of the window, 0 at its end."""
    return np.where(position >= FAR, -1.0, 2 / (1 + np.exp(STEEPNESS * np.minimum(position, FAR))) - 1)


def worth(rows: int, windows: Sequence[tuple[int, int]]) -> tuple[Floats, NDArray[np.int64]]:
    """What a detection at each row is worth before weights.

    Args:
        rows: Of the series.
        windows: First and last row of each window, in order.

    Returns:
        worth: float64 [rows], 0 to 1 inside windows, -1 to 0 outside.
        window: int64 [rows], the index of the window that the row lies in, -1 outside.
    """
    row = np.arange(rows)
    value, inside = np.full(rows, -1.0), np.full(rows, -1, dtype=np.int64)
    top = float(sigma(np.array(-1.0)))
    for index, (first, last) in enumerate(windows):
        width = last - first + 1
        after = row > last
        value[after] = sigma((row[after] - last) / (width - 1)) if width > 1 else -1.0
        own = (row >= first) & (row <= last) & (inside < 0)
        value[own] = sigma((row[own] - last - 1) / width) / top
        inside[own] = index
    return value, inside


def nab_score(series: Sequence[Labelled], scores: Sequence[Floats], profile: Profile) -> NabScore:
    """The best score over all thresholds, as NAB computes it for every detector.

    Args:
        series: The labelled series.
        scores: float64 [T] for each, higher where more anomalous. Rows that must never be a detection have -inf.
        profile: The weights.

    Raises:
        ValueError: There is no window to find, or a score array does not fit its series or holds NaN.
    """
    ordered, change, hit, false = _changes(series, scores, profile)
    windows = sum(len(one.windows) for one in series)
    if not windows:
        msg = "the NAB score needs at least one anomaly window"
        raise ValueError(msg)
    nothing = -profile.missed * windows
    # A threshold takes all rows of its score: only the last of equal scores is a candidate.
    last = np.flatnonzero((ordered > -np.inf) & (ordered != np.append(ordered[1:], np.nan)))
    sums = nothing + np.cumsum(change)[last]
    if not len(last) or sums.max() <= nothing:
        return NabScore(0.0, nothing, float("inf"), 0, windows, 0)
    best = int(last[sums.argmax()])
    raw = float(sums.max())
    scaled = 100 * (raw - nothing) / (profile.found * windows - nothing)
    found, wrong = int(hit[: best + 1].sum()), int(false[: best + 1].sum())
    return NabScore(scaled, raw, float(ordered[best]), found, windows, wrong)


def _changes(
    series: Sequence[Labelled], scores: Sequence[Floats], profile: Profile
) -> tuple[Floats, Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """All scored rows by falling score.

    Returns:
        The scores; what the sum gains as each row becomes a detection; whether the row is the first of its window;
        whether it lies in none.
    """
    parts = []
    for one, score in zip(series, scores, strict=True):
        if len(score) != len(one.time) or np.isnan(score).any():
            msg = f"{one.name}: {len(one.time)} scores needed, none of them NaN; {len(score)} given"
            raise ValueError(msg)
        value, window = worth(len(score), one.windows)
        start = one.probation
        value, window, score = value[start:], window[start:], score[start:]  # noqa: PLW2901 - the scored part
        order = np.argsort(-score, kind="stable")
        value, window = value[order], window[order]
        change = np.where(window < 0, profile.false * value, 0.0)
        first = np.zeros(len(value), dtype=np.bool_)
        for index in range(len(one.windows)):
            own = np.flatnonzero(window == index)
            if not len(own):
                continue
            # The best detection so far counts; the first one also takes back the cost of a missed window.
            best = np.maximum.accumulate(profile.found * value[own])
            change[own] = np.diff(best, prepend=-profile.missed)
            first[own[0]] = True
        parts.append((score[order], change, first, window < 0))
    ordered, change, first, false = (np.concatenate([p[i] for p in parts]) for i in range(4))
    order = np.argsort(-ordered, kind="stable")
    return ordered[order], change[order], first[order], false[order]


def raw_at(one: Labelled, score: Floats, threshold: float, profile: Profile) -> float:
    """The raw score of a single series at a given threshold: what NAB's `*_scores.csv` lists for each file."""
    ordered, change, _, _ = _changes([one], [score], profile)
    return -profile.missed * len(one.windows) + float(change[ordered >= threshold].sum())
