"""EndpointSlices of one Service → the endpoints of each of its ports, merged and in a fixed order.

Several slices may hold the same Service (split for size, or one per port when a named target port differs
between pods), and may name the same endpoint twice while a pod moves between them. The order is upstream's,
by the text `ip:port`, so that the same world always renders to the same bytes.
"""

from collections.abc import Collection

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Endpoint, EndpointSlice, Protocol, Record

PortKey = tuple[str, Protocol]
"""Name and protocol of a port: what ties a Service's port to a slice's."""


class PortEndpoint(Record, frozen=True):
    """One endpoint of one Service port."""

    text: str
    """`ip:port`, an IPv6 address in brackets: its identity within the port."""
    port: int
    endpoint: Endpoint


def merge(slices: Collection[EndpointSlice], family: Family) -> dict[PortKey, list[PortEndpoint]]:
    """Return every port's endpoints of one family, sorted by text, each once.

    Of two entries for the same `ip:port` the one that is not terminating counts: a pod's address may be
    reused while the old pod's slice still says "terminating".
    """
    label = family.label
    usable = [piece for piece in slices if piece.address_type == label and not piece.headless]
    if len(usable) > 1:
        # Which duplicate wins must not depend on the order in which slices arrived.
        usable.sort(key=lambda piece: piece.name)
    found: dict[PortKey, dict[str, PortEndpoint]] = {}
    form = "%s:%d" if family is Family.V4 else "[%s]:%d"
    for piece in usable:
        for port in piece.ports:
            known = found.setdefault((port.name, port.protocol), {})
            number = port.port
            for endpoint in piece.endpoints:
                text = form % (endpoint.address, number)
                if text not in known or not endpoint.conditions.terminating:
                    known[text] = PortEndpoint(text, number, endpoint)
    return {port: [known[text] for text in sorted(known)] for port, known in found.items()}
