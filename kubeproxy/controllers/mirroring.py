"""Endpoints that somebody keeps by hand, mirrored into EndpointSlices for the proxies. Pure.

Rules are upstream's (pkg/controller/endpointslicemirroring): only for a Service that stands and has no selector;
labels and annotations come along; at most 1000 addresses of each subset.
"""

from collections.abc import Callable, Iterable

from kubeproxy.controllers.fitting import MANAGED_BY_LABEL, Envelope, Group, SlicePlan, fit
from kubeproxy.controllers.objects import (
    Endpoint,
    EndpointAddress,
    EndpointConditions,
    EndpointPort,
    Endpoints,
    EndpointSlice,
    EndpointSubset,
    OwnerReference,
    Service,
)
from kubeproxy.controllers.subsets import ENDPOINTS_MANAGED_BY_LABEL, ENDPOINTS_MANAGER
from kubeproxy.model.addresses import canonical_ip, family_of
from kubeproxy.model.decode import SERVICE_NAME_LABEL, TRIGGER_TIME_ANNOTATION

MANAGER = "endpointslicemirroring-controller.k8s.io"
MAX_ENDPOINTS = 1000
"""--mirroring-max-endpoints-per-subset's default, and the most that a slice may hold."""

_SKIP_LABEL = "endpointslice.kubernetes.io/skip-mirror"
_LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
_LAST_APPLIED_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"


def plan_mirror(
    service: Service | None,
    endpoints: Endpoints | None,
    existing: Iterable[EndpointSlice],
    new_name: Callable[[str], str],
) -> SlicePlan:
    """Plan the mirrored slices of one name; all go when there is nothing to mirror."""
    standing = tuple(existing)
    if endpoints is None or service is None or service.spec.selector or not _is_mirrored(endpoints):
        return SlicePlan(deletes=standing)
    meta = endpoints.metadata
    labels = {key: value for key, value in (meta.labels or {}).items() if key != MANAGED_BY_LABEL}
    hidden = (TRIGGER_TIME_ANNOTATION, _LAST_APPLIED_ANNOTATION)
    envelope = Envelope(
        owner_meta=meta,
        owner=OwnerReference(
            api_version="v1",
            kind="Endpoints",
            name=meta.name,
            uid=meta.uid,
            controller=True,
            block_owner_deletion=True,
        ),
        labels={**labels, SERVICE_NAME_LABEL: meta.name, MANAGED_BY_LABEL: MANAGER},
        room=MAX_ENDPOINTS,
        annotations={key: value for key, value in (meta.annotations or {}).items() if key not in hidden},
    )
    return fit(envelope, _wanted(endpoints), standing, lambda endpoint: "".join(endpoint.addresses[:1]), new_name)


def _is_mirrored(endpoints: Endpoints) -> bool:
    """Not what says so itself, elects leaders, or came from a selector: that has slices already."""
    meta = endpoints.metadata
    labels = meta.labels or {}
    by_us = labels.get(ENDPOINTS_MANAGED_BY_LABEL) == ENDPOINTS_MANAGER
    return not by_us and labels.get(_SKIP_LABEL) != "true" and _LEADER_ANNOTATION not in (meta.annotations or {})


def _wanted(endpoints: Endpoints) -> dict[Group, dict[str, Endpoint]]:
    groups: dict[Group, dict[str, Endpoint]] = {}
    for subset in endpoints.subsets or ():
        ports = tuple(_port(port) for port in subset.ports or ())
        for address_type, endpoint in _endpoints(subset):
            # An address that is ready and not ready at once is ready: ready ones come first.
            groups.setdefault((address_type, ports), {}).setdefault(endpoint.addresses[0], endpoint)
    return groups


def _endpoints(subset: EndpointSubset) -> list[tuple[str, Endpoint]]:
    """Return address type and endpoint of what of a subset can be mirrored."""
    found: list[tuple[str, Endpoint]] = []
    for ready, entries in ((True, subset.addresses), (False, subset.not_ready_addresses)):
        for entry in entries or ():
            address = canonical_ip(entry.ip)
            if address is not None and len(found) < MAX_ENDPOINTS:
                found.append((family_of(address).label, _endpoint(entry, address, ready)))
    return found


def _endpoint(entry: EndpointAddress, address: str, ready: bool) -> Endpoint:
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(ready=ready),
        hostname=entry.hostname or None,
        node_name=entry.node_name,
        target_ref=entry.target_ref,
    )


def _port(port: EndpointPort) -> EndpointPort:
    return EndpointPort(
        name=port.name or "", protocol=port.protocol or "TCP", port=port.port, app_protocol=port.app_protocol
    )
