"""Endpoints come and go, classes with them, agents are restarted and the node changes: no connection is lost.

Both families, at a rate of new connections, and with others held open all the time.
"""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.watch import Commits
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import Service
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.netns.takeover_bed import EXTERNAL, NODE_PORT, VIP, routes
from tests.netns.traffic import ECHO_PORT, traffic
from tests.scenarios.addresses import HOSTS, NODE, POD_NETWORK
from tests.scenarios.lab import Lab

pytestmark = pytest.mark.netns

RATE = 150
ROUNDS = ("be1", "be1 be2 be3", "be3", "be2 be4", "be1 be2 be3 be4", "be4 be1 be3", "be2")
NAMESPACES = tuple(dict.fromkeys(HOSTS[name].namespace for name in ("be1", "be2", "be3", "be4")))
SETTINGS = Settings(
    node_name="node1", cluster_cidrs=tuple(POD_NETWORK.values()), localhost_nodeports=False, bind_address=NODE.v4
)


class Node:
    """The lab's node with an agent's backends."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.settings = SETTINGS
        self.world = world(web())
        self.restart()

    def restart(self) -> None:
        commits = Commits()
        self._backends = {
            family: NftablesBackend(KernelTable(family), ProcSysctls(), family, commits) for family in Family
        }

    def endpoints(self, names: str) -> None:
        for family in Family:
            ready = [f"{HOSTS[name].address(family)}@node{'12'[name > 'be2']}" for name in names.split()]
            piece = endpoint_slice("web", str(ECHO_PORT), ready, suffix=family.label.lower())
            self.world.apply_slices({(piece.namespace, piece.name): piece})

    def put(self, changed: Service) -> None:
        self.world.apply_services({(changed.namespace, changed.name): changed})

    def sync(self, *, full: bool = False) -> None:
        for family, backend in self._backends.items():
            self._lab.run("node", partial(self._sync, family, backend, full))

    def _sync(self, family: Family, backend: NftablesBackend, full: bool) -> None:
        assert backend.observe() == ""
        scope = None if full or backend.needs_full else {("default", "web")}
        plan = backend.diff(wanted(self.world, self.settings, family, scope), scope)
        if plan is not None:
            backend.apply(plan)
        assert backend.observe() == ""


def web(**fields: object) -> Service:
    addresses = ",".join(VIP.values())
    return service(
        "web",
        addresses,
        "80",
        node_port=NODE_PORT,
        external_ips=tuple(EXTERNAL.values()),
        **fields,  # type: ignore[arg-type]
    )


def test_no_connection_is_lost_whatever_changes(lab: Lab, record_property: Callable[[str, object], None]) -> None:
    node = Node(lab)
    node.endpoints(ROUNDS[0])
    node.sync()
    with traffic(lab, NAMESPACES, routes(Family), RATE, held=4) as running:
        for number in range(4):
            for names in ROUNDS:
                node.endpoints(names)
                node.sync()
                running.settle(0.02)
            node.put(web(session_affinity=True, affinity_seconds=60) if number % 2 else web())
            node.sync()
            running.settle(0.1)
            node.restart()
            node.sync(full=True)
            running.settle(0.1)
            node.settings = msgspec.structs.replace(node.settings, masquerade_all=not number % 2)
            node.sync(full=True)
    record_property("traffic", running.verdict())
