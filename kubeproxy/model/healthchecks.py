"""Health check node ports: which Services have one, and how many endpoints this node tells load balancers of.

A load balancer of a Service with external policy Local asks every node whether it has endpoints, and sends traffic
to those that have. Ready ones alone count, each address once: one that terminates may still be used (topology.py),
but a load balancer should look elsewhere already. Source: LocalReadyEndpoints of upstream.
"""

from collections.abc import Iterable

import msgspec

from kubeproxy.model.addresses import Family
from kubeproxy.model.endpoints import Merged, merge, usable
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import Endpoint, EndpointSlice, Record
from kubeproxy.model.services import health_check_port, virtual_addresses
from kubeproxy.model.topology import ready_on
from kubeproxy.model.world import World


class HealthCheck(Record, frozen=True, kw_only=True):
    """One Service's, in one family."""

    port: int
    endpoints: int
    """Addresses of ready endpoints on this node."""


def health_checks(
    world: World, node: str, family: Family, only: Iterable[Key] | None = None
) -> dict[Key, HealthCheck | None]:
    """Return what the Services ``only`` have, None for those without; of all (None), those that have one."""
    if only is not None:
        return {key: _check(world, node, family, key) for key in only}
    found = {key: _check(world, node, family, key) for key in world.services}
    return {key: check for key, check in found.items() if check is not None}


def _check(world: World, node: str, family: Family, key: Key) -> HealthCheck | None:
    service = world.services.get(key)
    port = health_check_port(service) if service is not None else 0
    addresses = virtual_addresses(service, family) if service is not None and port else None
    if addresses is None:
        return None
    own = (addresses.cluster_ip, *addresses.external_ips, *addresses.load_balancer_ips)
    merged = world.kept_endpoints_of(key, family)
    ready = _ready(world.slices_of(key), family, node) if merged is None else _ready_of(merged, node)
    return HealthCheck(port=port, endpoints=len(ready.difference(own)))


def _ready(slices: Iterable[EndpointSlice], family: Family, node: str) -> set[str]:
    """Return the addresses of ready endpoints on a node.

    They are counted on the event loop, so what is not kept is not merged, which costs endpoints times ports.
    Nor need it be: of an address of which all entries say the same it does not matter which one counts.
    """
    pieces = [piece for piece in usable(slices, family) if piece.ports]
    ready = {each.address for piece in pieces for each in piece.endpoints if _is_ready(each, node)}
    if not ready:
        return ready  # on most nodes
    unclear = {
        each.address
        for piece in pieces
        for each in piece.endpoints
        if each.address in ready and not _is_ready(each, node)
    }
    if not unclear:
        return ready  # nearly always
    few = [
        msgspec.structs.replace(
            piece, endpoints=tuple([each for each in piece.endpoints if each.address in unclear])
        )
        for piece in pieces
    ]
    return (ready - unclear) | _ready_of(merge(few, family), node)


def _ready_of(merged: Merged, node: str) -> set[str]:
    return {each.endpoint.address for endpoints in merged.values() for each in ready_on(endpoints, node)}


def _is_ready(endpoint: Endpoint, node: str) -> bool:
    return endpoint.node_name == node and endpoint.conditions.ready
