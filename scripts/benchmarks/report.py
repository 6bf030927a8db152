"""Rows as tables, one for each thing that was measured: on a terminal, and as Markdown for docs/performance.md.

`report.py FILE...`, of scripts/bench --json, prints the Markdown of several runs; `--into docs/performance.md`
puts it in the place of the tables there.
"""

import argparse
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import figures
from figures import Row
from rich.console import Console
from rich.table import Table

BEGIN, END = "<!-- tables -->", "<!-- /tables -->"
"""Between them the page has the tables."""
COLUMNS = ("mode", "Services", "p50 ms", "p99 ms", "CPU ms", "MiB", "beside", "its ms", "ratio")


def show(rows: Iterable[Row]) -> None:
    """Print the tables."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    for what, found in _by_what(rows).items():
        console.print(table(what, found))


def markdown(rows: Iterable[Row]) -> str:
    """Return the tables as Markdown: a line for each measurement, its floors in one cell with their ratios."""
    lines: list[str] = []
    for what, found in _by_what(rows).items():
        lines += [f"**{what}**", "", f"| {' | '.join(COLUMNS[:6])} | beside: its ms (ratio) |", "| --- " * 7 + "|"]
        for own, same in groupby(map(_cells, found), key=lambda cells: cells[:6]):
            floors = "; ".join(
                f"{name}: {its} ({ratio})" for name, its, ratio in (cells[6:] for cells in same) if name
            )
            lines.append(f"| {' | '.join(own)} | {floors} |")
        lines.append("")
    return "\n".join(lines)


def replaced(page: str, tables: str) -> str:
    """Return a page with other tables. Raises ValueError when it does not say where."""
    before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
    return f"{page[:before]}\n\n{tables}\n{page[after:]}"


def _by_what(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows of each measurement, in the order in which things were measured first."""
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row.what, []).append(row)
    return of


def table(what: str, rows: Iterable[Row]) -> Table:
    """Return one table."""
    found = Table(*COLUMNS, title=what, title_justify="left")
    for column in found.columns[1:6] + found.columns[7:]:
        column.justify = "right"
    before: list[str] = []
    for row in rows:
        cells = _cells(row)
        # Several floors of one measurement: its own figures stand once.
        same = cells[:6] == before[:6]
        found.add_row(*([""] * 6 if same else cells[:6]), *cells[6:])
        before = cells
    return found


def _cells(row: Row) -> list[str]:
    size = f"{row.services:,}" if row.endpoints == 3 else f"{row.services:,} × {row.endpoints:,}"
    return [
        row.mode,
        size,
        milliseconds(row.p50_ms),
        milliseconds(row.p99_ms),
        milliseconds(_thousandfold(row.cpu_seconds)),
        "" if row.rss_mib is None else f"{row.rss_mib:.0f}",
        row.floor,
        milliseconds(_thousandfold(row.floor_seconds)),
        "" if row.ratio is None else f"{row.ratio:.2f}",
    ]


def milliseconds(value: float | None) -> str:
    """Write a number with three digits that count."""
    if value is None:
        return ""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}"


def _thousandfold(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, metavar="PAGE")
    parser.add_argument("runs", type=Path, nargs="+", metavar="FILE")
    given = parser.parse_args()
    tables = markdown(figures.latest(figures.decode(run.read_bytes()) for run in given.runs))
    if given.into:
        given.into.write_text(replaced(given.into.read_text(), tables))
    else:
        print(tables)


if __name__ == "__main__":
    main()
