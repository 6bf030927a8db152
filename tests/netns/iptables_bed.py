"""The iptables backend inside the scenarios' lab: program a world there, then ask the packets. IPv4."""

import contextlib
from collections.abc import Iterable, Iterator

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import EndpointSlice, Node, Protocol, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import service, world
from tests.scenarios.addresses import NODE
from tests.scenarios.lab import Lab
from tests.scenarios.probes import probe

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))
VIP, EXTERNAL, BALANCER, NODE_PORT = "10.96.0.10", "1.2.3.4", "5.6.7.8", 30080
BE1, BE2, BE3 = "10.244.0.11@node1", "10.244.0.12@node1", "10.244.1.11@node2"


def everywhere(**fields: object) -> Service:
    return service(
        "web", VIP, node_port=NODE_PORT, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,), **fields
    )


def backend_in(flavour: Flavour) -> IptablesBackend:
    tables = Iptables(SystemExec(), Family.V4, flavour)
    return IptablesBackend(tables, Ipset(Family.V4), ProcSysctls(), Family.V4, Nfacct())


def sync(lab: Lab, backend: IptablesBackend, from_: World, settings: Settings = SETTINGS) -> None:
    def work() -> None:
        plan = backend.diff(wanted(from_, settings, Family.V4), None)
        assert plan is not None
        backend.apply(plan)

    lab.run("node", work)


@contextlib.contextmanager
def programmed(
    lab: Lab, objects: Iterable[Service | EndpointSlice], flavour: Flavour
) -> Iterator[IptablesBackend]:
    built = world(*objects)
    built.apply_node(Node(name="node1", internal_ips=(NODE.v4,)))
    backend = backend_in(flavour)
    sync(lab, backend, built)
    try:
        yield backend
    finally:
        lab.run("node", backend.cleanup)


def check(lab: Lab, question: str, expected: str) -> None:
    """Ask until every expected backend has answered; complain about anything else.

    A question is `SOURCE ADDRESS:PORT`; an expectation names all backends that must answer, then `same` or `masq`
    for the client's address as they see it; or is REFUSED.
    """
    source, destination = question.split()
    address, _, port = destination.rpartition(":")
    names, *how = expected.split()
    missing = set(names.split(","))
    for _ in range(60):
        found = probe(lab, source, Protocol.TCP, address, int(port))
        if isinstance(found, str):
            assert found == expected, f"{question}: expected {expected}, got {found}"
            return
        assert found.server in names.split(","), f"{question}: {found.server} answered instead of {names}"
        assert [found.client] == how, f"{question}: expected {how}, got {found}"
        missing.discard(found.server)
        if not missing:
            return
    raise AssertionError(f"{question}: {missing} never answered")
