"""World → ServiceStates: what the node should do for each port of each Service. The input of every backend.

Flows in: a World, the node's Settings, an IP family and the Services of interest. Flows out: frozen values
that compare equal exactly when no backend has anything to change. A full sync and the sync of one Service
are this same function with another set of keys.

Cost: about 10 µs for a Service of three endpoints; nothing depends on the size of the rest of the World.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, ip_address, ip_network

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.endpoints import PortEndpoint, merge
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.objects import Node, Record, ServicePort
from kubeproxy.model.services import virtual_addresses
from kubeproxy.model.topology import categorize
from kubeproxy.model.world import World

_LOOPBACK = IPv4Network("127.0.0.0/8")


class Settings(Record, frozen=True, kw_only=True):
    """What the administrator chose for this node; both families in one value."""

    node_name: str
    cluster_cidrs: tuple[str, ...] = ()
    """Where pods live, at most one per family: traffic to a cluster IP from elsewhere is masqueraded."""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    nodeport_addresses: tuple[str, ...] = ()
    """CIDRs of the local addresses that node ports answer on; empty means every local address."""
    localhost_nodeports: bool = True
    """Whether node ports answer on 127.0.0.1 too (iptables mode, IPv4 only)."""

    def nodeport_cidrs(self, family: Family) -> tuple[str, ...]:
        """Return where one family's node ports answer; empty means every local address.

        As upstream has it, a /0 makes the others void, and a family that is not named at all is not restricted.
        """
        own = tuple(cidr for cidr in self.nodeport_addresses if family_of(cidr) is family)
        return () if any(cidr.endswith("/0") for cidr in own) else own

    @property
    def nodeports_on_loopback(self) -> bool:
        """Whether some node port answers on 127.0.0.0/8."""
        cidrs = self.nodeport_cidrs(Family.V4)
        return self.localhost_nodeports and (not cidrs or any(map(_LOOPBACK.overlaps, map(IPv4Network, cidrs))))

    def cluster_cidr(self, family: Family) -> str:
        """Return the pod network of one family, or "" when none is known."""
        return next((cidr for cidr in self.cluster_cidrs if family_of(cidr) is family), "")


class Target(Record, frozen=True):
    """An endpoint as a backend needs it."""

    text: str
    """`ip:port`, an IPv6 address in brackets."""
    address: str
    port: int
    may_be_local: bool
    """On this node, or on a node that nobody named: it may then be a client of its own Service (hairpin)."""


class ServiceState(Record, frozen=True, kw_only=True):
    """All that a backend must know of one Service port in one family."""

    name: ServicePortName
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    node_in_ranges: bool = False
    """Whether this node's own address may come through the load balancer addresses."""
    affinity_seconds: int = 0
    """How long a client stays with its endpoint; 0 without affinity."""
    endpoints: tuple[Target, ...] = ()
    """Where traffic that may leave the node goes; sorted by text."""

    @property
    def is_external(self) -> bool:
        """Whether clients outside the cluster can address it."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)


def desired(
    world: World, settings: Settings, family: Family, only: Iterable[Key] | None = None
) -> dict[ServicePortName, ServiceState]:
    """Return the wanted state of every port of the Services ``only`` (None: of all)."""
    return dict(stream(world, settings, family, only))


def stream(
    world: World, settings: Settings, family: Family, only: Iterable[Key] | None = None
) -> Iterator[tuple[ServicePortName, ServiceState]]:
    """`desired`, one port after the other, so that the kernel can be fed while later ones are computed."""
    own = (settings.node_name, "")
    for key in world.services if only is None else only:
        service = world.services.get(key)
        addresses = virtual_addresses(service, family) if service is not None else None
        if service is None or addresses is None:
            continue
        merged = merge(world.slices_of(key), family)
        in_ranges = bool(addresses.source_ranges) and _admits(addresses.source_ranges, world.node, family)
        affinity = service.affinity_seconds if service.session_affinity else 0
        for port in _distinct(service.ports):
            name = ServicePortName(service.namespace, service.name, port.name, port.protocol)
            chosen = categorize(merged.get((port.name, port.protocol), ()))
            yield (
                name,
                ServiceState(
                    name=name,
                    cluster_ip=addresses.cluster_ip,
                    port=port.port,
                    node_port=port.node_port,
                    external_ips=addresses.external_ips,
                    load_balancer_ips=addresses.load_balancer_ips,
                    source_ranges=addresses.source_ranges,
                    node_in_ranges=in_ranges,
                    affinity_seconds=affinity,
                    endpoints=_targets(chosen.cluster, own),
                ),
            )


def _distinct(ports: tuple[ServicePort, ...]) -> Iterable[ServicePort]:
    if len(ports) < 2:
        return ports
    # Two ports of one identity cannot pass the API server; of such a pair the first counts.
    return {(port.name, port.protocol): port for port in reversed(ports)}.values()


def _targets(endpoints: Iterable[PortEndpoint], own: tuple[str, str]) -> tuple[Target, ...]:
    return tuple([Target(e.text, e.endpoint.address, e.port, e.endpoint.node_name in own) for e in endpoints])


def _admits(ranges: tuple[str, ...], node: Node | None, family: Family) -> bool:
    addresses = (*node.internal_ips, *node.external_ips) if node else ()
    own = next((ip_address(ip) for ip in addresses if family_of(ip) is family), None)
    return own is not None and any(own in ip_network(text) for text in ranges)
