"""Draws the pictures of docs/verdict.md and docs/verdict-statistics.md, and prints the figures of their simulation.

One picture is of what `onnxd replay --json` said of two days of real pods, whose files docs/replay.md makes:

    cd /tmp/pods
    onnxd replay pods.csv --champion-file naive --challenger-file trained --label-source chaos --json > promote.json
    onnxd replay pods.csv --champion-file trained --challenger-file naive --label-source chaos --json > reject.json
    .venv/bin/python docs/verdict/plots.py --promote /tmp/pods/promote.json --reject /tmp/pods/reject.json

The simulation has a seed and takes some minutes. Its formulas are those of server/src/verdict/, written again.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.special import betainc, betaln, ndtri
from simulate import BURN_IN, NARROWEST, after_each, radius

Numbers = NDArray[np.float64]

SEED = 20261127
BLUE, ORANGE, RED, GREY, GREEN = "#0b6e99", "#c2571a", "#d9485f", "#7a7f87", "#2e7d4f"
MINUTES = 14 * 24 * 60
BUCKET = 10
RUNS = 1000
AT_A_TIME = 100
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.9)
ALPHA = 0.05
# The champion's, in standard deviations of a minute's difference.
LOSS = 3.0
PAIRS = 2000
SERIES = 1000
# Hours without a bucket that are told from one without enough pairs.
GAP = 2


def say(*words: object) -> None:
    """Prints."""
    print(*words)  # noqa: T201


def moments(values: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """After each value of each row: how many, mean and variance."""
    k = np.arange(1, values.shape[1] + 1, dtype=float)
    mean = np.cumsum(values, axis=1) / k
    return k, mean, np.maximum(np.cumsum(values**2, axis=1) / k - mean**2, 1e-300)


def differences(random: np.random.Generator, correlation: float) -> Numbers:
    """Losses of the champion less those of an equal challenger, a minute each: autoregressions of variance one."""
    innovations = random.standard_normal((AT_A_TIME, MINUTES)) * np.sqrt(1 - correlation**2)
    innovations[:, 0] /= np.sqrt(1 - correlation**2)
    return lfilter([1], [1, -correlation], innovations, axis=1)


def promoted(minutes: Numbers, alphas: tuple[float, ...]) -> dict[tuple[str, float], int]:
    """How many of these are called better than an equal champion, by each way, with a look at each ten minutes."""
    counts = {}
    looks = slice(BURN_IN * BUCKET - 1, None, BUCKET)
    k, mean, variance = (part[..., looks] for part in moments(minutes))
    buckets = minutes.reshape(len(minutes), -1, BUCKET).mean(axis=2)
    later = slice(BURN_IN - 1, None)
    number, middle, spread = (part[..., later] for part in moments(buckets))
    found = list(after_each(buckets.T, np.full(buckets.T.shape, LOSS)))
    for alpha in alphas:
        z = -ndtri(alpha)
        once = mean[:, -1] > z * np.sqrt(variance[:, -1] / k[-1])
        ours = np.any([look.ready() & (look.bounds(alpha)[0] > 0) for look in found], axis=0)
        ways = {
            "a t-test, once, after 14 days": once,
            "a t-test, every ten minutes": (mean > z * np.sqrt(variance / k)).any(axis=1),
            "an interval for all times, of minutes": (mean > radius(variance, k, alpha, NARROWEST * BUCKET)).any(
                axis=1
            ),
            "the same, of means of ten minutes": (middle > radius(spread, number, alpha)).any(axis=1),
            "the same, for what lasts and what is rare (onnxd)": ours,
        }
        counts |= {(way, alpha): int(found.sum()) for way, found in ways.items()}
    return counts


def peeking(axes: Axes, random: np.random.Generator) -> None:
    """Shares of equal challengers that are called better, by the correlation of their losses."""
    alphas = (ALPHA, 0.005)
    shares: dict[tuple[str, float], list[float]] = {}
    for correlation in CORRELATIONS:
        counts: dict[tuple[str, float], int] = {}
        for _ in range(RUNS // AT_A_TIME):
            for way, count in promoted(differences(random, correlation), alphas).items():
                counts[way] = counts.get(way, 0) + count
        for way, count in counts.items():
            shares.setdefault(way, []).append(count / RUNS)
    say("| equal challengers called better | alpha |", *(f"{c} |" for c in CORRELATIONS))
    for (way, alpha), found in shares.items():
        say(f"| {way} | {alpha} |", *(f"{100 * share:.1f} % |" for share in found))
    styles = [(GREY, "o", ":"), (RED, "s", "-"), (ORANGE, "^", "-"), ("#b08900", "D", "-"), (BLUE, "o", "-")]
    drawn = [(way, found) for (way, alpha), found in shares.items() if alpha == ALPHA]
    for (way, found), (colour, marker, line) in zip(drawn, styles, strict=True):
        axes.plot(
            CORRELATIONS,
            np.maximum(found, 0.0005),
            color=colour,
            marker=marker,
            linestyle=line,
            markersize=5,
            label=way,
        )
    axes.axhline(ALPHA, color="black", linewidth=0.8, linestyle="--")
    axes.text(0.3, ALPHA * 1.08, f"promised: {100 * ALPHA:.0f} %", fontsize=8, ha="center")
    axes.set_yscale("log")
    axes.set_ylim(0.0005, 1)
    axes.set_yticks([0.001, 0.01, 0.05, 0.1, 0.5, 1.0], ["0.1 %", "1 %", "5 %", "10 %", "50 %", "100 %"])
    axes.set_xticks(CORRELATIONS)
    axes.set_xlabel("correlation of the losses of neighbouring minutes")
    axes.set_ylabel("equal challengers called better")
    axes.set_title(f"14 days of minutes, {RUNS:,} runs each", fontsize=9)
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)


def mcnemar(right: Numbers, wrong: Numbers) -> Numbers:
    """The logarithm of E against "the challenger is right in at most half of the discordant pairs"."""
    c, b = right + 0.5, wrong + 0.5
    beyond_half = np.log(np.maximum(betainc(b, c, 0.5), 1e-300))
    return betaln(c, b) + beyond_half - betaln(0.5, 0.5) + np.log(2) + (right + wrong) * np.log(2)


def growth(axes: Axes, random: np.random.Generator) -> None:
    """How the evidence of labels grows, by how often the challenger is right where only one is."""
    # Two routes, two sides, and the mean of four sources of which one labels.
    needs = np.log(4 / 0.01) + np.log(4)
    pairs = np.arange(1, PAIRS + 1, dtype=float)
    shown = np.unique(np.geomspace(1, PAIRS, 150).astype(int)) - 1
    for share, colour in ((0.9, GREEN), (0.7, BLUE), (0.6, ORANGE), (0.5, RED)):
        right = np.cumsum(random.random((SERIES, PAIRS)) < share, axis=1).astype(float)
        e = mcnemar(right, pairs - right)
        reached = e >= needs
        first = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, np.inf)
        low, middle, high = np.percentile(e[:, shown], (10, 50, 90), axis=0)
        axes.fill_between(pairs[shown], low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(pairs[shown], middle, color=colour, label=f"right in {100 * share:.0f} % of them")
        median = np.median(first)
        most = np.sort(first)[int(0.9 * SERIES)]
        ever = [(e >= np.log(1 / alpha)).any(axis=1).mean() for alpha in (0.05, 0.01)]
        say(
            f"right in {share}: reaches ln E {needs:.2f} in {100 * reached.any(axis=1).mean():.1f} %, "
            f"median {median}, 90 % {most} pairs; E of 20 in {100 * ever[0]:.1f} %, of 100 in {100 * ever[1]:.1f} %"
        )
    axes.axhline(needs, color="black", linewidth=0.8, linestyle="--")
    axes.text(1.1, needs + 0.4, "needed: decisions are better, one source of labels, alpha 0.01", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1, PAIRS)
    axes.set_ylim(-5, 25)
    axes.set_xlabel("labelled draws in which exactly one of both is right")
    axes.set_ylabel("ln E (median, and 10 to 90 %, of 1,000 runs)")
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, 0.9))


def band(axes: Axes, path: Path, colour: str) -> None:
    """The improvement of a forecast and its interval, as a replay tells them."""
    report = json.loads(path.read_text())
    judged, decided = report["verdicts"][0], report["first"][0]
    since = judged["since"]
    points = judged["band"]
    hours = np.array([(point["at"] - since) / 3600 for point in points])
    mean, lower, upper = (100 * np.array([point[key] for point in points]) for key in ("mean", "lower", "upper"))
    # Nothing was seen between the two days.
    breaks = np.flatnonzero(np.diff(hours) > GAP) + 1
    parts = [part for part in np.split(np.arange(len(hours)), breaks) if len(part) > 0]
    for part in parts:
        axes.fill_between(hours[part], lower[part], upper[part], color=colour, alpha=0.2, linewidth=0)
        axes.plot(hours[part], mean[part], color=colour)
    for before, after in pairwise(parts):
        axes.axvspan(hours[before[-1]], hours[after[0]], color=GREY, alpha=0.15, linewidth=0)
        axes.text((hours[before[-1]] + hours[after[0]]) / 2, -100, "no data", fontsize=8, ha="center", color=GREY)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(BURN_IN / 6, color=GREY, linewidth=0.8, linestyle=":")
    axes.text(BURN_IN / 6 + 0.3, 108, "50 buckets: it counts from here on, or later", fontsize=8, color=GREY, va="top")
    axes.axvline(decided["hours"], color="black", linewidth=0.8, linestyle="--")
    axes.text(decided["hours"] + 0.3, 88, f"{decided['decision']}, {decided['hours']:.1f} h", fontsize=9, va="top")
    axes.set_ylim(-120, 110)
    axes.set_xlim(0, hours[-1])
    axes.set_ylabel("forecast better by, %")
    say(f"{path.name}: {decided['decision']} after {decided['hours']:.1f} h, {judged['reasons']}")


def save(figure: plt.Figure, path: Path) -> None:
    """Writes a picture whose bytes do not depend on when it is drawn."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    say(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    """Draws all of them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--promote", type=Path, required=True, help="what `onnxd replay --json` said of the better one")
    parser.add_argument("--reject", type=Path, required=True, help="what it said of the worse one")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="the folder of the pictures")
    args = parser.parse_args()
    mpl.rcParams.update({"svg.hashsalt": "onnxd", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    args.out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)

    figure, both = plt.subplots(2, 1, figsize=(8, 5.4), sharex=True, layout="constrained")
    band(both[0], args.promote, BLUE)
    both[0].set_title(
        "champion: the last value; challenger: trained; the improvement, and what it is at least and at most",
        fontsize=9,
    )
    band(both[1], args.reject, ORANGE)
    both[1].set_title("champion: trained; challenger: the last value", fontsize=9)
    both[1].set_xlabel("hours since the first row")
    save(figure, args.out / "replay.svg")

    for name, draw in (("peeking", peeking), ("evidence", growth)):
        figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
        draw(axes, random)
        save(figure, args.out / f"{name}.svg")


if __name__ == "__main__":
    main()
