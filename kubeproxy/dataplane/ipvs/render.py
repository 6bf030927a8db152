"""ServiceState → Part: the virtual servers and set entries of one Service port. Pure.

The rules (`rules.py`) are the same whatever the Services are; a Service is what its addresses are in sets for.
Which endpoints a client may have is decided in the model; here that becomes destinations. The same in the words of
iptables mode is `dataplane/iptables/render.py`.

Cost: 2 µs for a Service of three endpoints.
"""

from collections.abc import Collection, Iterator

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import Entry, Part, Virtual
from kubeproxy.kernel.ipvs_types import FALLBACK, SOURCE_PORT, Server, ServerKey, mark_key
from kubeproxy.model.addresses import outermost, within
from kubeproxy.model.desired import Refusal, ServiceState
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import NodeState

STICKY_SCHEDULER = "mh"
"""For short circuits of Services with affinity: the kernel's own persistence forgets the endpoint's port where a
packet's mark is what leads to a virtual server. A hash of the client's address keeps its endpoint as well."""

_FLAGS = {"sh": FALLBACK, "mh": FALLBACK | SOURCE_PORT}
"""Without the first these would refuse a client whose endpoint drains. The other has `mh` spread a client's
connections, as upstream has it."""

_AT_CLUSTER_IPS = (Set.CLUSTER_IP,)

_REFUSALS = {Refusal.REJECT: Set.NO_ENDPOINTS, Refusal.DROP: Set.NO_LOCAL}

WHOLE_MARK = 0xFFFFFFFF
"""A virtual server for a mark takes packets that have this mark and no other bit."""

_LINK_LOCAL = "fe80::/10"


def wants_mark(state: ServiceState) -> bool:
    """Return whether pods and the node itself are sent elsewhere than who comes from outside."""
    return state.is_external and state.external_local and bool(state.cluster)


def node_port_addresses(node: NodeState, local: Collection[str]) -> tuple[str, ...]:
    """Return where node ports answer, of this machine's addresses.

    Loopback is never among them, as IPVS would send the packet out with that source. Nor are IPv6 link-local
    addresses: an answer from one would have to know by which interface it leaves.
    """
    chosen = [
        each
        for each in local
        if node.answers_node_ports(each, local)
        and not within(each, node.family.loopback)
        and not within(each, _LINK_LOCAL)
    ]
    return tuple(sorted(chosen))


class Renderer:
    """Renders for one node and one family."""

    def __init__(self, node: NodeState, settings: IpvsSettings, local: Collection[str]) -> None:
        """See the class; ``local`` are this machine's addresses, but for those of kube-ipvs0."""
        self._node = node
        self._scheduler = settings.scheduler
        self.node_port_addresses = node_port_addresses(node, frozenset(local))
        """Where node ports answer."""

    def render(self, state: ServiceState, mark: int = 0) -> Part:
        """Render one port; ``mark`` is its own, for one that `wants_mark`."""
        virtuals, addresses = self._internal(state)
        if state.is_external:
            virtuals += tuple(self._external(state, mark))
            addresses += state.external_ips + state.load_balancer_ips
        entries: list[Entry] = []
        if virtuals:  # else other Services have all its places, and nobody comes to its endpoints by it
            protocol = state.name.protocol
            entries += [(Set.LOOP_BACK, (each.address, protocol, each.port)) for each in state.nearby]
        if state.health_check_node_port:
            entries.append((Set.HEALTH_CHECKS, state.health_check_node_port))
        return Part(virtuals=virtuals, addresses=addresses, entries=tuple(entries))

    def _internal(self, state: ServiceState) -> tuple[tuple[Virtual, ...], tuple[str, ...]]:
        """Return the virtual server at the cluster IP, and that address: neither when it is another Service's."""
        address = state.cluster_ip
        if not address:
            return (), ()
        destinations = state.internal
        roles: tuple[Set, ...] = _AT_CLUSTER_IPS
        if not destinations and (refusal := state.internal_refusal):
            roles = (*roles, _REFUSALS[refusal])
        return (Virtual(self._server(state, address, state.port), destinations, roles),), (address,)

    def _server(self, state: ServiceState, address: str, port: int) -> Server:
        scheduler = state.scheduler or self._scheduler
        key = ServerKey(state.name.protocol, address, port)
        return Server(key, scheduler, state.affinity_seconds, _FLAGS.get(scheduler, 0))

    def _external(self, state: ServiceState, mark: int) -> Iterator[Virtual]:
        """Yield the virtual servers that clients outside the cluster can address, and those of short circuits."""
        protocol, roles = state.name.protocol, self._external_roles(state)
        cut = wants_mark(state)

        def external(address: str, port: int, more: tuple[Entry, ...], is_node_port: bool) -> Virtual:
            if cut:
                more = (*more, (Set.SHORT_CIRCUIT, (address, protocol, port, mark, WHOLE_MARK)))
            return Virtual(self._server(state, address, port), state.external, roles, more, is_node_port)

        for ip in state.external_ips:
            yield external(ip, state.port, (), False)
        for ip in state.load_balancer_ips:
            yield external(ip, state.port, self._guard(state, ip), False)
        if state.node_port:
            for ip in self.node_port_addresses:
                yield external(ip, state.node_port, (), True)
        if cut:
            yield from self._short_circuits(state, mark)

    def _external_roles(self, state: ServiceState) -> tuple[Set, ...]:
        refusal = state.external_refusal
        refused = (_REFUSALS[refusal],) if refusal else ()
        return refused if state.external_local else (Set.MASQUERADE, *refused)

    def _short_circuits(self, state: ServiceState, mark: int) -> Iterator[Virtual]:
        """Yield the virtual server for pods, and that for the node itself, whose packets are to be masqueraded."""
        scheduler = state.scheduler or self._scheduler
        flags = _FLAGS.get(scheduler, 0)
        if state.affinity_seconds:
            scheduler, flags = STICKY_SCHEDULER, FALLBACK
        for each in (mark, mark | self._node.mark):
            yield Virtual(Server(mark_key(self._node.family, each), scheduler, 0, flags), state.cluster)

    def _guard(self, state: ServiceState, address: str) -> tuple[Entry, ...]:
        """Return who may come through a load balancer's address; nothing where everybody may."""
        if not state.source_ranges:
            return ()
        protocol, port = state.name.protocol, state.port
        admitted = state.source_ranges
        if state.node_in_ranges:
            # The node speaks to an address that it holds itself from that very address.
            admitted = (*admitted, f"{address}/{self._node.family.host_bits}")
        # One that lies within another one says nothing, and nftables would refuse it.
        return (
            (Set.GUARDED, (address, protocol, port)),
            *[(Set.ADMITTED, (address, protocol, port, source)) for source in outermost(admitted)],
        )
