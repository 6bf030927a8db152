"""Affinity in nftables mode beyond what the scenario table asks: crowds, restarts, no room, endpoints that go."""

from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.names import Way
from kubeproxy.dataplane.nftables.sets import SPECS
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns import affinity_bed
from tests.netns.affinity_bed import CLIENTS, lab_with_clients
from tests.netns.iptables_bed import BE1, BE2, BE3, NODE_PORT, VIP
from tests.scenarios.addresses import HOSTS
from tests.scenarios.lab import Lab

pytestmark = pytest.mark.netns

ALL = {HOSTS[name].v4 for name in ("be1", "be2", "be3")}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with lab_with_clients() as built:
        yield built


class Node:
    """The lab's node, where one Service has affinity."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.restart()

    def restart(self) -> None:
        self.backend = NftablesBackend(KernelTable(Family.V4), ProcSysctls(), Family.V4)

    def sync(self, *endpoints: str) -> None:
        """Program the Service with these endpoints, all anew."""
        built = world(
            service("web", VIP, node_port=NODE_PORT, session_affinity=True, affinity_seconds=600),
            endpoint_slice("web", "80", endpoints),
        )
        settings = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",), localhost_nodeports=False)

        def work() -> None:
            plan = self.backend.diff(wanted(built, settings, Family.V4, None), None)
            assert plan is not None
            self.backend.apply(plan)

        self._lab.run("node", work)

    def remembered(self) -> int:
        """Return how many clients of the node port are remembered."""
        affinity = Way.NODE_PORT.value.affinity
        return self._lab.run("node", lambda: len(list(KernelTable(Family.V4).elements(affinity))))


def answers(lab: Lab, clients: list[str]) -> list[str]:
    return affinity_bed.answers(lab, clients, 4.0)


def test_hundreds_of_clients_stay_with_their_endpoints(lab: Lab) -> None:
    node = Node(lab)
    node.sync(BE1, BE2, BE3)
    first = answers(lab, CLIENTS)
    assert set(first) == ALL
    assert answers(lab, CLIENTS) == first
    assert node.remembered() == len(CLIENTS)
    node.restart()
    node.sync(BE1, BE2, BE3)
    assert answers(lab, CLIENTS) == first


def test_only_the_clients_of_an_endpoint_that_goes_get_another(lab: Lab) -> None:
    node = Node(lab)
    node.sync(BE1, BE2, BE3)
    some = CLIENTS[:60]
    first = answers(lab, some)
    node.sync(BE1, BE3)
    second = answers(lab, some)
    gone = HOSTS["be2"].v4
    assert gone not in second
    assert all(now == before for now, before in zip(second, first, strict=True) if before != gone)
    assert answers(lab, some) == second
    node.sync(BE1, BE2, BE3)
    assert answers(lab, some) == second
    assert node.remembered() == len(some)


def test_clients_for_whom_there_is_no_room_are_served(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    name = Way.NODE_PORT.value.affinity
    monkeypatch.setitem(SPECS, name, msgspec.structs.replace(SPECS[name], size=5))
    node = Node(lab)
    node.sync(BE1, BE2, BE3)
    first = answers(lab, CLIENTS[:40])
    assert node.remembered() == 5
    assert set(first) == ALL
    again = answers(lab, CLIENTS[:40])
    assert again[:5] == first[:5]
    assert set(again) == ALL
