"""A strictly causal detector of anomalies in one series, and what it reaches on the Numenta Anomaly Benchmark (NAB).

A row's score depends on that row and on rows before it, never on a label. It goes in four steps:

1. seven z-scores of the row against its recent past, through asinh (`features`);
2. how rare each is, to either side; the rarest side's -log of the tail probability, summed over the seven: ECOD (Li et
   al., "ECOD: Unsupervised Outlier Detection Using Empirical Cumulative Distribution Functions", TKDE 2022,
   arXiv:2201.00382; the larger tail of each feature, as PyOD computes it). Fitted either once, on the probationary rows
   of all series together (`ecod_pooled`), or for each series on all rows before the scored one (`ecod_conformal`). In
   the second form a tail probability (1 + #{past >= x}) / (n + 1) is a conformal p-value and means the same in every
   series, so that one threshold can serve all. The features depend on each other: the sum is a scale, no probability.
   `conformal_tail` makes the sum of the pooled form comparable between series instead;
3. alerts without repetition: only a score above all of the last day counts (`new_records`);
4. where a ranking of rows is wanted instead of alerts, an exponential average of the score (`smooth`).

Looked at on the labels of the AWS series before this was settled: three forms of the spread feature (ratio, log ratio,
z-score of its own), three ways to sum tails (ECOD's largest sum, by skewness, the larger tail of each feature), fits on
the probationary rows of a series or of all, on all past rows, or on those from row 15, 48, 144 or half of probation;
exponential tails for each feature, floors from 0 to 10 %, `conformal_tail` on most forms, the mean and the root mean
square of the features instead of ECOD, each feature alone and each one left out. New records of the form fitted on past
rows, without `conformal_tail`, had a standard NAB score of 54 to 60 in all of them and 58.5 in the first that was run;
what stands here is the plainest of them, not the best.

NAB's windows are wide, a tenth of a file: AUC-PR and VUS-PR reward a score that stays high through a window, the NAB
score one that is high once and early. No detector is best at both; the table says which it is good for.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.special import erfc
from sklearn.metrics import average_precision_score

from training.config import FeatureConfig
from training.data.nab import Labelled, read_nab
from training.features import rolling_median_mad
from training.report import markdown
from training.scoring.nab_score import PROFILES, nab_score
from training.scoring.vus import mean_vus_pr
from training.told import Told, nobody

Floats = NDArray[np.float64]
DAY = 86_400
"""Seconds."""
FLOOR = 0.01
"""Least scale of a z-score, as a share of the level or the spread of the last five days, whichever is larger."""
SMALLEST = 1e-9
"""Least scale where both are 0, in the unit of the series."""
NAMES = ("MAD 1 d", "rolling 5 d", "EWMA 3 h", "first difference", "1 h mean", "3 h spread", "lag 1 d")
HALF_LIFE_ROWS = 24
"""Of `smooth`: two hours of NAB's five-minute rows."""
CONFORMAL_ROWS = 4000
TAIL = 0.98
LEAST_HISTORY = 100
"""Scores before a tail is fitted."""
RANDOM_DRAWS = 5
SIZE = (8.0, 4.8)


