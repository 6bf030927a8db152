"""The EndpointSlices that a Service should have, and how to get there from those it has. Pure.

What flows in: a Service with a selector, the pods of its namespace, the slices that stand, the nodes' zones.
What flows out: a `SlicePlan`, which keeps every endpoint in the slice it is in and touches no slice without
need, because each write is an event on every node. Rules are upstream's (kubernetes staging
endpointslice/reconciler.go, utils.go): one slice per address family and set of resolved ports, at most 100
endpoints in each, and an empty slice for a Service that selects nothing, so that "no endpoints" is a fact.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address

import msgspec

from kubeproxy.controllers.objects import (
    Container,
    Endpoint,
    EndpointConditions,
    EndpointPort,
    EndpointSlice,
    Meta,
    OwnerReference,
    Pod,
    Service,
    ServicePort,
    TargetRef,
    matches,
)
from kubeproxy.model.addresses import canonical_ip, family_of
from kubeproxy.model.decode import HEADLESS_LABEL, SERVICE_NAME_LABEL, TRIGGER_TIME_ANNOTATION

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
MAX_ENDPOINTS = 100

Ports = tuple[EndpointPort, ...]
Group = tuple[str, Ports]
"""What all endpoints of one slice share: address type and resolved ports."""


class SlicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The writes that make a Service's slices right. Order: creates, updates, deletes."""

    creates: tuple[EndpointSlice, ...] = ()
    updates: tuple[EndpointSlice, ...] = ()
    deletes: tuple[EndpointSlice, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.creates or self.updates or self.deletes)


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
    standing = sorted(existing, key=lambda each: each.metadata.name)
    if service.spec.type == "ExternalName":
        return SlicePlan(deletes=tuple(standing))
    selected = [pod for pod in pods if _belongs(service, pod)]
    wanted = _wanted(service, selected, zones)
    trigger = _trigger_time(service, selected, standing, wanted)
    return _Fitting(service, trigger, new_name).fit(wanted, standing)


def _belongs(service: Service, pod: Pod) -> bool:
    labels_match = matches(service.spec.selector or {}, pod.metadata.labels)
    return labels_match and not pod.is_finished


def _wanted(service: Service, pods: Sequence[Pod], zones: Mapping[str, str]) -> dict[Group, dict[str, Endpoint]]:
    """Group the endpoints to be, by pod name."""
    groups: dict[Group, dict[str, Endpoint]] = {}
    families = address_types(service)
    for pod in sorted(pods, key=lambda each: each.metadata.name):
        ports = _resolved_ports(service, pod)
        for address_type, address in _addresses(pod):
            if address_type in families:
                group = groups.setdefault((address_type, ports), {})
                group[pod.metadata.name] = _endpoint(service, pod, address, zones)
    return groups


def address_types(service: Service) -> tuple[str, ...]:
    """Return the families a Service has slices for; one that says nothing is IPv4."""
    return service.spec.ip_families or ("IPv4",)


def _addresses(pod: Pod) -> Iterator[tuple[str, str]]:
    """Yield the first address of each family, with its address type."""
    texts = [entry.ip for entry in pod.status.pod_ips or ()] or [pod.status.pod_ip or ""]
    found: dict[str, str] = {}
    for text in texts:
        if (address := canonical_ip(text)) is not None and not _is_nobodys(address):
            found.setdefault(family_of(address).label, address)
    yield from found.items()


def _is_nobodys(address: str) -> bool:
    """The API refuses a slice with such an address, and with it all the other endpoints."""
    known = ip_address(address)
    return known.is_unspecified or known.is_loopback or known.is_link_local or known.is_multicast


def _resolved_ports(service: Service, pod: Pod) -> Ports:
    """Return the pod's ports behind a Service's; a named one that the pod lacks is left out."""
    found = []
    for port in service.spec.ports or ():
        number = _target_number(port, pod)
        if number is not None:
            found.append(
                EndpointPort(
                    name=port.name or "", protocol=port.protocol, port=number, app_protocol=port.app_protocol
                )
            )
    return tuple(found)


def _target_number(port: ServicePort, pod: Pod) -> int | None:
    target = port.target_port
    if isinstance(target, int):
        return target or port.port
    if not target:
        return port.port
    if target.isascii() and target.isdigit():
        return int(target)
    for container in _serving_containers(pod):
        for candidate in container.ports or ():
            if candidate.name == target and candidate.protocol == port.protocol:
                return candidate.container_port
    return None


def _serving_containers(pod: Pod) -> Iterator[Container]:
    """Yield the containers that run while the pod serves: an init container with restartPolicy Always does."""
    yield from pod.spec.containers or ()
    yield from (each for each in pod.spec.init_containers or () if each.restart_policy == "Always")


def _endpoint(service: Service, pod: Pod, address: str, zones: Mapping[str, str]) -> Endpoint:
    serving, terminating = pod.is_ready, pod.metadata.deletion_timestamp is not None
    ready = bool(service.spec.publish_not_ready_addresses) or (serving and not terminating)
    named = pod.spec.hostname and pod.spec.subdomain == service.metadata.name
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
        hostname=pod.spec.hostname if named else None,
        node_name=pod.spec.node_name,
        zone=zones.get(pod.spec.node_name or "") or None,
        target_ref=TargetRef(
            kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid
        ),
    )


def _trigger_time(
    service: Service,
    pods: Sequence[Pod],
    standing: Sequence[EndpointSlice],
    wanted: Mapping[Group, Mapping[str, Endpoint]],
) -> str:
    """Return when the oldest change of this plan happened, for the agents' programming latency."""
    known = {endpoint for each in standing for endpoint in each.endpoints or ()}
    fresh = {name for group in wanted.values() for name, endpoint in group.items() if endpoint not in known}
    times = [
        condition.last_transition_time
        for pod in pods
        if pod.metadata.name in fresh and (condition := pod.ready_condition) is not None
    ]
    if not standing:
        times.append(service.metadata.creation_timestamp)
    return min((time for time in times if time), default="")


