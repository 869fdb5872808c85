"""How often an equal challenger is promoted by the interval of docs/verdict-statistics.md, and how soon a better one.

Each of many runs of 14 days is looked at after every ten minutes: `simulate.py [RUNS] [SEED]` prints a line for each
kind of losses. Its formulas are those of server/src/verdict/interval.rs, written again. Arrays have a row for each
bucket and a column for each run; losses are in any unit.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

BUCKETS = 2016
DAY = 144
# Before these, the interval is not used.
BURN_IN, LEAST_EFFECTIVE = 50, 15
# The buckets at which it is narrowest.
NARROWEST = 300
# One route to a promotion, and one of the tests that reject, by default.
ALPHA, ALPHA_REJECT = 0.005, 0.00625
MARGIN = 0.01
BLOCKS = (6, 18, 36, 72, 144)
LEAST_BLOCKS = 8
LAGS = 144


class Found(NamedTuple):
    """What is known after some buckets, of each run."""

    k: int
    mean: Numbers
    scale: Numbers
    variance: Numbers
    long_run: Numbers
    greatest: Numbers

    def bounds(self, alpha: float) -> tuple[Numbers, Numbers]:
        """The lower and the upper bound of the improvement."""
        unseen = np.maximum(4 * self.scale, self.greatest)
        return tuple(self._bound(sign * unseen, alpha) for sign in (-1, 1))

    def _bound(self, unseen: Numbers, alpha: float) -> Numbers:
        mean = (self.k * self.mean + unseen) / (self.k + 1)
        variance = (self.long_run + (unseen - self.mean) ** 2 / (self.k + 1)) * self.k / (self.k + 1)
        return (mean + np.sign(unseen) * radius(variance, self.k + 1, alpha)) / self.scale

    def ready(self) -> Numbers:
        """Whether the bounds are used."""
        return (self.k >= BURN_IN) & (self.k * self.variance >= LEAST_EFFECTIVE * self.long_run)


def radius(variance: Numbers, k: Numbers | int, alpha: float, narrowest: float = NARROWEST) -> Numbers:
    """Half the width of the confidence sequence after k values."""
    two = -2 * np.log(2 * alpha)
    rho2 = (two + np.log(two + 1)) / narrowest
    spread = k * rho2 + 1
    return np.sqrt(variance * 2 * spread / (k * k * rho2) * np.log1p(np.sqrt(spread) / (2 * alpha)))


def autoregression(variance: Numbers, correlation: Numbers, n: int) -> Numbers:
    """The long-run variance of n values that are an autoregression of order one."""
    r = np.clip(correlation + (1 + 3 * correlation) / n, 0, 0.9)
    return variance * (1 + r) / (1 - r)


def after_each(differences: Numbers, champion: Numbers) -> Iterator[Found]:
    """What is known after each bucket from the burn-in on."""
    runs = differences.shape[1]
    sums = [np.concatenate([np.zeros((1, runs)), np.cumsum(x, axis=0)]) for x in (differences, champion)]
    products = np.zeros((3, LAGS + 1, runs))
    for k, (d, c) in enumerate(zip(differences, champion, strict=True), start=1):
        lags = np.arange(min(LAGS, k - 1) + 1)
        before_d, before_c = differences[k - 1 - lags], champion[k - 1 - lags]
        products[:, lags] += np.stack([d * before_d, d * before_c + c * before_d, c * before_c])
        if k < BURN_IN:
            continue
        scale = sums[1][k] / k
        share = sums[0][k] / sums[1][k]
        # Of what is left beyond the share, whose mean is zero.
        covariance = (products[0] - share * products[1] + share**2 * products[2]) / k
        variance = covariance[0]
        last = min(k // 4, LAGS)
        weights = 1 - np.arange(1, last + 1) / (last + 1)
        terms = [variance, variance + 2 * weights @ covariance[1 : last + 1]]
        terms.append(autoregression(variance, covariance[1] * k / (k - 1) / variance, k))
        for m in BLOCKS:
            n = k // m
            if n < LEAST_BLOCKS:
                break
            left = np.diff(sums[0][: n * m + 1 : m] - share * sums[1][: n * m + 1 : m], axis=0) / m
            left -= left.mean(axis=0)
            spread = (left**2).mean(axis=0)
            correlation = (left[1:] * left[:-1]).sum(axis=0) / (n - 1) / spread
            terms.append(m * autoregression(spread, correlation, n))
        follows = champion[:k].max(axis=0) / (k * scale)
        long_run = 1.25 * np.max(terms, axis=0) / (1 - follows) ** 2
        yield Found(
            k,
            share * scale,
            scale,
            variance,
            long_run,
            np.abs(differences[:k]).max(axis=0),
        )


def decided(differences: Numbers, champion: Numbers, start: int) -> tuple[Numbers, Numbers]:
    """Of each run, the buckets after which it is better, from `start` on, and worse; infinite where it never is."""
    better, worse = (np.full(differences.shape[1], np.inf) for _ in range(2))
    for found in after_each(differences, champion):
        ready = found.ready()
        if found.k >= start:
            lower, _ = found.bounds(ALPHA)
            better = np.where(ready & (lower > 0), np.minimum(better, found.k), better)
        _, upper = found.bounds(ALPHA_REJECT)
        worse = np.where(ready & (upper < -MARGIN), np.minimum(worse, found.k), worse)
    return better, worse


def lasting(random: np.random.Generator, correlation: float, runs: int) -> Numbers:
    """An autoregression of variance one."""
    noise = random.standard_normal((BUCKETS + 500, runs)) * np.sqrt(1 - correlation**2)
    for bucket in range(1, len(noise)):
        noise[bucket] += correlation * noise[bucket - 1]
    return noise[500:]


def equal(random: np.random.Generator, runs: int) -> Iterator[tuple[str, Numbers, Numbers]]:
    """Differences that are zero on average, and the champion's losses."""
    shape = (BUCKETS, runs)
    white, one = random.standard_normal(shape), np.ones(shape)
    yield "white", white, 3 * one
    for correlation in (0.5, 0.7, 0.9, 0.95, 0.98):
        yield f"AR({correlation})", lasting(random, correlation, runs), 3 * one
    for correlation, variance in ((0.95, 1), (0.95, 4), (0.98, 2)):
        both = lasting(random, correlation, runs) + variance**0.5 * random.standard_normal(shape)
        yield f"AR({correlation}) + white of variance {variance}", both, 3 * one
    phase = 2 * np.pi * (np.arange(BUCKETS)[:, None] / DAY + random.random(runs))
    yield "white + a daily sine of amplitude 1", white + np.sin(phase), 3 * one
    for deviation, correlation in ((0.5, 0.9), (1.0, 0.97), (2.0, 0.0)):
        load = np.exp(deviation * lasting(random, correlation, runs))
        yield (
            f"0.4 white x load of e^({deviation} AR({correlation}))",
            0.4 * load * random.standard_normal(shape),
            load,
        )
    load = np.exp(0.5 * lasting(random, 0.9, runs))
    yield (
        "0.3 AR(0.9) x load of e^(0.5 AR(0.9))",
        0.3 * load * lasting(random, 0.9, runs),
        load,
    )
    load = np.exp(0.5 * lasting(random, 0.97, runs))
    above = 0.3 * (load - np.exp(0.125))
    yield "better at high load of e^(0.5 AR(0.97))", above + 0.1 * load * white, load
    yield "worse at high load of e^(0.5 AR(0.97))", -above + 0.1 * load * white, load
    rare = 0.05 + 0.1 * white - 10 * (random.random(shape) < 1 / 200)
    for loss in (1, 3.3):
        yield f"+0.05, and -10 once in 200; the champion loses {loss}", rare, loss * one