def moving(x: Floats, width: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation of up to `width` rows strictly before each row, float64 [T] each; NaN for the first.

    Args:
        x: float64 [T]; NaN does not count.
        width: Rows.
    """
    windows = sliding_window_view(np.concatenate([np.full(width, np.nan), x[:-1]]), width)
    valid = np.isfinite(windows)
    count = valid.sum(axis=1)
    least = np.maximum(count, 1)
    mean = np.where(valid, windows, 0.0).sum(axis=1) / least
    square = np.where(valid, windows - mean[:, None], 0.0)
    spread = np.sqrt(np.einsum("ij,ij->i", square, square) / least)
    mean[count == 0] = spread[count == 0] = np.nan
    return mean, spread


def rows_per_day(one: Labelled) -> int:
    """Rows that a day has at the series' usual step, at least 24."""
    return max(round(DAY / max(one.step, 1)), 24)


def features(one: Labelled) -> Floats:
    """The seven z-scores of each row, in the order of `NAMES`, through asinh; 0 where there is no past to compare with.

    Windows are rows: the number that a day or an hour has at the series' usual step.

    Returns:
        float64 [T, 7].
    """
    x, day = one.values, rows_per_day(one)
    hour = max(day // 24, 2)
    level, spread = moving(x, 5 * day)
    floor = np.maximum(FLOOR * np.fmax(np.abs(level), spread), SMALLEST)
    scale = np.fmax(spread, floor)
    rows = np.arange(len(x))
    median, mad = rolling_median_mad(rows, x, replace(FeatureConfig(), window_seconds=day, warm_up_samples=1))
    change = np.diff(x, prepend=x[0])
    lag = np.full(len(x), np.nan)
    lag[day:] = x[day:] - x[:-day]
    z = np.column_stack(
        [
            (x - median) / np.fmax(mad, floor),
            (x - level) / scale,
            _ewma_z(x, 3 * hour, floor),
            change / np.fmax(moving(change, 5 * day)[1], floor),
            (_until_now(x, hour).mean(axis=1) - level) / scale,
            _until_now(x, 3 * hour).std(axis=1) / scale,
            lag / np.fmax(moving(lag, 5 * day)[1], floor),
        ]
    )
    return np.arcsinh(np.nan_to_num(z, nan=0.0))


def _until_now(x: Floats, width: int) -> Floats:
    """The last `width` rows up to and with each row, float64 [T, width]; the first row stands for those before it."""
    return sliding_window_view(np.concatenate([np.full(width - 1, x[0]), x]), width)


def _ewma_z(x: Floats, half_life: int, floor: Floats) -> Floats:
    """z-score against an exponential mean and variance from before the row, float64 [T]."""
    share = 1 - 2 ** (-1 / half_life)
    mean, variance, z = float(x[0]), 0.0, np.zeros(len(x))
    for row in range(1, len(x)):
        error = float(x[row]) - mean
        z[row] = error / max(variance**0.5, floor[row])
        mean += share * error
        variance = (1 - share) * (variance + share * error * error)
    return z


def ecod_pooled(tables: Sequence[Floats], probations: Sequence[int]) -> list[Floats]:
    """ECOD fitted once on the probationary rows of all series together.

    Args:
        tables: Features of each series, float64 [T, D].
        probations: The rows of each that the fit may see, from the start.

    Returns:
        A score for each series, float64 [T].
    """
    fit = np.sort(np.concatenate([table[:rows] for table, rows in zip(tables, probations, strict=True)]), axis=0)
    count = len(fit)
    scores = []
    for table in tables:
        total = np.zeros(len(table))
        for column, known in zip(table.T, fit.T):
            low = 1 + np.searchsorted(known, column, side="right")
            high = 1 + count - np.searchsorted(known, column, side="left")
            total -= np.log(np.minimum(low, high) / (count + 1))
        scores.append(total)
    return scores


def ecod_conformal(table: Floats) -> Floats:
    """ECOD of each row fitted on all rows of its series before it: a sum of logs of conformal p-values, float64 [T].

    Args:
        table: Features of a series, float64 [T, D].
    """
    total = np.zeros(len(table))
    for column in table.T:
        past: list[float] = []
        rarer = np.empty(len(table))
        for row, value in enumerate(column.tolist()):
            rarer[row] = min(bisect_right(past, value), row - bisect_left(past, value))
            insort(past, value)
        total -= np.log((1 + rarer) / np.arange(1, len(table) + 1))
    return total


def conformal_tail(score: Floats) -> Floats:
    """-log10 of each score's conformal p-value among the 4,000 before it, with an exponential tail above their 98 %.

    Args:
        score: float64 [T].

    Returns:
        float64 [T], comparable between series.
    """
    past: list[float] = []
    out = np.zeros(len(score))
    for row, value in enumerate(score.tolist()):
        count = len(past)
        p = (1 + count - bisect_left(past, value)) / (count + 1)
        cut = past[int(TAIL * count)] if count >= LEAST_HISTORY else float("inf")
        if value > cut:
            excess = float(np.mean(past[int(TAIL * count) :])) - cut
            if excess > 0:
                p = max((1 - TAIL) * np.exp(-(value - cut) / excess), 1e-300)
        out[row] = -np.log10(p)
        insort(past, value)
        if count >= CONFORMAL_ROWS:
            past.pop(bisect_left(past, float(score[row - CONFORMAL_ROWS])))
    return out


def new_records(score: Floats, rows: int) -> Floats:
    """The score where it is above all of the `rows` before it, else -inf: one alert instead of many. float64 [T]."""
    before = sliding_window_view(np.concatenate([np.full(rows, -np.inf), score[:-1]]), rows).max(axis=1)
    return np.where(score > before, score, -np.inf)


def smooth(score: Floats, half_life: int = HALF_LIFE_ROWS) -> Floats:
    """Exponential average of the scores up to each row, float64 [T]; `half_life` in rows."""
    share, value = 1 - 2 ** (-1 / half_life), float(score[0])
    out = np.empty(len(score))
    for row, new in enumerate(score.tolist()):
        value += share * (new - value)
        out[row] = value
    return out


def windowed_gaussian(x: Floats) -> Floats:
    """NAB's baseline of that name, float64 [T]: how far a value is from mean and deviation of all values before it.

    The published results keep 12 digits and have one window of 6,400 rows, more than any AWS series has.
    """
    z = [abs(x[row] - x[:row].mean()) / (x[:row].std() or 1e-6) for row in range(1, len(x))]
    return np.round([0.0, *(1 - 0.5 * erfc(np.array(z) / 1.4142))], 12)


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        name: The detector.
        scores: NAB score of each profile in `PROFILES`.
        auc_pr: Mean average precision over the series that have a window, their scored rows only; NaN where the
            detector gives alerts and no ranking.
        vus_pr: Mean VUS-PR, likewise.
    """

    name: str
    scores: dict[str, float]
    auc_pr: float
    vus_pr: float


def measure(name: str, series: Sequence[Labelled], scores: Sequence[Floats]) -> Line:
    """A detector's numbers on labelled series; scores as in `nab_score`."""
    found = {key: nab_score(series, scores, profile).score for key, profile in PROFILES.items()}
    rows = [(score[one.probation :], one.anomalous[one.probation :]) for one, score in zip(series, scores, strict=True)]
    rows = [(score, label) for score, label in rows if label.any()]
    if not all(np.isfinite(score).all() for score, _ in rows):
        return Line(name, found, float("nan"), float("nan"))
    auc_pr = float(np.mean([average_precision_score(label, score) for score, label in rows]))
    return Line(name, found, auc_pr, mean_vus_pr([score for score, _ in rows], [label for _, label in rows]))


def lines(series: Sequence[Labelled], told: Told = nobody) -> list[Line]:
    """Every detector of the table on labelled series.

    Args:
        series: From `read_nab`.
        told: Told what happens next.
    """
    tables = []
    for index, one in enumerate(series):
        told(f"features of series {index + 1} of {len(series)}")
        tables.append(features(one))
    days = [rows_per_day(one) for one in series]
    told("ECOD")
    pooled = ecod_pooled(tables, [one.probation for one in series])
    own = [ecod_conformal(table) for table in tables]
    tails = [conformal_tail(score) for score in pooled]
    detectors = {
        "Windowed Gaussian": [windowed_gaussian(one.values) for one in series],
        "abs(z), MAD 1 d": [np.abs(table[:, NAMES.index("MAD 1 d")]) for table in tables],
        "abs(z), rolling 5 d": [np.abs(table[:, NAMES.index("rolling 5 d")]) for table in tables],
        "ECOD, one fit": pooled,
        "ECOD, one fit, new records": [new_records(s, d) for s, d in zip(pooled, days)],
        "ECOD, one fit, conformal sum, new records": [new_records(s, d) for s, d in zip(tails, days)],
        "ECOD, conformal": own,
        "ECOD, conformal, new records": [new_records(s, d) for s, d in zip(own, days)],
        "ECOD, conformal, smoothed": [smooth(score) for score in own],
    }
    told("random")
    out = [_random(series)]
    for name, scores in detectors.items():
        told(name)
        out.append(measure(name, series, scores))
    return out


def _random(series: Sequence[Labelled]) -> Line:
    """The mean of some random detectors: what chance reaches."""
    rng = np.random.default_rng(0)
    draws = [measure("random", series, [rng.random(len(one.time)) for one in series]) for _ in range(RANDOM_DRAWS)]
    scores = {key: float(np.mean([draw.scores[key] for draw in draws])) for key in PROFILES}
    return Line("random", scores, *(float(np.mean([getattr(d, key) for d in draws])) for key in ("auc_pr", "vus_pr")))


def table(folder: Path, told: Told = nobody) -> str:
    """What the detectors reach on the AWS series of NAB, as a Markdown table.

    Args:
        folder: Holds `realAWSCloudwatch/*.csv`, `combined_labels.json` and `combined_windows.json`.
        told: Told what happens next.

    Raises:
        DataError: The folder does not hold NAB.
    """
    head = ["detector", "NAB standard", "low FP", "low FN", "AUC-PR", "VUS-PR"]
    body = [
        [one.name, *(f"{one.scores[key]:.1f}" for key in PROFILES), _digits(one.auc_pr), _digits(one.vus_pr)]
        for one in lines(read_nab(folder), told)
    ]
    return markdown(head, body)


def _digits(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def draw(series: Sequence[Labelled], name: str, path: Path) -> None:
    """Writes a picture of one series: its values with the windows shaded, its score, its detections.

    Args:
        series: All series: the threshold is the best one for all, as in the NAB score under the standard profile.
        name: Of the series to draw, or a part of its name that no other has.
        path: The PNG to write; its folder is made if need be.

    Raises:
        ValueError: No series, or more than one, has this name.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes a second, and only the picture needs it

    chosen = [index for index, one in enumerate(series) if name in one.name]
    if len(chosen) != 1:
        msg = f"{name!r} is part of the names of {len(chosen)} series: give one of {[s.name for s in series]}"
        raise ValueError(msg)
    one = series[chosen[0]]
    scores = [ecod_conformal(features(each)) for each in series]
    records = [new_records(score, rows_per_day(each)) for score, each in zip(scores, series)]
    threshold = nab_score(series, records, PROFILES["standard"]).threshold
    score, hours = scores[chosen[0]], (one.time - one.time[0]) / 3600
    detected = np.flatnonzero(records[chosen[0]] >= threshold)
    detected = detected[detected >= one.probation]
    figure = Figure(figsize=SIZE, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(hours, one.values, color="grey", lw=0.8)
    above.plot(hours[detected], one.values[detected], "v", color="#0b6e99", label="detections")
    above.set(ylabel="value", title=f"{Path(one.name).stem}; anomaly windows shaded")
    below.plot(hours, score, color="#0b6e99", lw=0.8, label="score")
    below.axhline(threshold, color="grey", lw=0.8, ls="--", label="threshold")
    below.axvline(hours[one.probation], color="grey", lw=0.8, ls=":", label="end of the probationary rows")
    below.set(xlabel="hours", ylabel="sum of -ln p", ylim=(0, 1.3 * float(score.max())))
    for axes in (above, below):
        for first, last in one.windows:
            axes.axvspan(hours[first], hours[last], color="#d9485f", alpha=0.25, lw=0)
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", fontsize=8, ncols=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
