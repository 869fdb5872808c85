"""How often an equal challenger is promoted by the interval, and how soon a better one.

Next to it stands the interval that knows of neighbours alone.
Each of many runs is looked at after every bucket from 144 to 2016, with an alpha of 0.005: `simulate.py [RUNS]`.
"""

import sys

import numpy as np

BUCKETS = 2016
ALPHA = 0.005
BLOCKS = (1, 6, 18, 36, 72, 144)
LAGS = 144


def radius(variance: np.ndarray, k: int) -> np.ndarray:
    """Half the width of the interval of k buckets."""
    two = -2 * np.log(2 * ALPHA)
    rho = (two + np.log(two + 1)) / 300
    spread = k * rho + 1
    return np.sqrt(variance * 2 * spread / (k * k * rho) * np.log1p(np.sqrt(spread) / (2 * ALPHA)))


def autoregression(sums: np.ndarray, k: int, m: int, *, mended: bool = True) -> np.ndarray:
    """The long-run variance of each run, if the means of m buckets each are an autoregression of order one."""
    means = np.diff(sums[: k // m * m + 1 : m], axis=0) / m
    n, c = len(means), means - means.mean(axis=0)
    variance = (c * c).mean(axis=0)
    r = (c[1:] * c[:-1]).sum(axis=0) / (n - 1) / variance
    r = np.clip(r + (1 + 3 * r) / n if mended else r, 0, 0.9)
    return m * variance * (1 + r) / (1 - r)


def shown(d: np.ndarray, champion: float, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each run, the buckets after which the lower bound is above 0: by neighbours alone, and by the interval."""
    first = np.full((2, d.shape[1]), BUCKETS + 1)
    sums = np.concatenate([np.zeros((1, d.shape[1])), np.cumsum(d, axis=0)])
    squares = np.cumsum(d * d, axis=0)
    greatest = np.maximum.accumulate(np.abs(d), axis=0)
    products = np.zeros((LAGS + 1, d.shape[1]))
    apart: dict[int, np.ndarray] = {}
    for k in range(1, BUCKETS + 1):
        before = np.arange(min(LAGS, k - 1) + 1)
        products[before] += d[k - 1] * d[k - 1 - before]
        mean = sums[k] / k
        variance = squares[k - 1] / k - mean**2
        # Blocks change only with their last bucket.
        apart |= {m: autoregression(sums, k, m) for m in BLOCKS[1:] if k % m == 0 and k // m >= 8}
        if k < start:
            continue
        alone, near = (autoregression(sums, k, 1, mended=mended) for mended in (False, True))
        lags = np.arange(1, min(k // 4, LAGS) + 1)[:, None]
        both = sums[k] - sums[lags[:, 0]] + sums[k - lags[:, 0]]
        covariances = (products[lags[:, 0]] - mean * both + (k - lags) * mean**2) / k
        bartlett = variance + 2 * ((1 - lags / (len(lags) + 1)) * covariances).sum(axis=0)
        long_run = 1.25 * np.max([near, *apart.values(), bartlett, variance], axis=0)
        unseen = np.maximum(4 * champion, greatest[k - 1])
        lower = (k * mean - unseen) / (k + 1)
        with_unseen = (long_run + (unseen + mean) ** 2 / (k + 1)) * k / (k + 1)
        now = (lower - radius(with_unseen, k + 1) > 0) & (k * variance >= 15 * long_run)
        for which, holds in enumerate((mean - radius(alone, k) > 0, now)):
            first[which] = np.where(holds & (first[which] > BUCKETS), k, first[which])
    return first[0], first[1]


def lasting(rng: np.random.Generator, correlation: float, runs: int) -> np.ndarray:
    """An autoregression of variance one."""
    noise = rng.standard_normal((BUCKETS + 500, runs)) * np.sqrt(1 - correlation**2)
    for bucket in range(1, len(noise)):
        noise[bucket] += correlation * noise[bucket - 1]
    return noise[500:]


def main() -> None:
    """Prints a line for each kind of noise."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    rng = np.random.default_rng(7)
    white = rng.standard_normal((BUCKETS, runs))
    hours = np.arange(BUCKETS)[:, None]
    rare = 0.05 + 0.1 * white - 10 * (rng.random((BUCKETS, runs)) < 0.005)
    cases = {
        "white": (white, 1),
        **{f"AR({r})": (lasting(rng, r, runs), 1) for r in (0.5, 0.7, 0.9, 0.95)},
        "AR(0.95) + white of variance 1": (lasting(rng, 0.95, runs) + white, 1),
        "AR(0.95) + white of variance 4": (lasting(rng, 0.95, runs) + 2 * white, 1),
        "AR(0.98) + white of variance 2": (lasting(rng, 0.98, runs) + 2**0.5 * white, 1),
        **{f"+0.05, and -10 once in 200; the champion loses {loss}": (rare, loss) for loss in (1, 2, 3.3)},
        "daily sine of amplitude 1": (white + np.sin(2 * np.pi * hours / 144), 1),
    }
    for name, (d, champion) in cases.items():
        before, now = shown(d, champion, 144)
        said = f"promoted {np.mean(before <= BUCKETS):.3f} by neighbours, {np.mean(now <= BUCKETS):.3f} now"
        sys.stdout.write(f"{name}: {said}\n")
    for name, noise in {"white": white, "AR(0.7)": lasting(rng, 0.7, runs)}.items():
        for champion in (1, 3, 10):
            before, now = (np.quantile(f, [0.5, 0.9]) for f in shown(0.5 + noise, champion, 50))
            said = f"median and 90 % of the buckets {before} by neighbours, {now} now"
            sys.stdout.write(f"+0.5 in {name}; the champion loses {champion}: {said}\n")


if __name__ == "__main__":
    main()
