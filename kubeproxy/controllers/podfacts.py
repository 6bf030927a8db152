"""What a pod is to a Service that selects it: in or out, at which addresses and ports. Pure.

EndpointSlices and Endpoints are both made of these answers. Rules are upstream's (kubernetes staging
endpointslice/utils.go, util/controller_utils.go).
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from ipaddress import ip_address

from kubeproxy.controllers.objects import Container, EndpointPort, Pod, Service, ServicePort, TargetRef, matches
from kubeproxy.model.addresses import canonical_ip, family_of

Ports = tuple[EndpointPort, ...]

_ADDRESSES_KEPT = 1 << 14
"""Each plan of a large Service asks for all pods' addresses again; parsing them was two thirds of its time."""


def belongs(service: Service, pod: Pod) -> bool:
    """Say whether a pod may be an endpoint of a Service: selected, and not ended for good."""
    return matches(service.spec.selector or {}, pod.metadata.labels) and not pod.is_finished


def address_types(service: Service) -> tuple[str, ...]:
    """Return the families a Service has endpoints for; one that says nothing is IPv4."""
    return service.spec.ip_families or ("IPv4",)


def addresses(pod: Pod) -> Iterator[tuple[str, str]]:
    """Yield the first address of each family, with its address type."""
    texts = [entry.ip for entry in pod.status.pod_ips or ()] or [pod.status.pod_ip or ""]
    found: dict[str, str] = {}
    for text in texts:
        if (known := _known_address(text)) is not None:
            found.setdefault(*known)
    yield from found.items()


@lru_cache(_ADDRESSES_KEPT)
def _known_address(text: str) -> tuple[str, str] | None:
    """Return address type and canonical form, or None for what is no pod's.

    The API refuses a slice with an address of nobody, and with it all the other endpoints.
    """
    address = canonical_ip(text)
    if address is None:
        return None
    parsed = ip_address(address)
    if parsed.is_unspecified or parsed.is_loopback or parsed.is_link_local or parsed.is_multicast:
        return None
    return family_of(address).label, address


@lru_cache(_ADDRESSES_KEPT)
def packed(address: str) -> bytes:
    """Return an address as the bytes by which addresses are ordered."""
    return ip_address(address).packed


def projection(pod: Pod | None) -> object:
    """Return all of a pod that endpoints are made of, None for one that is none; other changes do not matter."""
    if pod is None or pod.is_finished or not (found := tuple(addresses(pod))):
        return None
    leaving = pod.metadata.deletion_timestamp is not None
    return found, pod.is_ready, leaving, pod.metadata.uid, pod.metadata.labels, pod.spec


def resolved_ports(service: Service, pod: Pod) -> Ports:
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


def hostname(service: Service, pod: Pod) -> str | None:
    """Return the name that DNS gives a pod under a Service: only under its own subdomain."""
    return pod.spec.hostname if pod.spec.hostname and pod.spec.subdomain == service.metadata.name else None


def reference(pod: Pod) -> TargetRef:
    """Return the targetRef that leads from an endpoint to its pod."""
    return TargetRef(kind="Pod", namespace=pod.metadata.namespace, name=pod.metadata.name, uid=pod.metadata.uid)


def trigger_time(service: Service, pods: Sequence[Pod], fresh: Collection[str], *, first: bool) -> str:
    """Return when the oldest of what is new happened, "" unknown: agents measure their latency from there.

    ``fresh`` are the names of the pods that are new or different; ``first``: nothing stood before.
    """
    times = [
        condition.last_transition_time
        for pod in pods
        if pod.metadata.name in fresh and (condition := pod.ready_condition) is not None
    ]
    if first:
        times.append(service.metadata.creation_timestamp)
    return min((time for time in times if time), default="")
