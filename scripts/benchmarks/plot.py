"""Rows as a picture: for each thing that was measured, milliseconds over Services, a line for each mode.

`plot.py PNG FILE...`, of scripts/bench --json, draws several runs in one; of what was measured again the last word
counts.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import figures
import matplotlib as mpl
from figures import Row
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

mpl.use("Agg")

from matplotlib import pyplot as plt

PANELS = (
    "full load",
    "restart adoption",
    "one endpoint change",
    "one Service added",
    "1,000 changes in a burst",
    "first packet to the last Service",
)
COLOURS = {"iptables-legacy": "C0", "iptables-nft": "C1", "nftables": "C2", "ipvs": "C3"}
STYLES = {"p50, or median": "o-", "p99": "^:"}
FLOOR_STYLES = ("x--", "+--", ".--")
"""Of a mode's floors, in the order of its rows."""


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a PNG; what was not measured is left out."""
    of_size = [row for row in rows if row.endpoints == 3 and row.mode in COLOURS]
    shown = [what for what in PANELS if any(row.what == what for row in of_size)]
    if not shown:
        return
    across = min(len(shown), 3)
    down = -(-len(shown) // across)
    figure, grid = plt.subplots(down, across, figsize=(5.2 * across, 4.2 * down + 0.9), squeeze=False)
    for what, axes in zip(shown, grid.flat, strict=False):
        _panel(axes, what, [row for row in of_size if row.what == what])
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    modes = [Line2D([], [], color=COLOURS[mode], label=mode) for mode in COLOURS if _has(of_size, mode)]
    styles = [_style(style, label) for label, style in STYLES.items()]
    floors = [_style(style, f"floor {n}") for n, style in enumerate(FLOOR_STYLES, 1)]
    figure.legend(handles=[*modes, *styles, *floors], loc="lower center", ncols=9, fontsize=8)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Axes, what: str, rows: Sequence[Row]) -> None:
    notes = []
    for mode in dict.fromkeys(row.mode for row in rows):
        mine = sorted((row for row in rows if row.mode == mode), key=lambda row: row.services)
        once = list({row.services: row for row in mine}.values())
        sizes = [row.services for row in once]
        axes.plot(sizes, [row.p50_ms for row in once], "o-", color=COLOURS[mode])
        if not what.startswith("first packet"):  # There the worst are the machine's.
            axes.plot(sizes, [row.p99_ms for row in once], "^:", color=COLOURS[mode], alpha=0.6)
        floors = list(dict.fromkeys(row.floor for row in mine))
        notes.append(
            f"{mode}: " + "; ".join(f"{n} {floor.removeprefix(mode + '-')}" for n, floor in enumerate(floors, 1))
        )
        for floor, style in zip(floors, FLOOR_STYLES, strict=False):
            beside = [row for row in mine if row.floor == floor]
            milliseconds = [(row.floor_seconds or 0) * 1000 for row in beside]
            axes.plot([row.services for row in beside], milliseconds, style, color=COLOURS[mode], alpha=0.4)
    axes.set(title=what, xlabel="Services of 3 endpoints", ylabel="ms", xscale="log", yscale="log")
    axes.grid(visible=True, which="major", alpha=0.3)
    text = axes.text(0.02, 0.98, "\n".join(notes), transform=axes.transAxes, va="top", fontsize=5)
    text.set_in_layout(False)
    axes.margins(y=0.25)


def _style(style: str, label: str) -> Line2D:
    return Line2D([], [], color="black", marker=style[0], linestyle=style[1:], label=label)


def _has(rows: Sequence[Row], mode: str) -> bool:
    return any(row.mode == mode for row in rows)


if __name__ == "__main__":
    write(figures.latest(figures.decode(Path(name).read_bytes()) for name in sys.argv[2:]), Path(sys.argv[1]))
