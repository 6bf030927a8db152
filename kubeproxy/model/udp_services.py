"""Which UDP flows are stale: tracked to an endpoint that serves no more, or from before there was one.

The kernel translates the first packet of a flow and repeats that for all others. A TCP client whose server is gone
connects anew; one that sends UDP from the same port for ever (a resolver, a syslog or SIP client) is sent to the
dead endpoint for ever, or to nobody, when its first packet came before the Service had an endpoint. So after the
rules changed, such entries are deleted, and the next packet is decided anew.

As upstream (pkg/proxy/conntrack): UDP only; a flow belongs to the Service port that its first packet was addressed
to; it stays while the endpoint that answers it serves, whatever policies and topology say now, so that a change of
the Service ends no flow (neither does it end a TCP connection); nothing is deleted while a port has no endpoint at
all. Other than upstream:
- An endpoint that is ready but does not serve counts as one that serves: with publishNotReadyAddresses the rules
  choose it, and upstream ends its flows whenever another endpoint changes.
- A node port's flows are those to an address where the node port answers here. Upstream takes the port on *any*
  address, and so ends flows that this node only forwards, to somebody else's port 30053.
- A flow that belongs to a virtual IP is no node port's, even if the port is the same.
- An entry of another tracking zone that nobody translated is left to whoever keeps zones (OVS has its own).
- Deletion is due when a flow may have become stale: when an endpoint left, came first, or an address was added.
  Upstream looks at all flows after every change of any endpoint.

Cost: O(1) a touched Service without UDP; about 20 µs a touched UDP port of three endpoints, of one of a large
Service what differs (`runs.py`); O(1) a flow.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from kubeproxy.model.addresses import Family, host_port
from kubeproxy.model.desired import ServiceState, stream
from kubeproxy.model.endpoints import PortEndpoint
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.ident import Key, ServicePortName
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Protocol, Record, Service
from kubeproxy.model.runs import Run, Runs, difference, in_runs
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World

Place = tuple[str, int]
"""An address and a port."""
Serving = Runs[PortEndpoint] | dict[str, PortEndpoint]
"""Endpoints that are found by text (`get`); dictionaries but of large Services."""


class UdpPort(Record, frozen=True, kw_only=True):
    """What decides about the flows of one UDP port of a Service."""

    name: ServicePortName
    places: frozenset[Place]
    """Its virtual addresses."""
    node_port: int
    endpoints: Serving
    """Who may answer."""

    @property
    def ports(self) -> frozenset[int]:
        """Every destination port that its flows may have."""
        return frozenset(port for _, port in self.places) | ({self.node_port} - {0})


def udp_ports(
    world: World, settings: Settings, node: NodeState, only: Iterable[Key] | None = None
) -> Iterator[UdpPort]:
    """Yield the UDP ports of the Services ``only`` (None: of all)."""
    for key in world.services if only is None else only:
        service = world.services.get(key)
        if service is None or not _has_udp(service):
            continue
        endpoints = world.endpoints_of(key, node.family)
        own = frozenset({*service.cluster_ips, *service.external_ips, *service.load_balancer_ips})
        for name, state in stream(world, settings, node, (key,)):
            if name.protocol is Protocol.UDP:
                serving = _serving(endpoints.get((name.port, Protocol.UDP), ()), own)
                yield UdpPort(name=name, places=_places(state), node_port=state.node_port, endpoints=serving)


def _serving(endpoints: Sequence[PortEndpoint], own: frozenset[str]) -> Serving:
    """Return who serves, but for a Service's ``own`` addresses."""
    if in_runs(endpoints):
        return endpoints.made(_serving_of, own)
    return {each.text: each for each in endpoints if _serves(each, own)}


def _serving_of(endpoints: Sequence[PortEndpoint], own: frozenset[str]) -> Run[PortEndpoint] | None:
    found = tuple([each for each in endpoints if _serves(each, own)])
    return Run(found) if found else None


def _serves(each: PortEndpoint, own: frozenset[str]) -> bool:
    conditions = each.endpoint.conditions
    return (conditions.ready or conditions.serving) and each.endpoint.address not in own


def _has_udp(service: Service) -> bool:
    return any(port.protocol is Protocol.UDP for port in service.ports)


def _places(state: ServiceState) -> frozenset[Place]:
    addresses = (state.cluster_ip, *state.external_ips, *state.load_balancer_ips)
    return frozenset((address, state.port) for address in addresses if address)


