"""What each Service port becomes here: rendered, with its mark, without what this kernel refuses. Pure."""

from collections.abc import Callable, Collection, Mapping

from kubeproxy.dataplane.ipvs.marks import Marks
from kubeproxy.dataplane.ipvs.part import NOTHING, Part
from kubeproxy.dataplane.ipvs.render import Renderer, wants_mark
from kubeproxy.dataplane.ipvs.substitutes import COSTLY, MOST_COSTS, costs, saving, served
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import NodeState

Held = Mapping[ServicePortName, tuple[ServiceState, str]]
"""States that the kernel refused, each with its complaint."""


class Translator:
    """ServiceStates to Parts, for one state of the node and of the kernel's abilities."""

    def __init__(
        self,
        node: NodeState,
        settings: IpvsSettings,
        local: Collection[str],
        held: Held,
        lacking: Collection[str],
        found: Mapping[Member, int],
        is_occupied: Callable[[int], bool],
        previous: "Translator | None" = None,
    ) -> None:
        """See `marks.Marks`; ``found``: the kernel's by place; ``lacking``: see `substitutes`."""
        self._renderer = Renderer(node, settings, local)
        self._local = [address for address in local if node.answers_node_ports(address, local)]
        self._held = held
        self._lacking = lacking
        self._found = found
        self._remembered = previous.marks() if previous else {}
        self._marks = Marks(node.masquerade_bit, is_occupied)
        self.notes: dict[ServicePortName, str] = {}
        """How ports are served otherwise than was asked."""
        self._costs: dict[ServicePortName, int] = {}
        """What of `MOST_COSTS` each port has, where that is anything."""
        self._spent = 0
        self._is_chosen = settings.scheduler == COSTLY
        """Whether the administrator wants it for all, whatever it costs."""

    def part(self, name: ServicePortName, state: ServiceState | None) -> Part | None:
        """Return a port's Part, None for no port. Raises OverflowError when there is no mark for it."""
        self.notes.pop(name, None)
        self._spent -= self._costs.pop(name, 0)
        if state is None:
            return None
        held = self._held.get(name)
        if held is not None and held[0] == state:
            return NOTHING
        mark = self._marks.of(name, self._found_marks(state)) if wants_mark(state) else 0
        part, note = served(self._renderer.render(state, mark), self._lacking)
        if cost := costs(part):
            if self._spent + cost > MOST_COSTS and not self._is_chosen:
                part, note = saving(part, self._lacking)
            else:
                self._costs[name] = cost
                self._spent += cost
        if note:
            self.notes[name] = note
        return part

    def marks(self) -> dict[ServicePortName, int]:
        """Return the marks of ports."""
        return self._marks.all()

    def settled(self, name: ServicePortName, state: ServiceState | None) -> None:
        """Note that a port's state is in the kernel: a mark that it does not need may be another's now."""
        if state is None or not wants_mark(state):
            self._marks.release(name)

    def _found_marks(self, state: ServiceState) -> list[int]:
        protocol = state.name.protocol
        places = [(address, protocol, state.port) for address in (*state.external_ips, *state.load_balancer_ips)]
        places += [(address, protocol, state.node_port) for address in self._local if state.node_port]
        marks = [self._found[place] for place in places if place in self._found]
        return [self._remembered[state.name], *marks] if state.name in self._remembered else marks
