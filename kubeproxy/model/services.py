"""Service → what each of its ports looks like from outside: virtual addresses, affinity, source ranges.

A Service is skipped when nothing of it is ours to forward: headless, ExternalName, without a cluster IP of
the family, or labelled for another proxy. Everything here concerns one Service and one IP family.
"""

from collections.abc import Iterable

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record, Service, ServiceType, TrafficPolicy

_EXTERNAL_NAME, _LOAD_BALANCER, _V6 = ServiceType.EXTERNAL_NAME, ServiceType.LOAD_BALANCER, Family.V6
"""Bound once: Python 3.11 takes 0.2 µs to find a member of an Enum."""


class VirtualAddresses(Record, frozen=True, kw_only=True):
    """Where one family's clients reach a Service; what all its ports have in common."""

    cluster_ip: str
    external_ips: tuple[str, ...]
    """Without those that are load balancer addresses too: these are guarded by the source ranges."""
    load_balancer_ips: tuple[str, ...]
    source_ranges: tuple[str, ...]
    """Who may come through the load balancer addresses; empty means everybody."""

    @property
    def all(self) -> frozenset[str]:
        """Every one: what no endpoint of the Service may have for its own."""
        return frozenset((self.cluster_ip, *self.external_ips, *self.load_balancer_ips))


def is_proxied(service: Service) -> bool:
    """Return whether this Service is ours to forward, whatever the family."""
    return not (service.headless or service.proxy_name or service.type is _EXTERNAL_NAME)


def virtual_addresses(service: Service, family: Family) -> VirtualAddresses | None:
    """Return the addresses of a Service in one family, or None when it does not exist there."""
    if not is_proxied(service):
        return None
    v6 = family is _V6
    for cluster_ip in service.cluster_ips:
        if (":" in cluster_ip) is v6:
            break
    else:
        return None
    if not (service.external_ips or service.load_balancer_ips or service.source_ranges):
        return VirtualAddresses(cluster_ip=cluster_ip, external_ips=(), load_balancer_ips=(), source_ranges=())
    balanced = _of_family(service.load_balancer_ips, family, but=(cluster_ip,))
    return VirtualAddresses(
        cluster_ip=cluster_ip,
        external_ips=_of_family(service.external_ips, family, but=(cluster_ip, *balanced)),
        load_balancer_ips=balanced,
        source_ranges=_restrictive(_of_family(service.source_ranges, family)),
    )


def health_check_port(service: Service) -> int:
    """Return the node port on which load balancers ask, 0 when they have nothing to ask."""
    balanced = service.type is _LOAD_BALANCER and service.external_policy is TrafficPolicy.LOCAL
    return service.health_check_node_port if balanced else 0


def _of_family(texts: Iterable[str], family: Family, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    v6 = family is Family.V6
    return tuple([text for text in texts if (":" in text) is v6 and text not in but])


def _restrictive(ranges: tuple[str, ...]) -> tuple[str, ...]:
    # A range that admits everybody makes the whole list void, as upstream has it.
    return () if any(text.endswith("/0") for text in ranges) else ranges
