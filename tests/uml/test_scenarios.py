"""The scenario table in ipvs mode, by real packets, on a kernel that has it."""

import pytest

from tests.scenarios.results import Results
from tests.scenarios.rows import ROWS

pytestmark = [
    pytest.mark.timeout(600),  # The first row to be asked for waits for all of them.
    pytest.mark.uml(name="table"),  # A machine of its own, to run beside the other where there are two processors.
]


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    return Results(request.session.items)


@pytest.mark.parametrize("mode", ["ipvs"])
@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_packets_go_where_the_row_says(results: Results, mode: str, name: str) -> None:
    wrong = results.of(mode, name)
    assert not wrong, "\n".join(wrong)
