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


def improvement(pairs: list[list[float]], least: int, now: int, alpha: float) -> list[float] | None:
    """Mean, lower and upper bound of the relative improvement, from (seconds, champion's loss, challenger's loss)."""
    buckets = defaultdict(list)
    for seconds, champion, challenger in pairs:
        losses = np.round(np.clip([champion, challenger], 0, 50) * PARTS) / PARTS
        buckets[int(seconds) // 600].append(losses)
    counted = [np.array(buckets[b]) for b in sorted(buckets) if b < now // 600 and len(buckets[b]) >= least]
    if not counted:
        return None
    d = np.array([(bucket[:, 0] - bucket[:, 1]).mean() for bucket in counted])
    scale = max(np.mean([bucket[:, 0].mean() for bucket in counted]), 1 / PARTS)
    k, m, v = len(d), d.mean(), d.var()
    correlation = np.clip(np.sum((d[1:] - m) * (d[:-1] - m)) / (k - 1) / v, 0, 0.9)
    v *= (1 + correlation) / (1 - correlation)
    rho2 = (-2 * np.log(2 * alpha) + np.log(-2 * np.log(2 * alpha) + 1)) / 300
    radius = np.sqrt(v)
    radius *= np.sqrt(2 * (k * rho2 + 1) / (k**2 * rho2) * np.log(1 + np.sqrt(k * rho2 + 1) / (2 * alpha)))
    return [m / scale, (m - radius) / scale, (m + radius) / scale]


def distances(a: list[int], b: list[int], width: float) -> list[float]:
    """PSI without its noise, Kolmogorov-Smirnov and Wasserstein distance of two histograms."""
    a, b = np.array(a, float), np.array(b, float)
    p, q = (a + 0.5) / (a + 0.5).sum(), (b + 0.5) / (b + 0.5).sum()
    psi = np.sum((q - p) * np.log(q / p)) - (len(a) - 1) * (1 / a.sum() + 1 / b.sum())
    gaps = np.abs(np.cumsum(a / a.sum()) - np.cumsum(b / b.sum()))
    return [psi, gaps.max(), gaps.sum() * width]


def main() -> None:
    """Answers each case."""
    cases = json.load(sys.stdin)
    functions = {f.__name__: f for f in (mcnemar, above, differs, improvement, distances)}
    answers = []
    for case in cases:
        answer = functions[case["function"]](*case["arguments"])
        answers.append([float(value) for value in np.atleast_1d(answer)])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
