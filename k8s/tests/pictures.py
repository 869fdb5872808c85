"""Draws dashboards from what their panels' queries gave. Not Grafana: the same queries and places, in matplotlib."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

INK, PAPER, GRID = "#24292e", "#ffffff", "#e6e8eb"
NAMES = 6
"""Lines of a panel that its legend names."""
COLOURS = {"green": "#3f9142", "red": "#c4314b", "orange": "#d97a00", "blue": "#3465a4", "transparent": "#e6e8eb"}


@dataclass
class Line:
    """One series of a panel: its name, times (Unix seconds) and values."""

    name: str
    times: list[float]
    values: list[float]


def number(value: float, unit: str) -> str:
    """A value as people read it."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "percent":
        return f"{value:.3g} %"
    if unit == "bytes":
        return f"{value / 2**20:.3g} MiB"
    if unit == "s":
        for size, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
            if abs(value) >= size:
                return f"{value / size:.3g} {name}"
        return f"{value * 1e6:.3g} µs"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _steps(panel: dict[str, Any]) -> list[tuple[float, str]]:
    steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
    return [(-float("inf") if step["value"] is None else step["value"], step["color"]) for step in steps]


def _colour(panel: dict[str, Any], value: float) -> str:
    reached = [colour for least, colour in _steps(panel) if value >= least]
    return COLOURS.get(reached[-1], INK) if reached else INK


def _stat(axes: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    axes.set_axis_off()
    named = panel.get("options", {}).get("textMode") == "name"
    shown = lines[:8]
    columns = 1 if len(shown) < 5 else 2
    height = 1 / -(-len(shown) // columns)
    for i, line in enumerate(shown):
        x, y = (i % columns + 0.5) / columns, 1 - height * (i // columns + 0.5)
        size = 17 if len(shown) == 1 else 10
        text = line.name.replace(", ", "\n") if named else number(line.values[-1], unit)
        size = 8 if named else size
        axes.text(
            x,
            y,
            text,
            ha="center",
            va="bottom" if not named else "center",
            size=size,
            color=_colour(panel, line.values[-1]),
            weight="bold",
        )
        if not named:
            axes.text(x, y, line.name, ha="center", va="top", size=6.5, color=INK)


def _table(axes: Axes, lines: list[Line]) -> None:
    axes.set_axis_off()
    for i, line in enumerate(lines[:10]):
        axes.text(0.02, 0.92 - 0.11 * i, line.name, size=7.5, va="top", color=INK)


def _timeline(axes: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    for i, line in enumerate(lines):
        ends = [*line.times[1:], line.times[-1] + 1]
        # One bar for as long as the value stays.
        turns = [n for n, value in enumerate(line.values) if n == 0 or value != line.values[n - 1]]
        for n, after in zip(turns, [*turns[1:], len(line.values)], strict=True):
            begin, end = line.times[n], ends[after - 1]
            axes.barh(
                i,
                (end - begin) / 86400,
                left=begin / 86400,
                height=0.8,
                color=_colour(panel, line.values[n]),
                linewidth=0,
            )
    axes.set_yticks(range(len(lines)), [line.name for line in lines], size=6.5)
    axes.invert_yaxis()


def _series(axes: Axes, panel: dict[str, Any], lines: list[Line]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    for line in lines:
        axes.plot([t / 86400 for t in line.times], line.values, linewidth=1, label=line.name)
    if "custom" in defaults:
        low, high = axes.get_ylim()
        for least, colour in _steps(panel)[1:]:
            if low <= least <= high:
                axes.axhline(least, color=COLOURS[colour], linewidth=0.8, linestyle="--")
    axes.yaxis.set_major_formatter(lambda value, _: number(value, defaults["unit"]))
    if "max" in defaults:
        axes.set_ylim(defaults["min"], defaults["max"])
    axes.grid(color=GRID, linewidth=0.6)
    handles, names = axes.get_legend_handles_labels()
    more = [f"and {len(names) - NAMES} more"] if len(names) > NAMES else []
    handles, names = handles[:NAMES], names[:NAMES]
    if more:
        handles.append(plt.Line2D([], [], linewidth=0))
    legend = axes.legend(
        handles,
        names + more,
        fontsize=6,
        loc="upper left",
        frameon=True,
        borderpad=0.2,
        handlelength=1.2,
        labelspacing=0.2,
    )
    legend.get_frame().set(alpha=0.7, linewidth=0)


def draw(dashboard: dict[str, Any], found: dict[int, list[Line]], file: Path) -> None:
    """Writes a picture of a dashboard.

    Args:
        dashboard: As Grafana reads it.
        found: What each panel's queries gave, by the panel's id.
        file: The picture, a PNG.
    """
    panels = dashboard["panels"]
    height = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    width_in, row_in, top_in = 13.0, 0.27, 0.62
    height_in = height * row_in + top_in
    figure = plt.figure(figsize=(width_in, height_in), facecolor=PAPER, dpi=90)
    figure.text(0.012, 1 - 0.2 / height_in, dashboard["title"], size=14, weight="bold", color=INK, va="center")
    note = "Drawn from the panels' own queries to a real Prometheus (k8s/tests/pictures.py): not by Grafana."
    figure.text(0.012, 1 - 0.43 / height_in, note, size=7.5, color="gray", va="center")
    for panel in panels:
        place = panel["gridPos"]
        x, w = place["x"] / 24, place["w"] / 24
        top = 1 - (top_in + place["y"] * row_in) / height_in
        h = place["h"] * row_in / height_in
        if panel["type"] == "row":
            figure.text(x + 0.012, top - h / 2, panel["title"], size=10, weight="bold", va="center", color=INK)
            continue
        flat = panel["type"] in {"stat", "table"}
        # Inches: the title above, the ticks left and below; a timeline's names need more room.
        left = 0.08 if flat else 1.25 if panel["type"] == "state-timeline" else 0.55
        axes = figure.add_axes(
            (
                x + left / width_in,
                top - h + (0.06 if flat else 0.3) / height_in,
                w - (left + 0.14) / width_in,
                h - (0.33 if flat else 0.6) / height_in,
            )
        )
        figure.text(
            x + 0.1 / width_in, top - 0.13 / height_in, panel["title"], size=8, weight="bold", va="center", color=INK
        )
        lines = found[panel["id"]]
        axes.tick_params(labelsize=6.5, colors=INK)
        for side in axes.spines.values():
            side.set_color(GRID)
        if panel["type"] == "stat":
            _stat(axes, panel, lines)
        elif panel["type"] == "table":
            _table(axes, lines)
        else:
            (_timeline if panel["type"] == "state-timeline" else _series)(axes, panel, lines)
            times = [t for line in lines for t in (line.times[0], line.times[-1])]
            long = max(times) - min(times) > 600
            axes.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=2, maxticks=5))
            axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M" if long else "%H:%M:%S"))
    figure.savefig(file, facecolor=PAPER)
    plt.close(figure)
