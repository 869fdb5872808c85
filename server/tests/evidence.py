"""The statistics of the verdict, by numpy and scipy from their formulas: cases as JSON in, numbers as JSON out."""

import json
import sys
from collections import defaultdict

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


def spread(d: np.ndarray) -> float:
    """The variance, inflated as in an autoregression."""
    correlation = np.clip(np.sum((d[1:] - d.mean()) * (d[:-1] - d.mean())) / (len(d) - 1) / d.var(), 0, 0.9)
    return d.var() * (1 + correlation) / (1 - correlation)


def radius(variance: float, k: int, alpha: float) -> float:
    """Half the width of the interval of k buckets."""
    rho2 = (-2 * np.log(2 * alpha) + np.log(-2 * np.log(2 * alpha) + 1)) / 300
    width = np.sqrt(2 * (k * rho2 + 1) / (k**2 * rho2) * np.log(1 + np.sqrt(k * rho2 + 1) / (2 * alpha)))
    return np.sqrt(variance) * width


def bounds(d: np.ndarray, champion: np.ndarray, alpha: float) -> list[float]:
    """Mean, lower and upper bound as shares of the champion's loss."""
    scale, half = max(champion.mean(), 1 / PARTS), radius(spread(d), len(d), alpha)
    return [d.mean() / scale, (d.mean() - half) / scale, (d.mean() + half) / scale]


def improvement(pairs: list[list[float]], least: int, now: int, alpha: float) -> list[float]:
    """Mean, lower and upper bound of the relative improvement."""
    return bounds(*means(pairs, least, now), alpha)


def band(pairs: list[list[float]], least: int, now: int, alpha: float) -> list[float]:
    """The same after each bucket, a hundred of them."""
    d, champion = means(pairs, least, now)
    n = len(d) - 1
    chosen = [k for k in range(1, n + 1) if k * min(n, 100) // n > (k - 1) * min(n, 100) // n]
    return [bound for k in chosen for bound in bounds(d[: k + 1], champion[: k + 1], alpha)]


def more(pairs: list[list[float]], least: int, now: int, alpha: float, share: float) -> int:
    """Buckets until the lower bound passes, one after the other."""
    d, champion = means(pairs, least, now)
    k = len(d) + 1
    while k < 50 or d.mean() - radius(spread(d), k, alpha) <= share * champion.mean():
        k += 1
    return k - len(d)


def raised(group: list[tuple]) -> list[int]:
    """Of one draw: both, the champion, the challenger alone; the champion's first given or missed."""
    champion, challenger = any(row[2] for row in group), any(row[3] for row in group)
    if not champion:
        return [0, 0, int(challenger), 0, 0]
    first = min(at for at, _, alarm, _ in group if alarm)
    given = all(row[3] for row in group if row[0] == first and row[2])
    return [int(challenger), int(not challenger), 0, int(given), int(not given)]


def told(group: list[tuple], said: dict, kind: tuple[int, bool]) -> list[int]:
    """Of one draw: the challenger alone right or wrong on its first labelled row on which only one is right."""
    source, truth = kind
    marked = [row for row in group if said.get((row[1], source)) is truth and row[2] != row[3]]
    if not marked:
        return [0, 0]
    first = min(row[0] for row in marked)
    right = all(row[3] == truth for row in marked if row[0] == first)
    return [int(right), int(not right)]


def draws(rows: list[list], labels: list[list]) -> list[int]:
    """Alarms and discordant labels, one draw of each series and bucket, from all rows and who labelled them how."""
    groups = defaultdict(list)
    for name, series, at, champion, challenger in rows:
        groups[series, at // 600].append((at, name, champion, challenger))
    said = {}
    for name, source, anomaly in labels:
        said.setdefault((name, source), anomaly)
    kinds = [(source, truth) for source in range(4) for truth in (True, False)]
    counts = [raised(g) + [n for kind in kinds for n in told(g, said, kind)] for g in groups.values()]
    return np.sum(counts, axis=0).tolist()


def scores(champion: list[float], challenger: list[float]) -> float:
    """PSI of the scores, in bins of their logits, or of their inverse hyperbolic sines outside of 0 to 1."""

    def binned(values: list[float]) -> np.ndarray:
        x = np.array(values)
        inside = (x >= 0) & (x <= 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            space = np.where(inside, np.log(x / (1 - x)), np.arcsinh(x))
        bins = np.clip(np.floor((space + 8) * 4), 0, 63).astype(int) + np.where(inside, 0, 64)
        return np.bincount(bins, minlength=128)

    return distances(binned(champion), binned(challenger), 1.0)[0]


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
    functions = {f.__name__: f for f in (mcnemar, above, below, averaged, differs, *several)}
    answers = []
    for case in cases:
        answer = functions[case["function"]](*case["arguments"])
        answers.append([float(value) for value in np.atleast_1d(answer)])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
