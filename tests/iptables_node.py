"""The iptables backend over a model kernel, and a World to sync from."""

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Service
from kubeproxy.model.settings import Settings
from tests.backend_node import BackendNode

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))


class Node(BackendNode):
    """A backend, the kernel under it, and a World to sync from."""

    def __init__(self, *objects: Service | EndpointSlice, settings: Settings = SETTINGS) -> None:
        super().__init__(settings, *objects)
        self.sets = FakeSets()
        self.tables = FakeTables(self.sets)
        self.sysctls = FakeSysctls()
        self.restart()

    def restart(self) -> None:
        """Start a new backend over the same kernel."""
        self.backend = IptablesBackend(self.tables, self.sets, self.sysctls, Family.V4)

    def rules(self, chain: str, table: str = "nat") -> list[str]:
        return self.tables.tables[table].get(chain, [])

    def service_chains(self) -> set[str]:
        return {
            chain for chain in self.tables.tables["nat"] if chain.startswith(("KUBE-S", "KUBE-EXT", "KUBE-FW"))
        }
