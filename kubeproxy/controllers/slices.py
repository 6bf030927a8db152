"""The EndpointSlices that a Service with a selector should have, and how to get there from those it has. Pure.

What flows in: the Service, the pods of its namespace, the slices that stand, the nodes' zones. What flows out: a
`SlicePlan`. Rules are upstream's (kubernetes staging endpointslice): one set of slices per address family and
resolved ports, at most 100 endpoints in each, and an empty slice for a Service that selects nothing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from kubeproxy.controllers.fitting import MANAGED_BY_LABEL, Envelope, Group, SlicePlan, Wanted, fit
from kubeproxy.controllers.objects import (
    Endpoint,
    EndpointConditions,
    EndpointSlice,
    Hint,
    Hints,
    OwnerReference,
    Pod,
    Service,
)
from kubeproxy.controllers.podfacts import (
    address_types,
    addresses,
    belongs,
    hostname,
    reference,
    resolved_ports,
    trigger_time,
)
from kubeproxy.model.decode import HEADLESS_LABEL, SERVICE_NAME_LABEL

MANAGER = "endpointslice-controller.k8s.io"
MAX_ENDPOINTS = 100

_SAME_ZONE = ("PreferClose", "PreferSameZone", "PreferSameNode")
_SAME_NODE = "PreferSameNode"


def plan_slices(
    service: Service,
    pods: Iterable[Pod],
    existing: Iterable[EndpointSlice],
    zones: Mapping[str, str],
    new_name: Callable[[str], str],
) -> SlicePlan:
    """Plan the slices of one Service; ``new_name`` makes a fresh object name from a prefix.

    ``existing`` are the Service's slices that this controller manages; all go when it selects nothing by
    design (ExternalName). A Service without a selector is not planned for: its slices are the user's.
    """
    standing = tuple(existing)
    if service.spec.type == "ExternalName":
        return SlicePlan(deletes=standing)
    selected = [pod for pod in pods if belongs(service, pod)]
    wanted = _wanted(service, selected, zones)
    envelope = Envelope(
        owner_meta=service.metadata,
        owner=_owner(service),
        labels=_labels(service),
        room=MAX_ENDPOINTS,
        trigger=_trigger(service, selected, standing, wanted),
    )
    return fit(envelope, wanted, standing, _pod_of, new_name, address_types(service))


def _wanted(service: Service, pods: Sequence[Pod], zones: Mapping[str, str]) -> dict[Group, dict[str, Endpoint]]:
    """Group the endpoints to be, by pod name."""
    groups: dict[Group, dict[str, Endpoint]] = {}
    families = address_types(service)
    for pod in sorted(pods, key=lambda each: each.metadata.name):
        ports = resolved_ports(service, pod)
        for address_type, address in addresses(pod):
            if address_type in families:
                group = groups.setdefault((address_type, ports), {})
                group[pod.metadata.name] = _endpoint(service, pod, address, zones)
    return groups


def _endpoint(service: Service, pod: Pod, address: str, zones: Mapping[str, str]) -> Endpoint:
    serving, terminating = pod.is_ready, pod.metadata.deletion_timestamp is not None
    ready = bool(service.spec.publish_not_ready_addresses) or (serving and not terminating)
    zone = zones.get(pod.spec.node_name or "") or None
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=hostname(service, pod),
        node_name=pod.spec.node_name,
        zone=zone,
        target_ref=reference(pod),
        hints=_hints(service, zone, pod.spec.node_name) if ready else None,
    )


def _hints(service: Service, zone: str | None, node: str | None) -> Hints | None:
    """Return whom a ready endpoint is for (kubernetes staging endpointslice/trafficdist)."""
    distribution = service.spec.traffic_distribution
    for_zones = (Hint(name=zone),) if zone and distribution in _SAME_ZONE else None
    for_nodes = (Hint(name=node),) if node and distribution == _SAME_NODE else None
    return Hints(for_zones=for_zones, for_nodes=for_nodes) if for_zones or for_nodes else None


def _pod_of(endpoint: Endpoint) -> str:
    return endpoint.target_ref.name if endpoint.target_ref is not None else ""


def _trigger(service: Service, pods: Sequence[Pod], standing: Sequence[EndpointSlice], wanted: Wanted) -> str:
    known = {endpoint for each in standing for endpoint in each.endpoints or ()}
    fresh = {name for group in wanted.values() for name, endpoint in group.items() if endpoint not in known}
    return trigger_time(service, pods, fresh, first=not standing)


def _labels(service: Service) -> dict[str, str]:
    """Return a slice's labels: the Service's own, and those that say whose it is."""
    reserved = (SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL)
    labels = {key: value for key, value in (service.metadata.labels or {}).items() if key not in reserved}
    labels[SERVICE_NAME_LABEL] = service.metadata.name
    labels[MANAGED_BY_LABEL] = MANAGER
    if service.is_headless:
        labels[HEADLESS_LABEL] = ""
    return labels


def _owner(service: Service) -> OwnerReference:
    return OwnerReference(
        api_version="v1",
        kind="Service",
        name=service.metadata.name,
        uid=service.metadata.uid,
        controller=True,
        block_owner_deletion=True,
    )
