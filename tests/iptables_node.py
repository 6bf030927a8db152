"""The iptables backend over a model kernel, and a World to sync from."""

from kubeproxy.dataplane.base import Applied
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Service
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, key, service, world

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))


class Node:
    """A backend, the kernel under it, and a World to sync from."""

    def __init__(self, *objects: Service | EndpointSlice, settings: Settings = SETTINGS) -> None:
        self.world = world(*objects)
        self.settings = settings
        self.sets = FakeSets()
        self.tables = FakeTables(self.sets)
        self.sysctls = FakeSysctls()
        self.restart()

    def restart(self) -> None:
        """Start a new backend over the same kernel."""
        self.backend = IptablesBackend(self.tables, self.sets, self.sysctls, Family.V4)

    def full(self) -> Applied:
        plan = self.backend.diff(wanted(self.world, self.settings, Family.V4), None)
        assert plan is not None
        return self.backend.apply(plan)

    def put(self, *objects: Service | EndpointSlice) -> Applied | None:
        touched: set[Key] = set()
        for each in objects:
            identity = (each.namespace, each.name)
            batch = {identity: each}
            touched |= (
                self.world.apply_services(batch)  # type: ignore[arg-type]
                if isinstance(each, Service)
                else self.world.apply_slices(batch)  # type: ignore[arg-type]
            )
        return self.partial(touched)

    def remove(self, name: str) -> Applied | None:
        return self.partial(self.world.apply_services({key(name): None}))

    def partial(self, touched: set[Key]) -> Applied | None:
        plan = self.backend.diff(wanted(self.world, self.settings, Family.V4, touched), touched)
        return None if plan is None else self.backend.apply(plan)

    def rules(self, chain: str, table: str = "nat") -> list[str]:
        return self.tables.tables[table].get(chain, [])

    def service_chains(self) -> set[str]:
        return {
            chain for chain in self.tables.tables["nat"] if chain.startswith(("KUBE-S", "KUBE-EXT", "KUBE-FW"))
        }


def web(**fields: object) -> Service:
    return service("web", "10.96.0.1", "80>8080", **fields)  # type: ignore[arg-type]


def web_slice(*addresses: str) -> EndpointSlice:
    return endpoint_slice("web", "80>8080", addresses or ("10.244.0.2@node1", "10.244.1.2@node2"))
