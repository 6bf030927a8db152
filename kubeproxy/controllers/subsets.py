"""The Endpoints that a Service with a selector should have: for `kubectl get endpoints` and old clients. Pure.

Rules are upstream's (pkg/controller/endpoint, pkg/api/v1/endpoints): one family, the Service's first; pods that
offer the same ports share a subset; terminating pods are left out; at most 1000 addresses, ready ones first.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec

from kubeproxy.controllers.objects import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    Meta,
    Pod,
    Service,
)
from kubeproxy.controllers.podfacts import (
    address_types,
    addresses,
    belongs,
    hostname,
    packed,
    reference,
    resolved_ports,
    trigger_time,
)
from kubeproxy.model.decode import HEADLESS_LABEL, TRIGGER_TIME_ANNOTATION

ENDPOINTS_MANAGED_BY_LABEL = "endpoints.kubernetes.io/managed-by"
ENDPOINTS_MANAGER = "endpoint-controller"
MAX_ADDRESSES = 1000

_OVER_CAPACITY_ANNOTATION = "endpoints.kubernetes.io/over-capacity"
_TRUNCATED = "truncated"


class _Entry(msgspec.Struct, frozen=True):
    """A pod as an address, and whether it takes traffic."""

    address: EndpointAddress
    ready: bool


def plan_endpoints(service: Service, pods: Iterable[Pod], standing: Endpoints | None) -> Endpoints | None:
    """Return the object to write, or None when the one that stands is right."""
    selected = [pod for pod in pods if _belongs(service, pod)]
    whole = _repacked(service, selected)
    subsets = _truncated(whole)
    labels = _labels(service)
    meta = standing.metadata if standing is not None else Meta()
    annotations = dict(meta.annotations or {})
    if subsets == whole:
        annotations.pop(_OVER_CAPACITY_ANNOTATION, None)
    else:
        annotations[_OVER_CAPACITY_ANNOTATION] = _TRUNCATED
    held = (standing.subsets or ()) if standing is not None else ()
    if standing is not None and (held, meta.labels, meta.annotations or {}) == (subsets, labels, annotations):
        return None
    annotations.pop(TRIGGER_TIME_ANNOTATION, None)
    if trigger := trigger_time(service, selected, _fresh(subsets, held), first=standing is None):
        annotations[TRIGGER_TIME_ANNOTATION] = trigger
    fresh = msgspec.structs.replace(
        meta,
        name=service.metadata.name,
        namespace=service.metadata.namespace,
        labels=labels,
        annotations=annotations or None,
    )
    return Endpoints(metadata=fresh, subsets=subsets)


def _belongs(service: Service, pod: Pod) -> bool:
    stays = pod.metadata.deletion_timestamp is None or bool(service.spec.publish_not_ready_addresses)
    return stays and belongs(service, pod)


def _labels(service: Service) -> dict[str, str]:
    labels = {key: value for key, value in (service.metadata.labels or {}).items() if key != HEADLESS_LABEL}
    labels[ENDPOINTS_MANAGED_BY_LABEL] = ENDPOINTS_MANAGER
    if service.is_headless:
        labels[HEADLESS_LABEL] = ""
    return labels


def _repacked(service: Service, pods: Sequence[Pod]) -> tuple[EndpointSubset, ...]:
    """Return subsets in which every address has every port (upstream's RepackSubsets)."""
    offered: dict[EndpointPort | None, list[_Entry]] = {}
    for entry, ports in sorted(_offers(service, pods), key=lambda offer: _order(offer[0].address)):
        for port in ports:
            offered.setdefault(port, []).append(entry)
    shared: dict[tuple[_Entry, ...], list[EndpointPort]] = {}
    for port, entries in offered.items():
        ports = shared.setdefault(tuple(entries), [])
        if port is not None:
            ports.append(port)
    return tuple(_subset(entries, ports) for entries, ports in shared.items())


def _offers(service: Service, pods: Sequence[Pod]) -> Iterable[tuple[_Entry, Sequence[EndpointPort | None]]]:
    """Yield each pod's address with the ports it has; a headless Service may have none (None stands for that)."""
    family = address_types(service)[0]
    portless = service.is_headless and not service.spec.ports
    for pod in pods:
        address = dict(addresses(pod)).get(family)
        if address is None:
            continue
        found = EndpointAddress(
            ip=address, hostname=hostname(service, pod), node_name=pod.spec.node_name, target_ref=reference(pod)
        )
        ready = bool(service.spec.publish_not_ready_addresses) or pod.is_ready
        ports = [msgspec.structs.replace(port, name=port.name or None) for port in resolved_ports(service, pod)]
        yield _Entry(found, ready), [None] if portless else ports


def _order(address: EndpointAddress) -> tuple[bytes, str]:
    return packed(address.ip), address.target_ref.uid if address.target_ref is not None else ""


def _subset(entries: Iterable[_Entry], ports: Sequence[EndpointPort]) -> EndpointSubset:
    ready: list[EndpointAddress] = []
    not_ready: list[EndpointAddress] = []
    for entry in entries:
        (ready if entry.ready else not_ready).append(entry.address)
    return EndpointSubset(
        addresses=tuple(ready) or None, not_ready_addresses=tuple(not_ready) or None, ports=tuple(ports) or None
    )


def _truncated(subsets: tuple[EndpointSubset, ...]) -> tuple[EndpointSubset, ...]:
    """Keep 1000 addresses, of each subset its share; those that are not ready only while there is room."""
    ready = sum(len(each.addresses or ()) for each in subsets)
    not_ready = sum(len(each.not_ready_addresses or ()) for each in subsets)
    if ready + not_ready <= MAX_ADDRESSES:
        return subsets
    first = [each.addresses or () for each in subsets]
    second = [each.not_ready_addresses or () for each in subsets]
    if ready > MAX_ADDRESSES:
        first, second = _shares(first, MAX_ADDRESSES), [() for _ in subsets]
    else:
        second = _shares(second, MAX_ADDRESSES - ready)
    return tuple(
        msgspec.structs.replace(each, addresses=kept or None, not_ready_addresses=rest or None)
        for each, kept, rest in zip(subsets, first, second, strict=True)
        if kept or rest
    )


def _shares(groups: Sequence[tuple[EndpointAddress, ...]], most: int) -> list[tuple[EndpointAddress, ...]]:
    total, left = sum(map(len, groups)), most
    kept = []
    for group in groups:
        share = min(math.ceil(len(group) / total * most), left)
        kept.append(group[:share])
        left -= len(kept[-1])
    return kept


def _fresh(subsets: Iterable[EndpointSubset], held: Iterable[EndpointSubset]) -> set[str]:
    """Return the names of the pods that stand otherwise now than before."""
    known = set(_states(held))
    return {
        address.target_ref.name
        for address, ready in _states(subsets)
        if (address, ready) not in known and address.target_ref is not None
    }


def _states(subsets: Iterable[EndpointSubset]) -> Iterable[tuple[EndpointAddress, bool]]:
    for each in subsets:
        yield from ((address, True) for address in each.addresses or ())
        yield from ((address, False) for address in each.not_ready_addresses or ())
