"""The nftables backend over a model kernel, and a World to sync from."""

from kubeproxy.dataplane.base import Applied
from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.names import VERDICT_MAPS
from kubeproxy.kernel.nf_tables.expressions import Decide
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.fields import text
from kubeproxy.kernel.nf_tables.types import VERDICTS, AddElements, Change, DeleteElements, Element
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Service
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import BackendNode

NODE_IP = "192.168.0.2"


class Node(BackendNode):
    """A backend, the kernel under it, and a World to sync from."""

    def __init__(self, *objects: Service | EndpointSlice, **settings: object) -> None:
        own = {"node_name": "node1", "cluster_cidrs": ("10.244.0.0/16",), "bind_address": NODE_IP}
        super().__init__(Settings(**(own | settings), localhost_nodeports=False), *objects)  # type: ignore[arg-type]
        self.table = FakeTable()
        self.sysctls = FakeSysctls()
        self.restart()

    def restart(self) -> None:
        """Let a new agent find what the last one left."""
        self.backend = NftablesBackend(self.table, self.sysctls, Family.V4)

    def partial(self, touched: set[Key]) -> Applied:
        """See `BackendNode.partial`; there must be something to do."""
        applied = super().partial(touched)
        assert applied is not None
        return applied

    def held(self, name: str) -> dict[str, str]:
        """Return the elements of a set in nft's words, a class as the chain that it leads to."""
        contents = self.table.contents
        assert contents is not None
        spec = contents.sets[name]
        picks = {
            each.key: each.data.chain
            for which in VERDICT_MAPS
            for each in contents.elements[which].values()
            if isinstance(each.data, Decide)
        }
        found = {}
        for each in contents.elements[name].values():
            where = text(each.key, spec.key, Family.V4)
            if each.end is not None:
                where += f" to {text(each.end, spec.key, Family.V4)}"
            data = each.data
            if isinstance(data, Decide) or data is None or spec.data is None or spec.data == VERDICTS:
                found[where] = data.chain if isinstance(data, Decide) else ""
            else:
                found[where] = picks.get(data) or text(data, spec.data, Family.V4)  # type: ignore[arg-type]
        return found

    def element(self, name: str, where: str) -> Element:
        """Return an element by its key in nft's words."""
        assert self.table.contents is not None
        spec = self.table.contents.sets[name]
        elements = self.table.contents.elements[name].values()
        return next(each for each in elements if text(each.key, spec.key, Family.V4) == where)

    def tamper(self, *steps: Change) -> None:
        """Let somebody else change the table."""
        self.table.commit(steps)

    def chains(self) -> set[str]:
        """Return the names of all chains."""
        return set(self.table.chains())


def sizes(steps: list[Change]) -> dict[str, int]:
    """Return how many elements of each set a transaction moves, out with a minus before the name."""
    found: dict[str, int] = {}
    for step in steps:
        if isinstance(step, AddElements):
            found[step.set] = found.get(step.set, 0) + len(step.elements)
        if isinstance(step, DeleteElements):
            found["-" + step.set] = found.get("-" + step.set, 0) + len(step.elements)
    return found


def web(name: str = "web", ip: str = "10.96.0.1", **fields: object) -> Service:
    """Return a Service of one port."""
    return service(name, ip, "http=80>8080", **fields)  # type: ignore[arg-type]


def web_slice(*endpoints: str, name: str = "web") -> EndpointSlice:
    """Return its endpoints, by default one on each of two nodes."""
    return endpoint_slice(name, "http=80>8080", endpoints or ("10.244.1.1@node1", "10.244.2.1@node2"))
