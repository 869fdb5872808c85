"""The statistics of the verdict, by numpy and scipy from their formulas: cases as JSON in, numbers as JSON out."""

import json
import sys
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, betaln, gammaln, logsumexp, xlogy

PARTS = 2.0**24


def mcnemar(right: int, wrong: int) -> float:
    """The logarithm of E, of the challenger being better, from discordant pairs."""
    c, b = right + 0.5, wrong + 0.5
    beyond_half = np.log(betainc(b, c, 0.5))
    return betaln(c, b) + beyond_half - betaln(0.5, 0.5) - np.log(0.5) + (right + wrong) * np.log(2)


def above(events: int, trials: int, limit: float) -> float:
    """The logarithm of E, of an event being more frequent than the limit."""
    logits = np.linspace(np.log(limit / (1 - limit)), np.log(0.999 / 0.001), 65)[1:]
    p = 1 / (1 + np.exp(-logits))
    ratios = xlogy(events, p / limit) + xlogy(trials - events, (1 - p) / (1 - limit))
    return logsumexp(ratios) - np.log(64)


def differs(counts: list[int], probabilities: list[float], kappa: float) -> float:
    """The logarithm of E, of counts not being drawn with the probabilities."""
    c, p = np.array(counts, float), np.array(probabilities)
    dirichlet = gammaln(kappa) - gammaln(kappa + c.sum()) + np.sum(gammaln(kappa * p + c) - gammaln(kappa * p))
    return dirichlet - np.sum(xlogy(c, p))


def below(events: int, trials: int, limit: float) -> float:
    """The logarithm of E, of an event being rarer than the limit."""
    logits = np.linspace(np.log(1e-6 / (1 - 1e-6)), np.log(limit / (1 - limit)), 65)[:-1]
    p = 1 / (1 + np.exp(-logits))
    ratios = xlogy(events, p / limit) + xlogy(trials - events, (1 - p) / (1 - limit))
    return logsumexp(ratios) - np.log(64)


def ratio(alarms: list[int], limit: float) -> list[float]:
    """The logarithms of E, of the challenger giving more, and fewer, alarms than `limit` times the champion's.

    `alarms` are trials of both, the champion alone, the challenger alone.
    """
    gains = np.array([1 - limit, -limit, 1])
    stakes = (np.arange(64) + 0.5) / 64 / max(limit, 1)
    wealth = [np.log1p(np.outer(sign * stakes, gains)) @ np.array(alarms) for sign in (1, -1)]
    return [logsumexp(each) - np.log(64) for each in wealth]


def averaged(values: list[float]) -> float:
    """The logarithm of the mean of e-values."""
    return np.log(np.mean(np.exp(values)))


