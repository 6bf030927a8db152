"""The iptables backend inside the packet lab: program a world there, then ask the packets."""

import contextlib
from collections.abc import Iterator

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import EndpointSlice, Node, Protocol, Record, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import service, world
from tests.netns.packet_lab import NODE_IP, PacketLab

SETTINGS = Settings(node_name="node1", cluster_cidrs=("10.244.0.0/16",))
VIP, EXTERNAL, BALANCER, NODE_PORT = "10.96.0.10", "1.2.3.4", "5.6.7.8", 30080
BE1, BE2, BE3 = "10.244.0.11@node1", "10.244.0.12@node1", "10.244.1.11@node2"
DROP_SECONDS = 0.4


class Row(Record, frozen=True, kw_only=True):
    """A world, and what each probe must find.

    A probe is `SOURCE [PROTOCOL] ADDRESS:PORT`; an expectation names all backends that must answer (and no
    other may), then `same` or `masq` for the client's address as they see it, then their port if it matters;
    or REFUSED, or DROPPED.
    """

    name: str
    objects: tuple[Service | EndpointSlice, ...]
    probes: dict[str, str]
    settings: Settings = SETTINGS
    node_ips: tuple[str, ...] = (NODE_IP,)


def everywhere(**fields: object) -> Service:
    return service(
        "web", VIP, node_port=NODE_PORT, external_ips=(EXTERNAL,), load_balancer_ips=(BALANCER,), **fields
    )


def backend_in(flavour: Flavour) -> IptablesBackend:
    tables = Iptables(SystemExec(), Family.V4, flavour)
    return IptablesBackend(tables, Ipset(Family.V4), ProcSysctls(), Family.V4, Nfacct())


def sync(lab: PacketLab, backend: IptablesBackend, from_: World, settings: Settings = SETTINGS) -> None:
    def work() -> None:
        plan = backend.diff(wanted(from_, settings, Family.V4), None)
        assert plan is not None
        backend.apply(plan)

    lab.run("node", work)


@contextlib.contextmanager
def programmed(lab: PacketLab, row: Row, flavour: Flavour) -> Iterator[IptablesBackend]:
    built = world(*row.objects)
    built.apply_node(Node(name="node1", internal_ips=row.node_ips))
    backend = backend_in(flavour)
    sync(lab, backend, built, row.settings)
    try:
        yield backend
    finally:
        lab.run("node", backend.cleanup)


def check(lab: PacketLab, probe: str, expected: str) -> None:
    """Probe until every expected backend has answered; complain about anything else."""
    source, *middle, destination = probe.split()
    address, _, port = destination.rpartition(":")
    protocol = Protocol(middle[0]) if middle else Protocol.TCP
    names, *how = expected.split()
    if not how:
        timeout = DROP_SECONDS if expected == "DROPPED" else 2.0
        found = lab.probe(source, protocol, address, int(port), timeout)
        assert found == expected, f"{probe}: expected {expected}, got {found}"
        return
    missing = set(names.split(","))
    for _ in range(60):
        found = lab.probe(source, protocol, address, int(port))
        assert not isinstance(found, str), f"{probe}: expected {expected}, got {found}"
        who, masq, reached = found
        assert who in names.split(","), f"{probe}: {who} answered instead of {names}"
        assert [masq, str(reached)][: len(how)] == how, f"{probe}: expected {how}, got {found}"
        missing.discard(who)
        if not missing:
            return
    raise AssertionError(f"{probe}: {missing} never answered")
