"""EndpointSlices of one Service → the endpoints of each of its ports, merged and in a fixed order.

Several slices may hold the same Service (split for size, or one per port when a named target port differs
between pods), and may name the same endpoint twice while a pod moves between them. The order is upstream's,
by the text `ip:port`, so that the same world always renders to the same bytes.
"""

from collections.abc import Iterable

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Conditions, EndpointSlice, Protocol, Record

PortKey = tuple[str, Protocol]
"""Name and protocol of a port: what ties a Service's port to a slice's."""


class PortEndpoint(Record, frozen=True, kw_only=True):
    """One endpoint of one Service port."""

    address: str
    port: int
    conditions: Conditions
    node_name: str
    zone: str
    hint_zones: tuple[str, ...]
    hint_nodes: tuple[str, ...]

    def __str__(self) -> str:
        """Print as `ip:port`, an IPv6 address in brackets."""
        return destination(self.address, self.port)


def destination(address: str, port: int) -> str:
    """Return `ip:port`, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def merge(slices: Iterable[EndpointSlice], family: Family) -> dict[PortKey, list[PortEndpoint]]:
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
    for piece in usable:
        for port in piece.ports:
            known = found.setdefault((port.name, port.protocol), {})
            _add(known, piece, port.port)
    return {port: [known[text] for text in sorted(known)] for port, known in found.items()}


def _add(known: dict[str, PortEndpoint], piece: EndpointSlice, port: int) -> None:
    for endpoint in piece.endpoints:
        address = endpoint.address
        text = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        if text in known and endpoint.conditions.terminating:
            continue
        known[text] = PortEndpoint(
            address=address,
            port=port,
            conditions=endpoint.conditions,
            node_name=endpoint.node_name,
            zone=endpoint.zone,
            hint_zones=endpoint.hint_zones,
            hint_nodes=endpoint.hint_nodes,
        )
