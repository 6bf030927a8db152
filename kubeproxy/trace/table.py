"""ServiceStates by where packets go: what one look-up of the dataplane finds. Pure.

A Table holds one moment of one family. It may hold some Services only: those that a packet can concern
(`concerned`), so that one question does not cost a walk over 10,000 of them.
"""

from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum

from kubeproxy.model.addresses import Family, within
from kubeproxy.model.claims import Place
from kubeproxy.model.desired import ServiceState, wanted
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.objects import Protocol, Record, Service
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World


class Way(StrEnum):
    """As what a destination belongs to a Service."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER_IP = "load balancer IP"
    NODE_PORT = "node port"


class Found(Record, frozen=True):
    """A Service port, and the way in that was taken."""

    way: Way
    state: ServiceState


class LeftOut(Record, frozen=True):
    """A Service port that claims a place in vain."""

    name: ServicePortName
    why: str


class Table:
    """One family's Service ports on one node, for `verdict.judge`. Frozen once built: any thread may read it."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        family: Family,
        *,
        local_addresses: Collection[str] = (),
        only: Collection[Key] | None = None,
        quarantined: Mapping[ServicePortName, str] | None = None,
    ) -> None:
        """Index the Services ``only`` (None: all). ``local_addresses`` are those that the node's kernel has.

        ``quarantined`` are ports that the backend had to leave out, and why.
        """
        found = wanted(world, settings, family, only)
        self.node = found.node
        self._local = frozenset(local_addresses) | {self.node.node_ip}
        self._places: dict[Place, Found] = {}
        self._cluster_ips: dict[str, Key] = {}
        self._held: dict[str, Key] = {}
        self.by_ipvs = settings.ipvs is not None
        self._health: dict[int, ServiceState] = {}
        self._left_out: dict[Place, list[LeftOut]] = {}
        for name, state in found.ports:
            if state.cluster_ip:
                self._cluster_ips.setdefault(state.cluster_ip, name.key)
            if self.by_ipvs:
                self._held |= dict.fromkeys((*state.external_ips, *state.load_balancer_ips), name.key)
            why = quarantined.get(name, "") if quarantined else ""
            if why:
                for place, _ in places(state):
                    self._leave_out(place, name, f"the kernel interface refused it: {why}")
                continue
            for place, way in places(state):
                self._places[place] = Found(way, state)
            if state.health_check_node_port:
                self._health.setdefault(state.health_check_node_port, state)
        self._note_lost(world, only)

    def _note_lost(self, world: World, only: Collection[Key] | None) -> None:
        for key in world.claims.lost if only is None else only:
            for index, place in sorted(world.claims.lost.get(key, ())):
                service, owner = world.services.get(key), world.claims.owner(place)
                if service is None or index >= len(service.ports):
                    continue
                port = service.ports[index]
                name = ServicePortName(*key, port.name, port.protocol)
                self._leave_out(place, name, f"the place is that of {owner.whose}")

    def _leave_out(self, place: Place, name: ServicePortName, why: str) -> None:
        self._left_out.setdefault(place, []).append(LeftOut(name, why))

    def is_local(self, address: str) -> bool:
        """Whether the node's kernel takes an address for its own."""
        return address in self._local or is_loopback(address)

    def virtual(self, address: str, protocol: Protocol, port: int) -> Found | None:
        """Return whose virtual address and port this is."""
        return self._places.get(Place(address, protocol, port))

    def node_port(self, protocol: Protocol, port: int) -> Found | None:
        """Return whose node port this is."""
        return self._places.get(Place("", protocol, port))

    def cluster_ip_owner(self, address: str) -> Key | None:
        """Return a Service that has this cluster IP, with whatever ports."""
        return self._cluster_ips.get(address)

    def holder(self, address: str) -> Key | None:
        """Return a Service for which the node holds this external or load balancer address, with whatever ports.

        In ipvs mode it holds them all, but for those that another device has.
        """
        return None if self.is_local(address) else self._held.get(address)

    def health_check(self, port: int) -> ServiceState | None:
        """Return the Service whose health-check node port this is."""
        return self._health.get(port)

    def left_out(self, address: str, protocol: Protocol, port: int) -> tuple[LeftOut, ...]:
        """Return who claims a place in vain; ``address`` is "" for a node port."""
        return tuple(self._left_out.get(Place(address, protocol, port), ()))

    def is_unallocated(self, address: str) -> bool:
        """Whether an address is one that ServiceCIDRs give out and nobody has."""
        return address not in self._cluster_ips and any(within(address, cidr) for cidr in self.node.service_cidrs)


def places(state: ServiceState) -> Iterator[tuple[Place, Way]]:
    """Yield where a Service port is reached."""
    protocol = state.name.protocol
    if state.cluster_ip:
        yield Place(state.cluster_ip, protocol, state.port), Way.CLUSTER_IP
    for ip in state.external_ips:
        yield Place(ip, protocol, state.port), Way.EXTERNAL_IP
    for ip in state.load_balancer_ips:
        yield Place(ip, protocol, state.port), Way.LOAD_BALANCER_IP
    if state.node_port:
        yield Place("", protocol, state.node_port), Way.NODE_PORT


def concerned(world: World, address: str, port: int) -> set[Key]:
    """Return the Services that a packet to an address and port may concern. Cost: 1 µs a Service of the World."""

    def has(service: Service) -> bool:
        addresses = (service.cluster_ips, service.external_ips, service.load_balancer_ips)
        if any(address in each for each in addresses) or service.health_check_node_port == port:
            return True
        return any(each.node_port == port for each in service.ports)

    return {key for key, service in world.services.items() if has(service)}


def is_loopback(address: str) -> bool:
    """Whether an address is of 127.0.0.0/8, or ::1."""
    return address == "::1" or address.startswith("127.")
