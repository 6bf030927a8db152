"""Histories in nftables mode against the real kernel: their end is a fresh start's, packets are as predicted.

As `test_iptables_histories.py` does it. Another program has a table with chains at the same hooks and priorities,
which lets everything through.
"""

import contextlib
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import DeleteTable
from kubeproxy.model.addresses import Family
from tests.netns.drawn_packets import ask, questions
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.netns.real_kernel import forget_flows
from tests.property.agent_bed import Agent
from tests.property.door_bed import GOOD, Written, agent_with_good_service, check, hear_hostile
from tests.property.nftables_bed import NftKernel, live
from tests.property.runs import HISTORIES, LONG, PATIENCE, runs, shrinks_for
from tests.property.strategies_histories import History, histories
from tests.property.strategies_hostile import hostile_objects
from tests.scenarios.lab import Lab, lab

pytestmark = [pytest.mark.netns, PATIENCE]

T = TypeVar("T")

WORKERS = 48
PACKETS = 40
"""Of each family, after each history."""
SHRINK_SECONDS = 30

GOOD_NAME = f"{GOOD.namespace}/{GOOD.name}"

OTHERS = """
table inet another {
    chain pre { type nat hook prerouting priority -101; }
    chain out { type nat hook output priority -101; }
    chain post { type nat hook postrouting priority 99; ip saddr 172.17.0.0/16 masquerade; }
    chain in { type filter hook input priority -1; ct state established,related accept; }
    chain through { type filter hook forward priority -1; ct state established,related accept; }
}
"""


class RealKernel(NftKernel):
    """The kernel of one network namespace."""

    def __init__(self, run: Callable[[Callable[[], T]], T]) -> None:
        super().__init__({family: KernelTable(family) for family in Family}, run)
        self.run(lambda: subprocess.run(["nft", "-f", "-"], input=OTHERS, check=True, text=True))

    def reset(self) -> None:
        """Begin anew."""

        def work() -> None:
            for table in self.tables.values():
                if table.exists():
                    table.commit([DeleteTable()])

        self.run(work)

    def forget_flows(self) -> None:
        """Let no packet of one history be taken for a part of another's connection."""
        self.run(forget_flows)


@contextlib.contextmanager
def clean(*kernels: RealKernel) -> Iterator[None]:
    """Leave nothing behind for the next example, whatever went wrong in this one."""
    try:
        yield
    finally:
        for kernel in kernels:
            kernel.reset()


@pytest.fixture(scope="module")
def place() -> Iterator[Lab]:
    with lab() as built:
        yield built


@pytest.fixture(scope="module")
def empty() -> Iterator[LoneNamespace]:
    with lone_namespace() as built:
        yield built


def test_state_and_packets_are_those_of_the_last_world(place: Lab, empty: LoneNamespace) -> None:
    node, scratch = RealKernel(partial(place.run, "node")), RealKernel(empty.run)

    with ThreadPoolExecutor(WORKERS) as crowd:

        @runs(HISTORIES if LONG else HISTORIES // 2)
        @given(histories(steps=4), st.sampled_from(range(1000)))
        @shrinks_for(SHRINK_SECONDS)
        def check(history: History, seed: int) -> None:
            with clean(node, scratch):
                node.forget_flows()
                cluster, agent = live(history, node)
                fresh = Agent(scratch, agent.settings, cluster.world(backwards=True))
                fresh.settle()
                assert agent.state() == fresh.state()
                asked = [
                    each
                    for family in Family
                    for each in questions(agent.world, agent.settings, family, seed, PACKETS)
                ]
                wrong = [each for each in crowd.map(partial(ask, place), asked) if each]
                assert not wrong, "\n".join(wrong)
                agent.cleanup()
                fresh.cleanup()

        check()


def _elements(agent: Agent, family: Family) -> set[object]:
    """Return what names the good Service."""
    found = agent.kernel.run(lambda: agent.kernel.sets(family)).values()
    return {each for elements in found for each in elements if isinstance(each, tuple) and each[-1] == GOOD_NAME}


def test_hostile_objects_do_not_stop_the_others(place: Lab, empty: LoneNamespace) -> None:
    node, scratch = RealKernel(partial(place.run, "node")), RealKernel(empty.run)
    alone = agent_with_good_service(scratch)

    @runs(HISTORIES if LONG else 5)
    @given(st.lists(hostile_objects(), min_size=2, max_size=12))
    @shrinks_for(SHRINK_SECONDS)
    def test(written: list[Written]) -> None:
        with clean(node):
            agent = agent_with_good_service(node)
            hear_hostile(agent, written)
            check(agent, alone)
            for family in Family:
                assert _elements(alone, family) == _elements(agent, family)
            agent.cleanup()

    test()
    alone.cleanup()
