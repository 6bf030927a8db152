"""Histories in ipvs mode on the real kernel (`tests/netns/histories_bed.py`).

`tests/property/test_ipvs_history.py` plays the same against the model kernel.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import node_state
from tests.netns.drawn_packets import Question, questions
from tests.netns.histories_bed import Stage
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.property.agent_bed import Agent
from tests.property.ipvs_bed import fresh, live
from tests.property.runs import LONG, PATIENCE, runs, shrinks_for
from tests.property.strategies_histories import History, histories
from tests.scenarios.lab import Lab, lab
from tests.uml.ipvs_kernel import RealIpvsKernel

pytestmark = PATIENCE

WORKERS = 16
PACKETS = 20
"""Of each family, after each history."""
EXAMPLES = 100 if LONG else 5
SHRINK_SECONDS = 60


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as built:
        yield built


@pytest.fixture(scope="module")
def empty(place: Lab) -> Iterator[LoneNamespace]:
    with lone_namespace() as built:
        have_addresses_of(place, built)
        yield built


def have_addresses_of(place: Lab, empty: LoneNamespace) -> None:
    """Give a namespace the addresses that the lab's node has: virtual servers stand on them too."""
    empty.ip("link set lo up")
    for family in Family:
        for address in dict.fromkeys(place.run("node", partial(local_addresses, family))):
            if not ip_address(address).is_loopback:
                empty.ip(f"address add {address}/{family.host_bits} dev lo")


@pytest.fixture(scope="module")
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(WORKERS) as pool:
        yield pool


def askable(agent: Agent, family: Family, seed: int) -> list[Question]:
    """Draw packets. A node that nobody knows speaks to a virtual address from that address, unlike trace's."""
    drawn = questions(agent.world, agent.settings, family, seed, PACKETS)
    is_known = not ip_address(node_state(agent.world, agent.settings, family).node_ip).is_loopback
    return [each for each in drawn if is_known or each.client != "node"]


def test_state_and_packets_are_those_of_the_last_world(
    place: Lab, empty: LoneNamespace, crowd: ThreadPoolExecutor
) -> None:
    node, scratch = RealIpvsKernel(partial(place.run, "node")), RealIpvsKernel(empty.run)
    others = node.others()
    stage = Stage(place, crowd, node, scratch, live, fresh, askable)

    @runs(EXAMPLES)
    @given(histories(steps=4), st.sampled_from(range(1000)))
    @shrinks_for(SHRINK_SECONDS)
    def check(history: History, seed: int) -> None:
        stage.compare(history, seed)
        assert node.others() == others

    check()
