"""The scenario table (tests/scenarios) in every mode that this kernel has, by real packets."""

import pytest

from tests.scenarios.modes import MODES
from tests.scenarios.results import Results
from tests.scenarios.rows import ROWS

pytestmark = pytest.mark.netns

HERE = {name: mode for name, mode in MODES.items() if mode.exists()}
"""The others are asked on a kernel that has them: tests/uml."""


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    return Results(request.session.items)


@pytest.mark.parametrize("mode", HERE)
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_packets_go_where_the_row_says(results: Results, mode: str, name: str) -> None:
    wrong = results.of(mode, name)
    assert not wrong, "\n".join(wrong)
