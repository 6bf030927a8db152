"""What becomes of a connection's first packet, and why: `judge` follows it through a Table. Pure.

Policy is not decided here: which endpoints a kind of traffic may use is in the ServiceState. Here is the order in
which the dataplane asks its questions, the same in every mode: whose address, who may come, by which policy, to
whom, with which source address.

Cost: about 10 µs.
"""

from collections.abc import Sequence
from enum import StrEnum

from kubeproxy.dataplane.locate import Subject
from kubeproxy.model.addresses import within
from kubeproxy.model.desired import Refusal, ServiceState, Target
from kubeproxy.model.node import LocalKind, NodeState
from kubeproxy.model.objects import Record
from kubeproxy.trace.packet import Origin, Packet
from kubeproxy.trace.table import Table, Way, is_loopback

HAIRPIN = "the endpoint is the client itself"
"""Why an endpoint does not see the client's address although others do."""


class Outcome(StrEnum):
    """How a packet fares."""

    FORWARD = "FORWARD"
    """An endpoint gets it."""
    REFUSED = "REFUSED"
    """The client is told at once that nobody is there."""
    DROPPED = "DROPPED"
    """Nothing comes back."""
    NOT_OURS = "NOT OURS"
    """No Service is concerned; the plain kernel does with it what it does."""


class Step(Record, frozen=True):
    """One question and its answer."""

    subject: Subject
    text: str


class Destination(Record, frozen=True):
    """One endpoint that may get the packet."""

    target: Target
    chance: float
    masquerade: str = ""
    """Why it sees another address than the client's; "" when it sees the client's own."""


class Verdict(Record, frozen=True, kw_only=True):
    """The outcome and how it came about."""

    outcome: Outcome
    steps: tuple[Step, ...]
    destinations: tuple[Destination, ...] = ()
    """Exactly with FORWARD."""
    way: Way | None = None
    state: ServiceState | None = None
    """The Service port that the destination belongs to; None when it is nobody's."""
    under_local: bool = False
    """Whether the endpoints are those of policy Local."""


def judge(table: Table, packet: Packet) -> Verdict:
    """Return what becomes of a packet. It is of the table's family."""
    found = table.virtual(packet.destination, packet.protocol, packet.port)
    if found is not None:
        return _Path(table, packet, found.way, found.state).verdict()
    if table.is_local(packet.destination):
        found = table.node_port(packet.protocol, packet.port)
    why = _node_port_elsewhere(table.node, packet.destination)
    if packet.origin is not Origin.NODE and is_loopback(packet.destination) and (found is None or why):
        # Where node ports answer on loopback, the kernel routes such packets, and rules meet them like others.
        text = "loopback addresses are not reachable from the wire"
        return Verdict(outcome=Outcome.DROPPED, steps=(Step(Subject.MARTIAN, text),))
    if found is None:
        return _nobodys(table, packet)
    if why:
        whose = _whose(packet, found.way, found.state)
        return _kernel(table, packet, Step(Subject.ADDRESS, f"{whose}, but {why}"))
    return _Path(table, packet, found.way, found.state).verdict()