class _Fitting:
    """Fits wanted endpoints into standing slices: what is in place stays, rooms are filled, the rest is new."""

    def __init__(self, service: Service, trigger: str, new_name: Callable[[str], str]) -> None:
        self._service = service
        self._trigger = trigger
        self._new_name = new_name
        self._labels = _labels(service)
        self._owners = (_owner(service),)

    def fit(self, wanted: Mapping[Group, Mapping[str, Endpoint]], standing: Sequence[EndpointSlice]) -> SlicePlan:
        """Plan all groups, empty slices last: they are deleted, or one stands for "no endpoints"."""
        by_group: dict[Group, list[EndpointSlice]] = {}
        for each in standing:
            by_group.setdefault((each.address_type, each.ports or ()), []).append(each)
        creates: list[EndpointSlice] = []
        updates: list[EndpointSlice] = []
        empty: list[EndpointSlice] = []
        for group in sorted(wanted.keys() | by_group.keys(), key=repr):
            rooms = self._fill(wanted.get(group, {}), by_group.get(group, []))
            for before, endpoints in rooms:
                if not endpoints and before is not None:
                    empty.append(before)
                elif before is None:
                    creates.append(self._slice(group, endpoints))
                elif (after := self._revised(before, endpoints)) is not None:
                    updates.append(after)
        populated = {address_type for (address_type, _), endpoints in wanted.items() if endpoints}
        for address_type in address_types(self._service):
            if address_type in populated:
                continue
            placeholder = next((each for each in empty if each.address_type == address_type), None)
            if placeholder is None:
                creates.append(self._slice((address_type, ()), ()))
            else:
                empty.remove(placeholder)
                if (after := self._revised(placeholder, (), ports=())) is not None:
                    updates.append(after)
        return SlicePlan(creates=tuple(creates), updates=tuple(updates), deletes=tuple(empty))

    def _fill(
        self, wanted: Mapping[str, Endpoint], standing: Sequence[EndpointSlice]
    ) -> list[tuple[EndpointSlice | None, tuple[Endpoint, ...]]]:
        missing = dict(wanted)
        rooms: list[tuple[EndpointSlice | None, list[Endpoint]]] = []
        for each in standing:
            names = [ref.name for endpoint in each.endpoints or () if (ref := endpoint.target_ref) is not None]
            kept = [missing.pop(name) for name in names[:MAX_ENDPOINTS] if name in missing]
            rooms.append((each, kept))
        newcomers = iter(missing.values())
        for before, endpoints in rooms:
            # An emptied slice is filled too: it would be deleted, and a fresh one made, for nothing.
            changed = before is not None and len(endpoints) != len(before.endpoints or ())
            if changed or len(standing) == 1:
                _top_up(endpoints, newcomers)
        for _, endpoints in rooms:
            _top_up(endpoints, newcomers)
        while rest := _top_up([], newcomers):
            rooms.append((None, rest))
        return [(before, tuple(endpoints)) for before, endpoints in rooms]

    def _slice(self, group: Group, endpoints: Sequence[Endpoint]) -> EndpointSlice:
        meta = self._service.metadata
        prefix = f"{meta.name}-"
        annotations = {TRIGGER_TIME_ANNOTATION: self._trigger} if self._trigger else None
        return EndpointSlice(
            metadata=Meta(
                name=self._new_name(prefix),
                generate_name=prefix,
                namespace=meta.namespace,
                labels=self._labels,
                annotations=annotations,
                owner_references=self._owners,
            ),
            address_type=group[0],
            ports=group[1],
            endpoints=tuple(endpoints),
        )

    def _revised(
        self, before: EndpointSlice, endpoints: tuple[Endpoint, ...], ports: Ports | None = None
    ) -> EndpointSlice | None:
        """Return the slice as it should be, or None when it is so already."""
        ports = before.ports or () if ports is None else ports
        meta = before.metadata
        same_content = (before.endpoints or (), before.ports or ()) == (endpoints, ports)
        if same_content and (meta.labels, meta.owner_references) == (self._labels, self._owners):
            return None
        annotations = {
            key: value for key, value in (meta.annotations or {}).items() if key != TRIGGER_TIME_ANNOTATION
        }
        if self._trigger:
            annotations[TRIGGER_TIME_ANNOTATION] = self._trigger
        fresh = msgspec.structs.replace(
            meta, labels=self._labels, owner_references=self._owners, annotations=annotations or None
        )
        return msgspec.structs.replace(before, metadata=fresh, endpoints=endpoints, ports=ports)


def _top_up(endpoints: list[Endpoint], newcomers: Iterator[Endpoint]) -> list[Endpoint]:
    while len(endpoints) < MAX_ENDPOINTS and (endpoint := next(newcomers, None)) is not None:
        endpoints.append(endpoint)
    return endpoints


def _labels(service: Service) -> dict[str, str]:
    """Return a slice's labels: the Service's own, and those that say whose it is."""
    reserved = (SERVICE_NAME_LABEL, MANAGED_BY_LABEL, HEADLESS_LABEL)
    labels = {key: value for key, value in (service.metadata.labels or {}).items() if key not in reserved}
    labels[SERVICE_NAME_LABEL] = service.metadata.name
    labels[MANAGED_BY_LABEL] = MANAGER
    if service.spec.cluster_ip in (None, "", "None"):
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
