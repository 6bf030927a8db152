"""nftables mode where a socket may not send all at once, as in a user namespace, on the real kernel."""

import pytest

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.kernel.nf_tables import socket
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice
from tests.netns.lone_namespace import LoneNamespace
from tests.nftables_node import Node, web, web_slice

pytestmark = pytest.mark.netns

WMEM_MAX = 212_992
"""net.core.wmem_max as it is by default; the kernel gives a socket twice as much."""


class RealNode(Node):
    """See `Node`; over the kernel, to be used in a namespace of its own."""

    def restart(self) -> None:
        self.real = KernelTable(Family.V4)
        self.backend = NftablesBackend(self.real, FakeSysctls(), Family.V4)

    def count(self, name: str) -> int:
        return sum(1 for _ in self.real.elements(name))


def crowd(count: int, name: str) -> EndpointSlice:
    return web_slice(*[f"10.244.{i // 250}.{i % 250}@far" for i in range(count)], name=name)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "SEND_BYTES", WMEM_MAX)


@pytest.mark.parametrize("fields", [{"node_port": 30000}, {"session_affinity": True, "affinity_seconds": 60}])
def test_a_service_that_fits_into_no_transaction_is_served_and_goes(
    alone: LoneNamespace, fields: dict[str, object]
) -> None:
    def work() -> None:
        node = RealNode(web(), web_slice(), web("big", "10.96.0.2", **fields), crowd(6000, "big"))
        before = node.real.generation()
        applied = node.full()
        assert (applied.ports, applied.endpoints, len(applied.quarantined)) == (2, 6002, 0)
        assert node.real.generation() > before + 1
        assert node.backend.observe() == ""
        for endpoints in (crowd(5999, "big"), crowd(1, "big")):  # the rest go while nobody looks
            node.world.apply_slices({(endpoints.namespace, endpoints.name): endpoints})
            node.restart()
            node.full()
            assert node.backend.observe() == ""
        assert node.count("sticky-slots" if "session_affinity" in fields else "nodeport-endpoints") == 1

    alone.run(work)
