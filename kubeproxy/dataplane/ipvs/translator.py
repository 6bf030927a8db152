"""What each Service port becomes here: rendered, with its mark, without what this kernel refuses. Pure."""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from kubeproxy.dataplane.budget import Budget
from kubeproxy.dataplane.ipvs.marks import Marks
from kubeproxy.dataplane.ipvs.part import NOTHING, Part
from kubeproxy.dataplane.ipvs.render import Renderer, wants_mark
from kubeproxy.dataplane.ipvs.substitutes import COSTLY, MOST_COSTS, costs, saving, served
from kubeproxy.dataplane.remarks import Quarantine, Remarks
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.model.admission import MOST_PLACES
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import NodeState

MOST_DESTINATIONS = 100_000
"""Of one Service. Each of its places has every endpoint as a destination of its own, which takes the kernel some
400 bytes and 15 µs."""


FEW_DESTINATIONS = MOST_DESTINATIONS // MOST_PLACES
"""So many of a port are not even counted: all ports of a Service together cannot have more than there may be."""
MOST_NAMED = 5
"""Of a port's endpoints that are left out."""


class Translator:
    """ServiceStates to Parts, for one state of the node and of the kernel's abilities."""

    def __init__(
        self,
        node: NodeState,
        settings: IpvsSettings,
        local: Collection[str],
        is_held: Callable[[ServicePortName, ServiceState], bool],
        lacking: Collection[str],
        found: Mapping[Member, int],
        is_occupied: Callable[[int], bool],
        previous: "Translator | None" = None,
    ) -> None:
        """See `marks.Marks`; ``found``: the kernel's by place; ``lacking``: see `substitutes`.

        ``is_held``: whether nothing may stand for a state of a port.
        """
        self._renderer = Renderer(node, settings, local)
        self._is_held = is_held
        self._lacking = lacking
        self._found = found
        self._remembered = previous.marks() if previous else {}
        self._marks = Marks(node.masquerade_bit, is_occupied)
        self.notes = Remarks()
        """How ports are served otherwise than was asked."""
        self.replaced: dict[ServicePortName, Collection[str]] = {}
        """Schedulers that ports would have, and others serve instead of."""
        self.too_large = Quarantine()
        """Ports that are left out for `MOST_DESTINATIONS`."""
        self._no_hosts: dict[str, str] = {}
        """Addresses of endpoints that the kernel refuses, and why. IPVS looks at no more of an endpoint."""
        self._destinations = Budget(MOST_DESTINATIONS, lambda name: name.key)
        self._costs = Budget(MOST_COSTS)
        self._is_used = False
        self._is_chosen = settings.scheduler == COSTLY
        """Whether the administrator wants it for all, whatever it costs."""

    def parts(self, states: Mapping[ServicePortName, ServiceState | None]) -> dict[ServicePortName, Part | None]:
        """Return the Part of each port, None for no port. Raises OverflowError when there is no mark for one."""
        for name in states if self._is_used else ():
            self.too_large.release(name)
            self.replaced.pop(name, None)
            self._destinations.give_back(name)
            self._costs.give_back(name)
        self._is_used = True
        found: dict[ServicePortName, Part | None] = {}
        for name, state in states.items():
            found[name], note = self._part(name, state) if state else (None, "")
            self.notes.say(name, note)
        return found

    def _part(self, name: ServicePortName, state: ServiceState) -> tuple[Part, str]:
        """Return a port's Part, and how it is served otherwise than was asked."""
        if self._is_held(name, state):
            return NOTHING, ""
        kept = without(state, self._no_hosts) if self._no_hosts else state
        mark = self._marks.of(name, self._found_marks(kept)) if wants_mark(kept) else 0
        lacking: Collection[str] = self._lacking
        part, note = self._renderer.render(kept, mark), ""
        if lacking:
            part, note = served(part, lacking)
        count = sum([len(each.destinations) for each in part.virtuals])
        if count > FEW_DESTINATIONS and not self._destinations.take(name, count):
            self.too_large.hold(name, state, _excess(count))
            return NOTHING, ""
        if (cost := costs(part)) and not self._is_chosen and not self._costs.take(name, cost):
            lacking = {*lacking, COSTLY}
            part, note = saving(part, lacking)
        if note:
            self.replaced[name] = frozenset(lacking)
        if kept is not state:
            note = "; ".join(filter(None, (note, self._on_endpoints(state))))
        return part, note

    def squeezed_out(self, names: Collection[ServicePortName]) -> dict[ServicePortName, ServiceState]:
        """Return the ports of the same Services that are too large beside these, which may make room now."""
        if not self.too_large:
            return {}
        keys = {name.key for name in names}
        return {name: state for name, state in self.too_large.states.items() if name.key in keys}

    def leave_out(self, no_hosts: Mapping[str, str]) -> None:
        """From now on, leave out endpoints that have these addresses, each with the kernel's reason."""
        self._no_hosts |= no_hosts

    def marks(self) -> dict[ServicePortName, int]:
        """Return the marks of ports."""
        return self._marks.all()

    def settled(self, name: ServicePortName, state: ServiceState | None) -> None:
        """Note that a port's state is in the kernel: a mark that it does not need may be another's now."""
        if name in self._marks and (state is None or not wants_mark(state)):
            self._marks.release(name)

    def _on_endpoints(self, state: ServiceState) -> str:
        """Return what is to be said of endpoints that are left out."""
        gone = [each for each in state.reachable if each.address in self._no_hosts]
        named = ", ".join(each.text for each in gone[:MOST_NAMED])
        more = f" and {len(gone) - MOST_NAMED:,} more" if len(gone) > MOST_NAMED else ""
        why = self._no_hosts[gone[0].address]
        return f"{named}{more}: left out of its endpoints, since IPVS refuses such an address: {why}"

    def _found_marks(self, state: ServiceState) -> list[int]:
        protocol = state.name.protocol
        places = [(address, protocol, state.port) for address in (*state.external_ips, *state.load_balancer_ips)]
        places += [
            (address, protocol, state.node_port)
            for address in self._renderer.node_port_addresses
            if state.node_port
        ]
        marks = [self._found[place] for place in places if place in self._found]
        return [self._remembered[state.name], *marks] if state.name in self._remembered else marks


def without(state: ServiceState, addresses: Collection[str]) -> ServiceState:
    """Return a port's state without the endpoints that have these addresses; itself when there is none."""

    def kept(targets: Sequence[Target]) -> tuple[Target, ...]:
        return tuple([each for each in targets if each.address not in addresses])

    cluster, local = kept(state.cluster), kept(state.local)
    if len(cluster) == len(state.cluster) and len(local) == len(state.local):
        return state
    somebody = state.has_endpoints and bool(cluster or not state.cluster)
    return msgspec.structs.replace(state, cluster=cluster, local=local, has_endpoints=somebody)


def _excess(count: int) -> str:
    return (
        f"{count:,} destinations (its endpoints at each of its addresses) are more than there is room for "
        f"({MOST_DESTINATIONS:,} a Service)"
    )
