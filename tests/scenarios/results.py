"""The table as tests: the first row of a mode to be asked for runs all that were selected, together."""

import pytest

from tests.scenarios.modes import ALL
from tests.scenarios.rows import ROWS
from tests.scenarios.runner import run

TEST = "test_packets_go_where_the_row_says"
"""The name of every test that has a mode's and a row's name as its parameters, `mode` and `name`."""


class Results:
    """What was wrong with each row, by mode."""

    def __init__(self, items: list[pytest.Item]) -> None:
        """Take what was selected of ``items``."""
        self._selected: dict[str, set[str]] = {}
        for item in items:
            if isinstance(item, pytest.Function) and item.originalname == TEST:
                given = item.callspec.params
                self._selected.setdefault(given["mode"], set()).add(given["name"])
        self._found: dict[str, dict[str, list[str]]] = {}

    def of(self, mode: str, name: str) -> list[str]:
        """Return what was wrong with a row."""
        if mode not in self._found:
            found: dict[str, list[str]] = {}
            for each in run(ROWS, ALL[mode], only=lambda row: row.name in self._selected[mode]):
                found.setdefault(each.case.row, []).extend([f"{each.case}: {each.wrong}"] if each.wrong else [])
            self._found[mode] = found
        return self._found[mode][name]
