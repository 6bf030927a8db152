"""What kube-proxy 1.36 makes of a Service port in any of its modes, for the texts of two of them.

Written from the description in reference/kube-proxy.md §1.5, independently of our model's decisions. Covered: what
the take-over tests need, which is every kind of address, both traffic policies, source ranges and affinity; ready
endpoints only.
"""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Endpoint, Record, Service, ServicePort, ServiceType, TrafficPolicy
from kubeproxy.model.world import World

MARK = "0x00004000"


class Node(Record, frozen=True, kw_only=True):
    """What kube-proxy knows of its node, for one family."""

    family: Family = Family.V4
    name: str = "node1"
    ip: str
    cluster_cidr: str

    @property
    def host(self) -> str:
        return "/32" if self.family is Family.V4 else "/128"

    @property
    def loopback(self) -> str:
        return "127.0.0.0/8" if self.family is Family.V4 else "::1/128"


class Port:
    """A Service port, and which kinds of its traffic have endpoints."""

    def __init__(
        self, node: Node, service: Service, port: ServicePort, endpoints: list[tuple[Endpoint, str]]
    ) -> None:
        self.node = node
        self.service = service
        self.port = port
        self.name = ServicePortName(service.namespace, service.name, port.name, port.protocol)
        self.protocol = port.protocol.lower()
        self.all = [text for _, text in endpoints]
        self.local = [text for each, text in endpoints if each.node_name == node.name]
        family, local = node.family, TrafficPolicy.LOCAL
        self.vip = next(ip for ip in service.cluster_ips if family_of(ip) is family)
        self.external_ips = [ip for ip in service.external_ips if family_of(ip) is family]
        self.balancers = [ip for ip in service.load_balancer_ips if family_of(ip) is family]
        self.ranges = [each for each in service.source_ranges if family_of(each) is family]
        self.internal_local = service.internal_policy is local
        exposed = service.type in (ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER) or bool(self.external_ips)
        self.external_local = service.external_policy is local and exposed
        self.outside = bool(port.node_port or self.external_ips or self.balancers)
        self.has_internal = bool(self.local if self.internal_local else self.all)
        self.has_external = bool(self.local if self.external_local else self.all)
        self.uses_external = bool(self.all) and self.outside
        self.uses_cluster = bool(self.all) and (not self.internal_local or self.outside)
        self.uses_local = bool(self.local) and (self.internal_local or (self.external_local and self.outside))

    @property
    def reachable(self) -> list[str]:
        return self.all if self.uses_cluster else self.local if self.uses_local else []

    @property
    def node_in_ranges(self) -> bool:
        return any(ip_address(self.node.ip) in ip_network(each) for each in self.ranges)


def ports(world: World, node: Node) -> Iterator[Port]:
    for key in sorted(world.services):
        service = world.services[key]
        if all(family_of(ip) is not node.family for ip in service.cluster_ips):
            continue
        for port in service.ports:
            yield Port(node, service, port, _endpoints(world, service, port, node.family))


def address_of(text: str) -> str:
    """Return the address in "address:port"."""
    return text.rpartition(":")[0].strip("[]")


def _endpoints(world: World, service: Service, port: ServicePort, family: Family) -> list[tuple[Endpoint, str]]:
    found = {}
    for piece in world.slices_of((service.namespace, service.name)):
        for each in piece.ports if piece.address_type == family.label else ():
            if (each.name, each.protocol) != (port.name, port.protocol):
                continue
            for endpoint in piece.endpoints:
                if endpoint.conditions.ready:
                    host = endpoint.address if family is Family.V4 else f"[{endpoint.address}]"
                    found[f"{host}:{each.port}"] = endpoint
    return [(found[text], text) for text in sorted(found)]
