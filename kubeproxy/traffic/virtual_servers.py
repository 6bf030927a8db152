"""ipvs mode: what the kernel's load balancer counts, joined with the Services that its servers belong to. Pure.

All virtual servers of a family are listed with their statistics; destinations are read only of those that are
shown. IPVS estimates rates itself, over some seconds, and anew every two.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from kubeproxy.dataplane.ipvs.names import Set, is_short_circuit
from kubeproxy.dataplane.ipvs.part import place_of
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Counted, Found, ServerKey, Statistics
from kubeproxy.model.addresses import host_port
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Protocol
from kubeproxy.traffic.answer import Counts, Destination, Look, Port, Server, added, in_order
from kubeproxy.traffic.directory import Directory, Owner
from kubeproxy.traffic.question import Question

MOST_DESTINATIONS, MOST_FOREIGN = 200, 20
SHORT_CIRCUIT = "short circuit"
"""How a virtual server for a packet mark is called: pods and the node itself are sent there under policy Local."""
GONE = "the Service is gone; its last connections drain"
NOT_THERE = "the kernel has no virtual server of it"

Read = Callable[[ServerKey], Iterable[Found]]
"""Reads the destinations of a virtual server."""
Group = list[tuple[ServerKey, str]]
"""Virtual servers of one Service port, and as what they are its own."""


class Listed(NamedTuple):
    """What was listed of one family."""

    servers: Mapping[ServerKey, Counted]
    members: Mapping[Set, Collection[Member]]
    """Of `Set.SERVERS` and `Set.SHORT_CIRCUIT`."""


def look(directory: Directory, listed: Listed, read: Read, question: Question) -> Look:
    """Return what is asked for. What ``read`` raises comes through."""
    groups, gone, foreign = _sorted_out(directory, listed)
    found: list[tuple[Port, Group]] = []
    for state in directory.asked(question):
        group = groups.get(state.name, [])
        note = "" if group else NOT_THERE
        found.append((_port(str(state.name), state.name.protocol, directory, listed, group, note), group))
    if question.is_open:
        found += [(_port("", key.protocol, directory, listed, [(key, "")], GONE), [(key, "")]) for key in gone]
    found.sort(key=lambda each: in_order(each[0]))
    shown_foreign = foreign[:MOST_FOREIGN] if question.is_open else []
    return Look(
        ports=tuple([_with_destinations(port, group, read) for port, group in found[: question.top]]),
        left_off=max(len(found) - question.top, 0),
        foreign=tuple([_full(_server(listed, key, ""), key, read, ours=False) for key in shown_foreign]),
        foreign_left_off=len(foreign) - len(shown_foreign) if question.is_open else 0,
    )


def _sorted_out(
    directory: Directory, listed: Listed
) -> tuple[dict[ServicePortName, Group], list[ServerKey], list[ServerKey]]:
    """Return the virtual servers of each Service port, ours of Services that are gone, and other people's."""
    marked = _marked(directory, listed.members[Set.SHORT_CIRCUIT])
    named, bit = listed.members[Set.SERVERS], directory.node.masquerade_bit
    groups: dict[ServicePortName, Group] = {}
    gone, foreign = [], []
    for key in listed.servers:
        owner: Owner | None
        if key.protocol is None:
            is_ours, owner = is_short_circuit(key.mark, bit), marked.get(key.mark)
        else:
            is_ours, owner = place_of(key) in named, directory.owner(key.address, key.protocol, key.port)
        if not is_ours:
            foreign.append(key)
        elif owner is None:
            gone.append(key)
        else:
            way = owner.way.value if key.protocol else SHORT_CIRCUIT
            groups.setdefault(owner.state.name, []).append((key, way))
    return groups, gone, foreign


def _marked(directory: Directory, members: Collection[Member]) -> dict[int, Owner]:
    """Return whose each packet mark is: with the masquerade bit it is the node's own packets'."""
    found = {}
    for each in members:
        if isinstance(each, tuple) and len(each) == 5:
            address, protocol, port, mark, _ = each
            owner = directory.owner(address, protocol, port)
            if owner is not None:
                found[mark] = found[mark | directory.node.mark] = owner
    return found


def _port(
    service: str, protocol: Protocol | None, directory: Directory, listed: Listed, group: Group, note: str
) -> Port:
    servers = tuple([_server(listed, key, way) for key, way in group])
    family = directory.node.family.label
    return Port(service=service, protocol=protocol or "", family=family, servers=servers, note=note)


def _server(listed: Listed, key: ServerKey, way: str) -> Server:
    counted = listed.servers[key]
    return Server(
        way=way,
        address=host_port(key.address, key.port) if key.address else f"mark {key.mark:#x}",
        protocol=key.protocol or "",
        scheduler=counted.server.scheduler,
        affinity_seconds=counted.server.affinity_seconds,
        counts=_counts(counted.statistics),
    )


def _with_destinations(port: Port, group: Group, read: Read) -> Port:
    pairs = zip(port.servers, group, strict=True)
    udp = port.protocol == Protocol.UDP
    servers = [_full(server, key, read, udp=udp) for server, (key, _) in pairs]
    return msgspec.structs.replace(port, servers=tuple(sorted(servers, key=lambda each: each.way)))


def _full(server: Server, key: ServerKey, read: Read, *, ours: bool = True, udp: bool = False) -> Server:
    """Put in a virtual server's destinations; ours of weight 0 drain."""
    rows, skipped, counts = [], 0, []
    found = iter(read(key))
    for each in islice(found, MOST_DESTINATIONS):
        rows.append(_destination(each, ours=ours, udp=udp or server.protocol == Protocol.UDP))
    for each in found:
        skipped += 1
        counts.append(_found_counts(each, udp=udp))
    total = added([*(row.counts for row in rows), *counts])
    rows.sort(key=lambda row: (not row.draining, row.endpoint))
    return msgspec.structs.replace(
        server,
        counts=msgspec.structs.replace(server.counts, active=total.active, inactive=total.inactive),
        destinations=tuple(rows),
        left_off=skipped,
    )


def _destination(found: Found, *, ours: bool, udp: bool) -> Destination:
    place = found.destination
    return Destination(
        endpoint=host_port(place.address, place.port),
        weight=place.weight if place.weight >= 0 else None,
        draining=ours and place.weight == 0,
        counts=_found_counts(found, udp=udp),
    )


def _found_counts(found: Found, *, udp: bool) -> Counts:
    # IPVS has every UDP flow down as inactive: it cannot know better.
    return msgspec.structs.replace(
        _counts(found.statistics), active=None if udp else found.active, inactive=found.inactive
    )


def _counts(statistics: Statistics) -> Counts:
    return Counts(
        connections=statistics.connections,
        connections_rate=statistics.connections_rate,
        bytes_in_rate=statistics.bytes_in_rate,
        bytes_out_rate=statistics.bytes_out_rate,
    )
