"""Draws docs/reliability/soak.svg from the table of the long run of server/tests/soak.rs: `make soak` does both."""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd

BLUE, GREY = "#0b6e99", "#7a7f87"


def main() -> None:
    """Draws memory, threads and files over the changes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="the table")
    parser.add_argument("picture", type=Path, help="where the picture goes")
    arguments = parser.parse_args()
    table = pd.read_csv(arguments.table)
    mpl.rcParams["svg.hashsalt"] = "soak"
    figure, axes = plt.subplots(3, 1, figsize=(7.5, 4.6), sharex=True, layout="constrained")
    last = table.iloc[-1]
    for axis, column, scale, name in zip(
        axes,
        ["resident", "threads", "files"],
        [2**20, 1, 1],
        ["memory, MiB", "threads", "files"],
        strict=True,
    ):
        values = table[column] / scale
        axis.plot(table["changes"], values, color=BLUE, linewidth=1.4)
        axis.set_ylim(0, 1.25 * values.max())
        axis.set_ylabel(name)
        axis.grid(color=GREY, alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
    rows, minutes = last["rows"] / 1e6, last["seconds"] / 60
    title = f"{last['changes']:,.0f} changes and {rows:,.1f} million rows in {minutes:.0f} minutes"
    axes[0].set_title(title, loc="left", fontsize=10)
    axes[-1].set_xlabel("changes of what serves, every tenth while S3 fails")
    figure.savefig(arguments.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
