"""Health check node ports: which Services have one, and how many endpoints this node tells load balancers of.

A load balancer of a Service with external policy Local asks every node whether it has endpoints, and sends traffic
to those that have. Ready ones alone count, each address once: one that terminates may still be used (topology.py),
but a load balancer should look elsewhere already. Source: LocalReadyEndpoints of upstream.
"""

from collections.abc import Iterable

from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import Record
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
    endpoints = {
        each.endpoint.address
        for endpoints in world.endpoints_of(key, family).values()
        for each in ready_on(endpoints, node)
    }
    return HealthCheck(port=port, endpoints=len(endpoints.difference(own)))
