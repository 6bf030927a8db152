"""Histories in nftables mode against the real kernel (`histories_bed.py`).

Another program has a table with chains at the same hooks and priorities,
which lets everything through.
"""

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import DeleteTable
from kubeproxy.model.addresses import Family
from tests.netns.histories_bed import Stage, clean, some_packets
from tests.netns.lone_namespace import LoneNamespace
from tests.netns.real_kernel import forget_flows
from tests.property.agent_bed import Agent
from tests.property.door_bed import GOOD, Written, agent_with_good_service, check, hear_hostile
from tests.property.nftables_bed import NftKernel, fresh, live
from tests.property.runs import HISTORIES, LONG, PATIENCE, runs, shrinks_for
from tests.property.strategies_histories import History, histories
from tests.property.strategies_hostile import hostile_objects
from tests.scenarios.lab import Lab

pytestmark = [pytest.mark.netns, PATIENCE]

T = TypeVar("T")

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


def test_state_and_packets_are_those_of_the_last_world(
    place: Lab, empty: LoneNamespace, crowd: ThreadPoolExecutor
) -> None:
    node, scratch = RealKernel(partial(place.run, "node")), RealKernel(empty.run)
    stage = Stage(place, crowd, node, scratch, live, fresh, some_packets)

    @runs(HISTORIES if LONG else HISTORIES // 2)
    @given(histories(steps=4), st.sampled_from(range(1000)))
    @shrinks_for(SHRINK_SECONDS)
    def check(history: History, seed: int) -> None:
        stage.compare(history, seed)

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
