"""Every other mode: what connection tracking remembers of each Service's connections. Pure.

A connection counts for the address that its client spoke to and for the endpoint that answers. The kernel counts
no new connections a second there, and bytes only where somebody switched that on, flow by flow: no rates.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kubeproxy.model.addresses import host_port
from kubeproxy.model.claims import Place
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.flows import Flow, FlowMatch
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol
from kubeproxy.trace.table import Way, places
from kubeproxy.traffic.answer import Counts, Destination, Look, Port, Server, added, in_order
from kubeproxy.traffic.directory import Directory
from kubeproxy.traffic.question import Question

MOST_DESTINATIONS = 200
SCHEDULER = "random"
"""What rules do."""

Read = Callable[[FlowMatch], Iterable[Flow]]
IsEstablished = Callable[[Flow], bool | None]
"""None where the protocol knows no such thing."""


@dataclass(slots=True)
class _Tally:
    established: int = 0
    others: int = 0


_Through = dict[str, _Tally]
"""By the endpoint that answers."""


def look(directory: Directory, read: Read, is_established: IsEstablished, question: Question) -> Look:
    """Return what is asked for. What ``read`` raises comes through."""
    asked = directory.asked(question)
    tallies: dict[ServicePortName, dict[Place, _Through]] = {}
    for match in _matches(asked):
        # Counted first, and joined then: there may be a hundred thousand flows between a few places.
        kinds = Counter(
            (flow.destination, flow.port, flow.answerer, flow.answerer_port, bool(is_established(flow)))
            for flow in read(match)
            if flow.translated
        )
        for (address, port, answerer, answerer_port, established), number in kinds.items():
            place = Place(address, match.protocol, port)
            owner = directory.owner(*place)
            if owner is None or not question.admits(owner.state.name.key):
                continue
            through = tallies.setdefault(owner.state.name, {}).setdefault(place, {})
            tally = through.setdefault(host_port(answerer, answerer_port), _Tally())
            if established:
                tally.established += number
            else:
                tally.others += number
    found = [_port(state, directory, tallies.get(state.name, {})) for state in asked]
    found.sort(key=in_order)
    return Look(ports=tuple(found[: question.top]), left_off=max(len(found) - question.top, 0))


def _matches(asked: Iterable[ServiceState]) -> list[FlowMatch]:
    ports: dict[Protocol, set[int]] = {}
    for state in asked:
        for place, _ in places(state):
            ports.setdefault(place.protocol, set()).add(place.port)
    return [FlowMatch(protocol=each, ports=frozenset(numbers)) for each, numbers in ports.items()]


def _port(state: ServiceState, directory: Directory, tallies: dict[Place, _Through]) -> Port:
    servers = []
    for place, way in places(state):
        targets = state.internal if way is Way.CLUSTER_IP else state.reachable
        if place.address:
            servers.append(_server(state, way, place, targets, tallies.get(place, {})))
            continue
        used = [each for each in tallies if each.port == place.port and _is_node_port(directory, each)]
        servers += [_server(state, way, each, targets, tallies[each]) for each in sorted(used)]
        if not used:
            servers.append(_server(state, way, Place("*", place.protocol, place.port), targets, {}))
    return Port(
        service=str(state.name),
        protocol=state.name.protocol,
        family=directory.node.family.label,
        servers=tuple(servers),
    )


def _is_node_port(directory: Directory, place: Place) -> bool:
    owner = directory.owner(*place)
    return owner is not None and owner.way is Way.NODE_PORT


def _server(state: ServiceState, way: Way, place: Place, targets: Sequence[Target], through: _Through) -> Server:
    chosen = {target.text for target in targets}
    udp = state.name.protocol is Protocol.UDP
    leaving = [
        _row(endpoint, tally, udp, draining=True) for endpoint, tally in through.items() if endpoint not in chosen
    ]
    rows = [*sorted(leaving, key=lambda row: row.endpoint)]
    rows += [_row(target.text, through.get(target.text, _Tally()), udp) for target in targets]
    address = host_port(place.address, place.port) if place.address != "*" else f"*:{place.port}"
    return Server(
        way=way,
        address=address,
        protocol=state.name.protocol,
        scheduler=SCHEDULER,
        affinity_seconds=state.affinity_seconds,
        counts=added([row.counts for row in rows]) if rows else Counts(active=None if udp else 0, inactive=0),
        destinations=tuple(rows[:MOST_DESTINATIONS]),
        left_off=max(len(rows) - MOST_DESTINATIONS, 0),
    )


def _row(endpoint: str, tally: _Tally, udp: bool, *, draining: bool = False) -> Destination:
    counts = Counts(active=None if udp else tally.established, inactive=tally.others)
    return Destination(endpoint=endpoint, weight=None, draining=draining, counts=counts)
