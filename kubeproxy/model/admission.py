"""What of a Service or an EndpointSlice may be served: addresses that nobody may have, and how much of each. Pure.

What is left out is told, part by part, as `Rejection`; the rest goes on. `World` asks at its door.
"""

import re
from functools import lru_cache
from ipaddress import ip_address
from typing import TypeVar

import msgspec

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.claims import Place
from kubeproxy.model.objects import EndpointSlice, Protocol, Record, Service, ServicePort

V = TypeVar("V")

MOST_PLACES = 10_000
"""Ports of a Service, and addresses from outside times ports. Each costs a rule that all packets pass."""
MOST_RANGES = 100_000
"""Source ranges of one family times the load balancer's places that they guard. Each costs an entry or a rule."""


class Rejection(Record, frozen=True, kw_only=True):
    """A part of an object that was left out, and why; for status, metrics and one log line."""

    kind: str
    namespace: str
    name: str
    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        """Print as a log line's middle."""
        if not self.kind:
            return f"{self.field} {self.value} {self.reason}"
        name = f"{self.namespace}/{self.name}".lstrip("/")
        return f"{self.kind} {name}: {self.field} {self.value} is {self.reason}"


_SPECIAL = re.compile(r".*:|0\.|127\.|169\.254\.|22[4-9]\.|23[0-9]\.|255\.255\.255\.255$")
"""What a canonical address begins with that deserves a closer look; the others, nearly all, are spared it."""


def forbidden(address: str) -> str:
    """Return why no endpoint or virtual IP may have this canonical address, or "" when one may."""
    return _reason(address) if _SPECIAL.match(address) else ""


@lru_cache(maxsize=65536)
def _reason(address: str) -> str:
    ip = ip_address(address)
    if ip.is_unspecified:
        return "the unspecified address"
    if ip.is_loopback:
        return "a loopback address"
    if ip.is_link_local:
        return "a link-local address"
    if ip.is_multicast:
        return "a multicast address"
    if address.startswith("0."):
        return "an address of no machine (0.0.0.0/8)"
    if address == "255.255.255.255":
        return "the broadcast address"
    return ""


def _faults(kind: str, owner: Service | EndpointSlice) -> list[Rejection]:
    return [rejection(kind, owner, fault.field, fault.value, fault.reason) for fault in owner.faults]


def _distinct_ports(service: Service, rejections: list[Rejection]) -> tuple[ServicePort, ...]:
    """Leave out ports of an earlier one's name and protocol: nobody could say which endpoints are whose."""
    first: dict[tuple[str, Protocol], ServicePort] = {}
    lines: dict[Rejection, None] = {}
    for port in service.ports:
        identity = port.name, port.protocol
        if first.setdefault(identity, port) is not port:
            shown = f"{port.name or '(unnamed)'}/{port.protocol} {port.port}"
            lines[rejection("Service", service, "spec.ports", shown, "not the first of its name and protocol")] = (
                None
            )
    rejections += lines
    return tuple(first.values())


def _limited(
    field: str, values: tuple[V, ...], room: int, of: str, service: Service, rejections: list[Rejection]
) -> tuple[V, ...]:
    if len(values) <= room:
        return values
    why = f"more than the {room:,} that there is room for ({of} a Service)"
    rejections.append(rejection("Service", service, field, f"list of {len(values):,}", why))
    return values[:room]


def _limited_ranges(service: Service, guarded: int, rejections: list[Rejection]) -> tuple[str, ...]:
    """Leave out source ranges that are too many, never a family's last: that would admit everybody."""
    room = max(MOST_RANGES // max(guarded, 1), 1)
    if len(service.source_ranges) <= room:
        return service.source_ranges
    field, of = "spec.loadBalancerSourceRanges", f"{MOST_RANGES:,} ranges times addresses times ports"
    kept: list[str] = []
    for family in Family:
        own = tuple(each for each in service.source_ranges if family_of(each) is family)
        kept += _limited(field, own, room, of, service, rejections)
    return tuple(kept)


def admissible_service(
    service: Service, kept_clear: tuple[Place, str] | None = None
) -> tuple[Service, list[Rejection]]:
    """Return what of a Service may be served, and what not; ``kept_clear``: see `World.keep_clear`."""
    rejections = _faults("Service", service)
    ports = service.ports if len(service.ports) < 2 else _distinct_ports(service, rejections)
    places = f"{MOST_PLACES:,} addresses times ports"
    ports = _limited("spec.ports", ports, MOST_PLACES, places, service, rejections)

    place, why_clear = kept_clear or (None, "")
    serves = place is not None and any((each.protocol, each.port) == place[1:] for each in ports)

    def keep(field: str, addresses: tuple[str, ...], *, clear: bool = False) -> tuple[str, ...]:
        held = place.address if place is not None and clear else ""
        reasons = [why_clear if address == held else forbidden(address) for address in addresses]
        if not any(reasons):
            return addresses
        pairs = list(zip(addresses, reasons, strict=True))
        rejections.extend(rejection("Service", service, field, ip, why) for ip, why in pairs if why)
        return tuple(ip for ip, why in pairs if not why)

    cluster = keep("spec.clusterIPs", service.cluster_ips)
    external = keep("spec.externalIPs", service.external_ips, clear=True)
    ingress = keep("status.loadBalancer.ingress", service.load_balancer_ips, clear=not serves)
    room = MOST_PLACES // max(len(ports), 1)
    ingress = _limited("status.loadBalancer.ingress", ingress, room, places, service, rejections)
    external = _limited("spec.externalIPs", external, room - len(ingress), places, service, rejections)
    ranges = _limited_ranges(service, len(ingress) * len(ports), rejections)
    if not rejections:
        return service, rejections
    changed = msgspec.structs.replace(
        service,
        cluster_ips=cluster,
        external_ips=external,
        load_balancer_ips=ingress,
        source_ranges=ranges,
        ports=ports,
    )
    return changed, rejections


def admissible_slice(piece: EndpointSlice) -> tuple[EndpointSlice, list[Rejection]]:
    """Return what of an EndpointSlice may be served, and what not."""
    family = Family.V6 if piece.address_type == Family.V6.label else Family.V4
    stranger = f"no {family.label} address"
    reasons = [
        forbidden(each.address) if family_of(each.address) is family else stranger for each in piece.endpoints
    ]
    rejections = _faults("EndpointSlice", piece)
    if not any(reasons):
        return piece, rejections
    pairs = list(zip(piece.endpoints, reasons, strict=True))
    rejections += [
        rejection("EndpointSlice", piece, "endpoints.addresses", endpoint.address, why)
        for endpoint, why in pairs
        if why
    ]
    kept = tuple(endpoint for endpoint, why in pairs if not why)
    return msgspec.structs.replace(piece, endpoints=kept), rejections


def rejection(kind: str, owner: Service | EndpointSlice, field: str, value: str, reason: str) -> Rejection:
    """Return the rejection of one part of an object."""
    return Rejection(
        kind=kind, namespace=owner.namespace, name=owner.name, field=field, value=value, reason=reason
    )