class UdpServices:
    """Every UDP port of one family, by where its flows go, and which of them deserve a look. Not thread-safe."""

    def __init__(self, settings: Settings, family: Family) -> None:
        self._settings = settings
        self._node = NodeState(family=family, name=settings.node_name)
        self._ports: dict[Key, dict[ServicePortName, UdpPort]] = {}
        self._places: dict[Place, UdpPort] = {}
        self._node_ports: dict[int, UdpPort] = {}
        self._due: set[ServicePortName] = set()

    def concerns(self, world: World, scope: Collection[Key]) -> bool:
        """Return whether a change of the Services in ``scope`` can be about UDP, or something is due still."""
        if self._due:
            return True
        services = ((key, world.services.get(key)) for key in scope)
        return any(key in self._ports or (service is not None and _has_udp(service)) for key, service in services)

    def update(
        self,
        world: World,
        node: NodeState,
        scope: Collection[Key] | None,
        left_out: Collection[ServicePortName] = (),
    ) -> None:
        """Take over the Services in ``scope`` (None: all, and trust nothing about their flows).

        Ports that are ``left_out`` of the kernel's rules keep their flows until they are in again.
        """
        self._node = node
        touched = list(self._ports) if scope is None else [key for key in scope if key in self._ports]
        before = {name: port for key in touched for name, port in self._ports.pop(key).items()}
        for port in before.values():
            self._forget(port)
        for port in udp_ports(world, self._settings, node, scope):
            if port.name in left_out:
                port = msgspec.structs.replace(port, endpoints={})
            self._remember(port)
            if scope is None or _may_have_stale_flows(before.pop(port.name, None), port):
                self._due.add(port.name)
        self._due.difference_update(name for name in before if name not in self._ports.get(name.key, ()))

    def distrust(self) -> None:
        """Note that any port's flows may be stale."""
        self._due.update(name for ports in self._ports.values() for name in ports)

    def due(self) -> FlowMatch | None:
        """Return which flows deserve a look since the last `done`, or None when there are none."""
        ports = [self._ports[name.key][name] for name in self._due]
        wanted = frozenset(number for port in ports if port.endpoints for number in port.ports)
        return FlowMatch(protocol=Protocol.UDP, ports=wanted) if wanted else None

    def done(self) -> None:
        """Note that every stale flow among those that were due is gone."""
        self._due.clear()

    def owner(self, flow: Flow, local: Collection[str]) -> UdpPort | None:
        """Return the port that a flow belongs to, None for one that is no Service's.

        ``local`` are this machine's addresses.
        """
        if flow.protocol is not Protocol.UDP:
            return None
        port = self._places.get((flow.destination, flow.port))
        if port is not None:
            return port
        port = self._node_ports.get(flow.port)
        return port if port is not None and self._node.answers_node_ports(flow.destination, local) else None

    def is_stale(self, flow: Flow, local: Collection[str]) -> bool:
        """Return whether a flow's entry keeps its packets from an endpoint that serves; see the module."""
        port = self.owner(flow, local)
        if port is None or not port.endpoints or (flow.zone and not flow.translated):
            return False
        return port.endpoints.get(host_port(flow.answerer, flow.answerer_port)) is None

    def _remember(self, port: UdpPort) -> None:
        self._ports.setdefault(port.name.key, {})[port.name] = port
        self._places.update(dict.fromkeys(port.places, port))
        if port.node_port:
            self._node_ports[port.node_port] = port

    def _forget(self, port: UdpPort) -> None:
        for place in port.places:
            if self._places.get(place) is port:
                del self._places[place]
        if self._node_ports.get(port.node_port) is port:
            del self._node_ports[port.node_port]


def _may_have_stale_flows(before: UdpPort | None, after: UdpPort) -> bool:
    """Return whether some flow may be stale now that was not, a port's flows having been in order before."""
    if before is None or not before.endpoints:
        return True
    moved = after.node_port not in (0, before.node_port) or not after.places <= before.places
    return moved or _has_lost(before.endpoints, after.endpoints)


def _has_lost(before: Serving, after: Serving) -> bool:
    if type(before) is Runs and type(after) is Runs:
        gone, come = difference(before, after)
        return not gone.keys() <= come.keys()
    texts = before if isinstance(before, dict) else [each.text for each in before]
    return any(after.get(text) is None for text in texts)