def different(random: np.random.Generator, runs: int) -> Iterator[tuple[str, Numbers, Numbers]]:
    """Losses like those of real pods, whose difference is a share of the champion's on average."""
    load = 3.7 * np.exp(0.4 * lasting(random, 0.9, runs))
    white = random.standard_normal((BUCKETS, runs))
    for share in (0.3, 0.1, 0.05, -0.05, -0.3):
        yield f"{100 * share:+.0f} %", share * load + 0.11 * load * white, load


def main() -> None:
    """Prints a line for each kind of losses."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    random = np.random.default_rng(int(sys.argv[2]) if len(sys.argv) > 2 else 20261127)  # noqa: PLR2004
    for name, differences, champion in equal(random, runs):
        better, worse = (100 * np.mean(np.isfinite(f)) for f in decided(differences, champion, DAY))
        sys.stdout.write(f"equal, {name}: promoted {better:.1f} %, rejected {worse:.1f} %\n")
    for name, differences, champion in different(random, runs):
        found = decided(differences, champion, BURN_IN)
        better, worse = (f"{np.median(f):.0f} ({100 * np.mean(np.isfinite(f)):.0f} %)" for f in found)
        sys.stdout.write(f"better by {name}: median buckets to better {better}, to worse {worse}\n")


if __name__ == "__main__":
    main()
