"""Every endpoint of a Service port, and why a kind of traffic does not use it. Pure.

The model says which are used and why others are not; here are those beside it that never became endpoints of the
port: of the other family, of a slice without the port, with the Service's own address.
"""

from collections.abc import Iterator

from kubeproxy.model.endpoints import merge
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import EndpointSlice, Record
from kubeproxy.model.services import virtual_addresses
from kubeproxy.model.topology import Topology, Unused, Where, explain
from kubeproxy.model.world import World


class Endpoint(Record, frozen=True, kw_only=True):
    """One endpoint as a reader knows it."""

    text: str
    """`ip:port`, or the address alone when it has no such port."""
    node: str = ""
    unused: str = ""
    """Why the traffic in question does not go there; "" when it does."""


def endpoints_of(world: World, node: NodeState, name: ServicePortName, *, local: bool) -> tuple[Endpoint, ...]:
    """Return all endpoints of a port, those in use first; ``local`` says by which traffic policy."""
    service = world.services.get(name.key)
    addresses = virtual_addresses(service, node.family) if service is not None else None
    if addresses is None:
        return ()
    pieces = world.slices_of(name.key)
    merged = merge(pieces, node.family).get((name.port, name.protocol), [])
    own = [each for each in merged if each.endpoint.address in addresses.all]
    topology, others = explain(
        [each for each in merged if each.endpoint.address not in addresses.all],
        Where(node.name, node.zone),
        local=local,
    )
    found = [
        Endpoint(
            text=each.text,
            node=each.endpoint.node_name,
            unused=_reason(unused, topology, each.endpoint.node_name),
        )
        for each, unused in others
    ]
    found += [Endpoint(text=each.text, unused="it is the Service's own address") for each in own]
    found += _never(pieces, node, name, {each.endpoint.address for each in merged})
    return tuple(sorted(found, key=lambda each: bool(each.unused)))


def _reason(unused: Unused | None, topology: Topology, node: str) -> str:
    if unused is None:
        return ""
    if unused is Unused.HINTED_ELSEWHERE:
        return f"{unused.value} ({topology.value})"
    if unused is Unused.ELSEWHERE:
        return f"on node {node}, and the policy is Local" if node else "on no known node, and the policy is Local"
    return str(unused.value)


def _never(
    pieces: tuple[EndpointSlice, ...], node: NodeState, name: ServicePortName, known: set[str]
) -> Iterator[Endpoint]:
    for piece in sorted(pieces, key=lambda piece: piece.name):
        if piece.headless:
            why = f"its slice {piece.name} is labelled service.kubernetes.io/headless"
        elif piece.address_type != node.family.label:
            why = f"of the other family ({piece.address_type}; see there)"
        elif not any((port.name, port.protocol) == (name.port, name.protocol) for port in piece.ports):
            why = f'its slice {piece.name} has no port named "{name.port}" by {name.protocol}'
        else:
            continue
        for endpoint in piece.endpoints:
            if endpoint.address not in known:
                yield Endpoint(text=endpoint.address, node=endpoint.node_name, unused=why)