class _Path:
    """A packet's way through one Service port."""

    def __init__(self, table: Table, packet: Packet, way: Way, state: ServiceState) -> None:
        self._table = table
        self._node = table.node
        self._packet = packet
        self._way = way
        self._state = state
        self._local = False
        self._steps = [Step(Subject.ADDRESS, _whose(packet, way, state))]
        address = "" if way is Way.NODE_PORT else packet.destination
        for each in table.left_out(address, packet.protocol, packet.port):
            self._steps.append(Step(Subject.LEFT_OUT, f"{each.name} claims it too and is left out: {each.why}"))

    def verdict(self) -> Verdict:
        if not self._admitted():
            return self._end(Outcome.DROPPED)
        targets, mark = self._internal() if self._way is Way.CLUSTER_IP else self._external()
        if not targets:
            return self._refuse()
        n = len(targets)
        some = (
            "the only endpoint that may have it"
            if n == 1
            else f"one of {n} endpoints, each with a chance of 1/{n}"
        )
        self._note(Subject.ENDPOINTS, some)
        if self._state.affinity_seconds:
            text = "session affinity: a client stays with the endpoint that it had less than "
            self._note(Subject.AFFINITY, f"{text}{self._state.affinity_seconds} s ago")
        found = tuple([Destination(each, 1 / n, self._seen_masked(each, mark)) for each in targets])
        self._tell_masquerade(found, mark)
        return self._end(Outcome.FORWARD, found)

    def _note(self, subject: Subject, text: str) -> None:
        self._steps.append(Step(subject, text))

    def _end(self, outcome: Outcome, destinations: tuple[Destination, ...] = ()) -> Verdict:
        return Verdict(
            outcome=outcome,
            steps=tuple(self._steps),
            destinations=destinations,
            way=self._way,
            state=self._state,
            under_local=self._local,
        )

    def _admitted(self) -> bool:
        """Apply the source ranges; they guard load balancer addresses only, endpoints or not."""
        state, source = self._state, self._packet.source
        if self._way is not Way.LOAD_BALANCER_IP or not state.source_ranges:
            return True
        admitting = next((cidr for cidr in state.source_ranges if within(source, cidr)), "")
        if admitting:
            self._note(Subject.RANGES, f"loadBalancerSourceRanges: {admitting} admits {source}")
            return True
        if state.node_in_ranges and source in state.load_balancer_ips:
            self._note(Subject.RANGES, "loadBalancerSourceRanges admit this node, which has the address itself")
            return True
        ranges = ", ".join(state.source_ranges[:5]) + (", …" if len(state.source_ranges) > 5 else "")
        self._note(Subject.RANGES, f"loadBalancerSourceRanges ({ranges}) do not admit {source}: dropped")
        return False

    def _internal(self) -> tuple[Sequence[Target], str]:
        """Return the endpoints of cluster IP traffic, and why it is masqueraded."""
        self._local = self._state.internal_local
        self._note(Subject.POLICY, f"internalTrafficPolicy {_policy(self._local)}")
        mark = ""
        if self._node.masquerade_all:
            mark = "everything to cluster IPs is (--masquerade-all)"
        elif self._node.local.kind is not LocalKind.NONE and not is_pod(self._node, self._packet):
            mark = f"the client is not a pod ({known_by(self._node)})"
        return self._state.internal, mark

    def _external(self) -> tuple[Sequence[Target], str]:
        """Return the same for what comes by another address."""
        state = self._state
        if not state.external_local:
            self._note(Subject.POLICY, "externalTrafficPolicy Cluster")
            return state.external, "externalTrafficPolicy is Cluster"
        self._note(Subject.POLICY, "externalTrafficPolicy Local")
        if is_pod(self._node, self._packet):
            self._note(Subject.SHORT_CIRCUIT, "the client is a pod of this cluster: it may go to any node")
            return state.cluster, ""
        if self._packet.origin is Origin.NODE or self._table.is_local(self._packet.source):
            self._note(Subject.SHORT_CIRCUIT, "the client is the node itself: it may go to any node")
            return state.cluster, "the client is the node itself"
        self._local = True
        return state.external, ""

    def _seen_masked(self, target: Target, mark: str) -> str:
        """Return why an endpoint does not see the client's address."""
        if self._packet.origin is not Origin.NODE and self._table.is_local(target.address):
            return ""  # Delivered here: what leaves nowhere passes no POSTROUTING.
        if target.address == self._packet.source and target.may_be_local:
            own = self._packet.origin is Origin.NODE
            return mark or ("" if own and self._table.by_ipvs else HAIRPIN)
        return mark

    def _tell_masquerade(self, destinations: tuple[Destination, ...], mark: str) -> None:
        if mark and any(each.masquerade for each in destinations):
            self._note(Subject.MASQUERADE, f"masqueraded: {mark}")
        elif not mark:
            self._note(Subject.NO_MASQUERADE, "not masqueraded: endpoints see the client's address")
        if any(each.masquerade and each.masquerade != mark for each in destinations):
            self._note(Subject.HAIRPIN, "but masqueraded where the endpoint is the client itself (hairpin)")
        if mark and not all(each.masquerade for each in destinations):
            self._note(Subject.KERNEL, "not where the endpoint is this node: the packet leaves by no interface")

    def _refuse(self) -> Verdict:
        state = self._state
        refusal = state.internal_refusal if self._way is Way.CLUSTER_IP else state.external_refusal
        if refusal is Refusal.DROP:
            self._note(Subject.REFUSAL, "no endpoint on this node, and the policy is Local: dropped")
            return self._end(Outcome.DROPPED)
        self._note(Subject.REFUSAL, "no endpoints: refused")
        return self._end(Outcome.REFUSED)


