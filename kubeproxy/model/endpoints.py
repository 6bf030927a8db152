"""EndpointSlices of one Service → the endpoints of each of its ports, merged and in a fixed order.

Several slices may hold the same Service (split for size, or one per port when a named target port differs
between pods), and may name the same endpoint twice while a pod moves between them. The order is upstream's,
by the text `ip:port`, so that the same world always renders to the same bytes.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Endpoint, EndpointSlice, Protocol, Record
from kubeproxy.model.runs import by_text

PortKey = tuple[str, Protocol]
"""Name and protocol of a port: what ties a Service's port to a slice's."""


class PortEndpoint(Record, frozen=True):
    """One endpoint of one Service port."""

    text: str
    """`ip:port`, an IPv6 address in brackets: its identity within the port."""
    port: int
    endpoint: Endpoint


Merged = Mapping[PortKey, Sequence[PortEndpoint]]
"""Every port's endpoints of one family, sorted by text, each once."""


def merge(slices: Collection[EndpointSlice], family: Family) -> dict[PortKey, list[PortEndpoint]]:
    """Return every port's endpoints of one family, sorted by text, each once.

    Of two entries for the same `ip:port` the one that is not terminating counts: a pod's address may be
    reused while the old pod's slice still says "terminating".
    """
    found = entries_of(slices, family)
    for entries in found.values():
        put_in_order(entries)
    return found


def put_in_order(entries: list[PortEndpoint]) -> None:
    """Sort the entries of one port by text, each text once."""
    entries.sort(key=by_text)
    if len({each.text for each in entries}) < len(entries):
        entries[:] = once(entries).values()


def entries_of(slices: Collection[EndpointSlice], family: Family) -> dict[PortKey, list[PortEndpoint]]:
    """Return what slices say of every port of one family; the same endpoint as often as they name it."""
    found: dict[PortKey, list[PortEndpoint]] = {}
    is_v4 = family is Family.V4
    for piece in usable(slices, family):
        for port in piece.ports:
            number = port.port
            before, behind = ("", f":{number}") if is_v4 else ("[", f"]:{number}")
            entries = [PortEndpoint(before + each.address + behind, number, each) for each in piece.endpoints]
            key = port.name, port.protocol
            if key in found:
                found[key] += entries
            else:
                found[key] = entries
    return found


def usable(slices: Iterable[EndpointSlice], family: Family) -> list[EndpointSlice]:
    """Return those of one family whose Service has a virtual address."""
    label = family.label
    found = [piece for piece in slices if piece.address_type == label and not piece.headless]
    if len(found) > 1:
        # Which duplicate wins must not depend on the order in which slices arrived.
        found.sort(key=lambda piece: piece.name)
    return found


def once(entries: Iterable[PortEndpoint]) -> dict[str, PortEndpoint]:
    """Return by text the entry that counts: the last of those that are not terminating, else the first."""
    known: dict[str, PortEndpoint] = {}
    for each in entries:
        if each.text not in known or not each.endpoint.conditions.terminating:
            known[each.text] = each
    return known
