"""Who may have a Service port's traffic, computed slowly from upstream's words (reference/kube-proxy.md §0).

Shares no code with the model: it goes from the raw objects by plain loops, so that a mistake in one of the two
shows.
"""

from typing import NamedTuple

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Endpoint, Service, ServicePort, TrafficPolicy
from tests.property.strategies_histories import Cluster


class Expected(NamedTuple):
    """The sorted texts of each category."""

    cluster: list[str]
    local: list[str]
    has_endpoints: bool


def expected(
    cluster: Cluster, service: Service, port: ServicePort, family: Family, node: str, *, is_external: bool
) -> Expected:
    """Return a port's categories; ``is_external`` is whether any external address or node port is its own."""
    found = _endpoints(cluster, service, port, family)
    zone = cluster.node.zone if cluster.node is not None else ""
    internal_local = service.internal_policy is TrafficPolicy.LOCAL
    external_local = service.external_policy is TrafficPolicy.LOCAL
    uses_cluster = (not internal_local) or is_external
    uses_local = internal_local or (external_local and is_external)

    ready = {text: e for text, e in found.items() if e.conditions.ready}
    fallback = {text: e for text, e in found.items() if e.conditions.serving and e.conditions.terminating}

    for_cluster: list[str] = []
    if uses_cluster:
        for_cluster = sorted(_near(ready, node, zone))
        if not for_cluster:
            for_cluster = sorted(fallback)
    for_local: list[str] = []
    if uses_local:
        for_local = sorted(text for text, e in ready.items() if e.node_name == node)
        if not for_local:
            for_local = sorted(text for text, e in fallback.items() if e.node_name == node)
    anybody = bool(for_cluster) or (uses_local and (bool(ready) or bool(fallback)))
    return Expected(for_cluster, for_local, anybody)


def _near(ready: dict[str, Endpoint], node: str, zone: str) -> list[str]:
    node_hints = [e.hint_nodes for e in ready.values()]
    if ready and all(node_hints) and any(node in hints for hints in node_hints):
        return [text for text, e in ready.items() if node in e.hint_nodes]
    zone_hints = [e.hint_zones for e in ready.values()]
    if zone and ready and all(zone_hints) and any(zone in hints for hints in zone_hints):
        return [text for text, e in ready.items() if zone in e.hint_zones]
    return list(ready)


def _endpoints(cluster: Cluster, service: Service, port: ServicePort, family: Family) -> dict[str, Endpoint]:
    own = {*service.cluster_ips, *service.external_ips, *service.load_balancer_ips}
    found: dict[str, Endpoint] = {}
    for piece in sorted(cluster.slices.values(), key=lambda each: each.name):
        if (piece.namespace, piece.service) != (service.namespace, service.name):
            continue
        if piece.address_type != f"IPv{family.value}" or piece.headless:
            continue
        for each in piece.ports:
            if (each.name, each.protocol) != (port.name, port.protocol):
                continue
            for endpoint in piece.endpoints:
                if endpoint.address in own:
                    continue  # the Service itself
                host = endpoint.address if family is Family.V4 else f"[{endpoint.address}]"
                text = f"{host}:{each.port}"
                if text not in found or not endpoint.conditions.terminating:
                    found[text] = endpoint
    return found
