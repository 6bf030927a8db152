"""The whole scenario table in every mode, by real packets, on one kernel: one's own only; see `conftest`."""

import pytest

from tests.scenarios.modes import ALL
from tests.scenarios.results import Results
from tests.scenarios.rows import ROWS

pytestmark = pytest.mark.timeout(900)
"""The first row of a mode to be asked for waits for all of them."""

FIREWALL = (
    "a closed firewall lets masqueraded service traffic pass",
    "a health-check node port can be asked through a closed firewall, as long as there is one",
)
"""Where rules are nftables', an accept of theirs binds no other table: such a firewall lets in by itself."""
CASES = [
    (mode, row.name)
    for mode in ALL
    for row in ROWS
    if not (mode == "ipvs-without-iptables" and row.name in FIREWALL)
]


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> Results:
    return Results(request.session.items)


@pytest.mark.parametrize(("mode", "name"), CASES)
def test_packets_go_where_the_row_says(results: Results, mode: str, name: str) -> None:
    wrong = results.of(mode, name)
    assert not wrong, "\n".join(wrong)