def means(pairs: list[list[float]], least: int, now: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each bucket, the mean difference and the champion's mean loss, from (seconds, both losses)."""
    buckets = defaultdict(list)
    for seconds, champion, challenger in pairs:
        losses = np.round(np.clip([champion, challenger], 0, 50) * PARTS) / PARTS
        buckets[int(seconds) // 600].append(losses)
    counted = [np.array(buckets[b]) for b in sorted(buckets) if b < now // 600 and len(buckets[b]) >= least]
    d = np.array([(bucket[:, 0] - bucket[:, 1]).mean() for bucket in counted])
    return d, np.array([bucket[:, 0].mean() for bucket in counted])


def autoregression(d: np.ndarray, m: int) -> float:
    """The long-run variance, if the means of m buckets each are an autoregression of order one."""
    n = len(d) // m
    if n < (2 if m == 1 else 8):
        return 0
    x = d[: n * m].reshape(n, m).mean(axis=1)
    c = x - x.mean()
    r = np.sum(c[1:] * c[:-1]) / (n - 1) / x.var()
    r = np.clip(r + (1 + 3 * r) / n, 0, 0.9)
    return m * x.var() * (1 + r) / (1 - r)


def spread(d: np.ndarray, champion: np.ndarray) -> tuple[float, float]:
    """The variance beyond the share of the champion's loss, and the long-run variance: the greatest of several."""
    k, scale = len(d), max(champion.mean(), 1 / PARTS)
    left = d - d.mean() / scale * champion
    c = left - left.mean()
    lags = min(k // 4, 144)
    bartlett = np.sum(c * c) / k
    bartlett += 2 * sum((1 - lag / (lags + 1)) * np.sum(c[lag:] * c[:-lag]) / k for lag in range(1, lags + 1))
    greatest = max(c.var(), bartlett, *(autoregression(left, m) for m in (1, 6, 18, 36, 72, 144)))
    return c.var(), 1.25 * greatest / (1 - champion.max() / (k * scale)) ** 2


def radius(variance: float, k: int, alpha: float) -> float:
    """Half the width of the interval of k buckets."""
    rho2 = (-2 * np.log(2 * alpha) + np.log(-2 * np.log(2 * alpha) + 1)) / 300
    width = np.sqrt(2 * (k * rho2 + 1) / (k**2 * rho2) * np.log(1 + np.sqrt(k * rho2 + 1) / (2 * alpha)))
    return np.sqrt(variance) * width


class Found(NamedTuple):
    """What bounds are made of."""

    mean: float
    greatest: float
    scale: float
    variance: float
    long_run: float


def found(d: np.ndarray, champion: np.ndarray) -> Found:
    """What is known of these buckets."""
    return Found(d.mean(), np.abs(d).max(), max(champion.mean(), 1 / PARTS), *spread(d, champion))


def bound(of: Found, k: int, alpha: float, sign: int) -> float:
    """A bound after k buckets like these, and one more that was not seen yet."""
    unseen = sign * max(4 * of.scale, of.greatest)
    mean = (k * of.mean + unseen) / (k + 1)
    variance = of.long_run * k / (k + 1) + k / (k + 1) ** 2 * (unseen - of.mean) ** 2
    return (mean + sign * radius(variance, k + 1, alpha)) / of.scale


def bounds(d: np.ndarray, champion: np.ndarray, alpha: float) -> list[float]:
    """Mean, lower and upper bound as shares of the champion's loss."""
    of = found(d, champion)
    return [of.mean / of.scale, *(bound(of, len(d), alpha, sign) for sign in (-1, 1))]


def improvement(pairs: list[list[float]], least: int, now: int, alpha: float) -> list[float]:
    """Mean, lower and upper bound of the relative improvement, and the lower one of what was seen."""
    d, champion = means(pairs, least, now)
    of = found(d, champion)
    seen = (of.mean - radius(of.long_run, len(d), alpha)) / of.scale
    return [*bounds(d, champion, alpha), seen]


def band(pairs: list[list[float]], least: int, now: int, alpha: float) -> list[float]:
    """The same after each bucket, a hundred of them."""
    d, champion = means(pairs, least, now)
    n = len(d) - 1
    chosen = [k for k in range(1, n + 1) if k * min(n, 100) // n > (k - 1) * min(n, 100) // n]
    return [bound for k in chosen for bound in bounds(d[: k + 1], champion[: k + 1], alpha)]


def more(pairs: list[list[float]], least: int, now: int, alpha: float, share: float) -> int:
    """Buckets until the lower bound passes, one after the other; -1 if that takes more than two weeks have."""
    d, champion = means(pairs, least, now)
    of = found(d, champion)
    k, effective = len(d) + 1, of.variance / of.long_run
    while k < 50 or k * effective < 15 or bound(of, k, alpha, -1) <= share:
        k += 1
        if k > 14 * 144:
            return -1
    return k - len(d)


def rank(series: int, slot: int) -> int:
    """The hash by which a series is drawn from a slot: SplitMix64 of the slot, mixed with the series."""
    return mix(mix(slot) ^ series) >> 11


def mix(n: int) -> int:
    """The finalizer of SplitMix64."""
    mask = 2**64 - 1
    n = (n + 0x9E3779B97F4A7C15) & mask
    n = ((n ^ n >> 30) * 0xBF58476D1CE4E5B9) & mask
    n = ((n ^ n >> 27) * 0x94D049BB133111EB) & mask
    return n ^ n >> 31


def chance(row: tuple) -> int:
    """The hash by which a row is drawn from those of its series."""
    return mix(rank(row[1], row[2] // 1800) ^ row[2]) >> 50


def first(rows: list[tuple]) -> list[tuple]:
    """Of some rows of a slot, those of the series that is drawn from it."""
    drawn = min((row[1] for row in rows), key=lambda series: rank(series, rows[0][2] // 1800), default=None)
    return [row for row in rows if row[1] == drawn]


def raised(slot: list[tuple]) -> list[int]:
    """Of one slot: both, the champion, the challenger alone; the champion's first given or missed."""
    drawn = first([row for row in slot if row[3] or row[4]])
    chosen = min(drawn, key=lambda row: (chance(row), row[3] + 2 * row[4]), default=(0, 0, 0, False, False))
    champion, challenger = chosen[3], chosen[4]
    alarms = first([row for row in slot if row[3]])
    at = min((row[2] for row in alarms), default=None)
    given = all(row[4] for row in alarms if row[2] == at)
    return [
        int(champion and challenger),
        int(champion and not challenger),
        int(challenger and not champion),
        int(bool(alarms) and given),
        int(bool(alarms) and not given),
    ]


def told(slot: list[tuple], said: dict, kind: tuple[int, bool]) -> list[int]:
    """Of one slot: the challenger alone right or wrong, and whether both are right on any."""
    source, truth = kind
    labelled = [row for row in slot if said.get((row[0], source)) is truth]
    marked = first([row for row in labelled if row[3] != row[4]])
    at = min((row[2] for row in marked), default=None)
    right = all(row[4] == truth for row in marked if row[2] == at)
    both = any(row[3] == truth and row[4] == truth for row in labelled)
    return [int(bool(marked) and right), int(bool(marked) and not right), int(both)]


def draws(rows: list[list], labels: list[list]) -> list[int]:
    """Alarms and labels, one draw a half hour, from all rows and who labelled them how."""
    slots = defaultdict(list)
    for row in rows:
        slots[row[2] // 1800].append(row)
    said = {}
    for name, source, anomaly in labels:
        said.setdefault((name, source), anomaly)
    kinds = [(source, truth) for source in range(4) for truth in (True, False)]
    counts = [raised(h) + [n for kind in kinds for n in told(h, said, kind)] for h in slots.values()]
    return np.sum(counts, axis=0).tolist()


def scores(champion: list[float], challenger: list[float]) -> list[float]:
    """PSI of the scores, in bins of their logits, or of their inverse hyperbolic sines outside of 0 to 1.

    The other two distances are of those inside.
    """

    def binned(values: list[float]) -> np.ndarray:
        x = np.array(values)
        inside = (x >= 0) & (x <= 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            space = np.where(inside, np.log(x / (1 - x)), np.arcsinh(x))
        bins = np.clip(np.floor((space + 8) * 4), 0, 63).astype(int) + np.where(inside, 0, 64)
        return np.bincount(bins, minlength=128)

    a, b = binned(champion), binned(challenger)
    return [distances(a, b, 1.0)[0], *distances(a[:64], b[:64], 0.25)[1:]]


def drift(entry: dict, values: list[float | None]) -> list[float]:
    """The logarithm of E, and PSI, of values against a manifest's reference; None is missing."""
    present = np.array([value for value in values if value is not None])
    bins = np.searchsorted(entry["edges"][1:-1], present, side="right")
    counts = np.append(np.bincount(bins, minlength=len(entry["p"])), len(values) - len(present))
    n, m = entry["n"], len(values)
    missing = (entry["p_missing"] * n + 0.5) / (n + 1)
    p = np.append(np.array(entry["p"]) / sum(entry["p"]) * (1 - missing), missing)
    a = (p * n + 0.5) / (n + 0.5 * len(p))
    b = (counts + 0.5) / (m + 0.5 * len(p))
    used = np.sum((counts > 0) | (p * n >= 1))
    return [differs(counts, p, 100), np.sum((b - a) * np.log(b / a)) - (used - 1) * (1 / n + 1 / m)]


def quantiles(values: list[float], shares: list[float]) -> list[float]:
    """Quantiles of all values."""
    return np.quantile(values, shares, method="lower").tolist()


def distances(a: list[int], b: list[int], width: float) -> list[float]:
    """PSI without its noise, Kolmogorov-Smirnov and Wasserstein distance of two histograms."""
    a, b = np.array(a, float), np.array(b, float)
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    psi = np.sum((q - p) * np.log(q / p)) - (np.sum(a + b > 0) - 1) * (1 / a.sum() + 1 / b.sum())
    gaps = np.abs(np.cumsum(a / a.sum()) - np.cumsum(b / b.sum()))
    return [psi, gaps.max(), gaps.sum() * width]


def main() -> None:
    """Answers each case."""
    cases = json.load(sys.stdin)
    several = (improvement, band, more, draws, scores, drift, quantiles, distances)
    functions = {f.__name__: f for f in (mcnemar, above, below, ratio, averaged, differs, *several)}
    answers = []
    for case in cases:
        answer = functions[case["function"]](*case["arguments"])
        answers.append([float(value) for value in np.atleast_1d(answer)])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