def is_pod(node: NodeState, packet: Packet) -> bool:
    """Whether the dataplane takes a packet's sender for a pod of this cluster."""
    match node.local.kind:
        case LocalKind.SOURCE:
            return within(packet.source, node.local.value)
        case LocalKind.INTERFACE:
            return packet.interface == node.local.value
        case LocalKind.PREFIX:
            return packet.interface.startswith(node.local.value)
        case LocalKind.NONE:
            return False


def known_by(node: NodeState) -> str:
    """Return, in words, how pods are known."""
    words = {
        LocalKind.SOURCE: f"pods have addresses of {node.local.value}",
        LocalKind.INTERFACE: f"pods come by interface {node.local.value}",
        LocalKind.PREFIX: f"pods come by interfaces {node.local.value}*",
        LocalKind.NONE: "nobody is known for one",
    }
    return words[node.local.kind]


def _policy(local: bool) -> str:
    return "Local" if local else "Cluster"


def _whose(packet: Packet, way: Way, state: ServiceState) -> str:
    if way is Way.NODE_PORT:
        return f"{packet.port}/{packet.protocol} is the node port of {state.name}"
    return f"{packet.where_to} is the {way} of {state.name}"


def _node_port_elsewhere(node: NodeState, address: str) -> str:
    """Return why node ports do not answer on one of this node's addresses, "" when they do."""
    if is_loopback(address):
        return "" if node.nodeports_on_loopback else "node ports do not answer on loopback here"
    if node.nodeport_cidrs and not any(within(address, cidr) for cidr in node.nodeport_cidrs):
        return f"node ports answer on {', '.join(node.nodeport_cidrs)} only (--nodeport-addresses)"
    return ""


def _nobodys(table: Table, packet: Packet) -> Verdict:
    """Return what becomes of a packet that no Service port is for."""
    is_local = table.is_local(packet.destination)
    steps = [
        Step(Subject.LEFT_OUT, f"{each.name} has it, but is left out: {each.why}")
        for address in ([packet.destination, ""] if is_local else [packet.destination])
        for each in table.left_out(address, packet.protocol, packet.port)
    ]
    comes_in = is_local and packet.origin is not Origin.NODE
    owner = table.cluster_ip_owner(packet.destination)
    if owner is not None and not comes_in:
        port = f"{packet.port}/{packet.protocol}"
        whose = f"{packet.destination} is the cluster IP of {'/'.join(owner)}"
        text = f"{whose}, and no such port {port} is served: refused"
        return Verdict(outcome=Outcome.REFUSED, steps=(*steps, Step(Subject.UNDEFINED_PORT, text)))
    holder = table.holder(packet.destination)
    if holder is not None:
        port = f"{packet.port}/{packet.protocol}"
        whose = f"IPVS makes {packet.destination}, an address of {'/'.join(holder)}, the node's own"
        text = f"{whose}, and no such port {port} is served: refused"
        return Verdict(outcome=Outcome.REFUSED, steps=(*steps, Step(Subject.UNDEFINED_PORT, text)))
    if not comes_in and table.is_unallocated(packet.destination):
        text = f"{packet.destination} is of a ServiceCIDR, and no Service has it: dropped"
        return Verdict(outcome=Outcome.DROPPED, steps=(*steps, Step(Subject.UNALLOCATED, text)))
    return _kernel(table, packet, *steps)


def _kernel(table: Table, packet: Packet, *steps: Step) -> Verdict:
    if not table.is_local(packet.destination):
        text = f"no Service has {packet.where_to}: it is routed on unchanged"
    else:
        state = table.health_check(packet.port) if packet.protocol == "TCP" else None
        text = f"no Service has {packet.where_to}: a process of this node answers, if one listens there"
        if state is not None:
            text = f"{packet.port} is the health-check node port of {'/'.join(state.name.key)}: this agent answers"
    return Verdict(outcome=Outcome.NOT_OURS, steps=(*steps, Step(Subject.KERNEL, text)))
