"""The scenario table (tests/scenarios) in every mode that this kernel has, by real packets.

The first row of a mode to be asked for runs all that were selected, together; each row's test is then its outcome.
"""

import pytest

from tests.scenarios.modes import MODES
from tests.scenarios.rows import ROWS
from tests.scenarios.runner import run

pytestmark = pytest.mark.netns

HERE = {name: mode for name, mode in MODES.items() if mode.exists()}
"""The others are asked on a kernel that has them: tests/uml."""


class Results:
    """What was wrong with each row, by mode."""

    def __init__(self, selected: dict[str, set[str]]) -> None:
        self._selected = selected
        self._found: dict[str, dict[str, list[str]]] = {}

    def of(self, mode: str, name: str) -> list[str]:
        if mode not in self._found:
            found: dict[str, list[str]] = {}
            for each in run(ROWS, MODES[mode], only=lambda row: row.name in self._selected[mode]):
                found.setdefault(each.case.row, []).extend([f"{each.case}: {each.wrong}"] if each.wrong else [])
            self._found[mode] = found
        return self._found[mode][name]


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    selected: dict[str, set[str]] = {mode: set() for mode in HERE}
    for item in request.session.items:
        if isinstance(item, pytest.Function) and item.originalname == "test_packets_go_where_the_row_says":
            selected[item.callspec.params["mode"]].add(item.callspec.params["name"])
    return Results(selected)


@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_packets_go_where_the_row_says(results: Results, mode: str, name: str) -> None:
    wrong = results.of(mode, name)
    assert not wrong, "\n".join(wrong)
