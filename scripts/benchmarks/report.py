"""Rows as tables on a terminal: one for each thing that was measured."""

import sys
from collections.abc import Iterable

from figures import Row
from rich.console import Console
from rich.table import Table

COLUMNS = ("mode", "Services", "p50 ms", "p99 ms", "CPU ms", "MiB", "beside", "its ms", "ratio")


def show(rows: Iterable[Row]) -> None:
    """Print the tables, in the order in which things were measured first."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    of: dict[str, list[Row]] = {}
    for row in rows:
        of.setdefault(row.what, []).append(row)
    for what, found in of.items():
        console.print(table(what, found))


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
