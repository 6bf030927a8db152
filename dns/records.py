"""PURE: a Service and its EndpointSlices → the records that the DNS specification gives them.

In: `kubeproxy.model` values. Out: `ServiceRecords`: owner names relative to the cluster domain, each with its
RRsets, and what the Service adds to reverse lookup. What a name has not got here it does not have: a name
with no RRset is an empty non-terminal (NODATA), an absent one does not exist (NXDOMAIN), whatever the type.

The rules are those of kubernetes/dns' specification 1.1.0 and, where it leaves room, CoreDNS's (endpoint
names under Services with a cluster IP, PTR for every ready endpoint, SRV weights, SRV on the bare name).
dns/README.md lists where we differ and why.
"""

from collections.abc import Iterable, Sequence

import msgspec

from dns.rrtypes import Type
from kubeproxy.model.addresses import canonical_ip
from kubeproxy.model.names import is_label
from kubeproxy.model.objects import EndpointSlice, Record, Service, ServiceType

SPEC_VERSION = "1.1.0"
"""What TXT dns-version says: the version of the specification that these records follow."""


class Srv(Record, frozen=True, kw_only=True):
    """The rdata of an SRV record; ``target`` is relative to the zone, like every name here."""

    priority: int = 0
    weight: int
    port: int
    target: str


Rdata = str | Srv
RRsets = dict[Type, tuple[Rdata, ...]]


class ServiceRecords(Record, frozen=True, kw_only=True):
    """Everything that one Service says in DNS."""

    names: dict[str, RRsets] = msgspec.field(default_factory=dict)
    """Owner relative to the zone → RRsets; none: an empty non-terminal."""
    virtual: dict[str, str] = msgspec.field(default_factory=dict)
    """Cluster IP → the name that its PTR gives; beats what `endpoints` say of the same address."""
    endpoints: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Endpoint address → the names that its PTR records give."""
    external_name: str = ""
    """Absolute target (`example.org.`) of an ExternalName Service."""


class Options(Record, frozen=True, kw_only=True):
    """What the kubernetes plugin's options change in the records."""

    endpoint_pod_names: bool = False
    noendpoints: bool = False
    ignore_empty_service: bool = False


DEFAULT_OPTIONS = Options()


class _ReadyEndpoint(Record, frozen=True, kw_only=True):
    """A ready address under its DNS label, with the ports of the slice that it stands in."""

    label: str
    address: str
    ports: tuple[tuple[str, str, int], ...]


def service_records(
    service: Service | None, slices: Sequence[EndpointSlice], options: Options = DEFAULT_OPTIONS
) -> ServiceRecords:
    """Return the records of a Service; slices without their Service (None) still have reverse names."""
    identity = service or next(iter(slices), None)
    if identity is None:
        return ServiceRecords()
    name = service.name if service else slices[0].service
    if not is_label(name):
        return ServiceRecords()
    base = f"{name}.{identity.namespace}.svc"
    ready = [] if options.noendpoints else _ready(slices, options)
    endpoints = _endpoint_pointers(base, ready)
    if service is None:
        return ServiceRecords(endpoints=endpoints)
    if service.type is ServiceType.EXTERNAL_NAME:
        return _external(base, service)
    if service.headless:
        names = _headless_names(base, ready)
        return ServiceRecords(names=_with_ancestors(names, base), endpoints=endpoints)
    if not service.cluster_ips or (options.ignore_empty_service and not ready):
        return ServiceRecords(endpoints=endpoints)
    names = _cluster_ip_names(base, service)
    names.update(_endpoint_names(base, ready))
    virtual = dict.fromkeys(service.cluster_ips, base)
    return ServiceRecords(names=_with_ancestors(names, base), virtual=virtual, endpoints=endpoints)


def endpoint_label(address: str) -> str:
    """Return the label of an endpoint without a hostname: its address with dashes (`fd00--1`)."""
    label = address.replace(".", "-").replace(":", "-")
    return label + "0" if label.endswith("-") else label


def address_of_label(label: str) -> str | None:
    """Return the address that a dashed label (`10-0-0-1`, `fd00--1`) stands for, as pod names have it."""
    if label.count("-") == 3 and "--" not in label and label.replace("-", "").isdigit():
        return canonical_ip(label.replace("-", "."))
    address = canonical_ip(label.replace("-", ":"))
    return address if address is not None and ":" in address else None


def address_type(address: str) -> Type:
    """Return A or AAAA."""
    return Type.AAAA if ":" in address else Type.A


def _ready(slices: Iterable[EndpointSlice], options: Options) -> list[_ReadyEndpoint]:
    found = []
    for piece in slices:
        ports = tuple((port.name, port.protocol.lower(), port.port) for port in piece.ports)
        for endpoint in piece.endpoints:
            if not endpoint.conditions.ready:
                continue
            label = endpoint.hostname
            if not label and options.endpoint_pod_names and is_label(endpoint.pod_name):
                label = endpoint.pod_name
            label = label.lower() or endpoint_label(endpoint.address)
            found.append(_ReadyEndpoint(label=label, address=endpoint.address, ports=ports))
    return found


def _endpoint_pointers(base: str, ready: list[_ReadyEndpoint]) -> dict[str, tuple[str, ...]]:
    names: dict[str, dict[str, None]] = {}
    for endpoint in ready:
        names.setdefault(endpoint.address, {})[f"{endpoint.label}.{base}"] = None
    return {address: tuple(targets) for address, targets in names.items()}


def _addresses(addresses: Iterable[str]) -> RRsets:
    sets: dict[Type, dict[Rdata, None]] = {}
    for address in addresses:
        sets.setdefault(address_type(address), {})[address] = None
    return {kind: tuple(found) for kind, found in sets.items()}


def _endpoint_names(base: str, ready: list[_ReadyEndpoint]) -> dict[str, RRsets]:
    by_label: dict[str, list[str]] = {}
    for endpoint in ready:
        by_label.setdefault(endpoint.label, []).append(endpoint.address)
    return {f"{label}.{base}": _addresses(found) for label, found in by_label.items()}


def _weighted(candidates: list[tuple[int, str]]) -> tuple[Srv, ...]:
    """SRV records of (port, target) candidates: CoreDNS's weight counts them before they are made unique."""
    weight = max(1, 100 // len(candidates)) if candidates else 1
    return tuple(Srv(weight=weight, port=port, target=target) for port, target in dict.fromkeys(candidates))


def _service_ports(base: str, candidates: list[tuple[str, str, int, str]]) -> dict[str, RRsets]:
    """SRV names of (port name, protocol, number, target): the bare name has all, `_name._proto` its own."""
    names: dict[str, RRsets] = {}
    by_port: dict[str, list[tuple[int, str]]] = {}
    for name, protocol, number, target in candidates:
        if name:
            by_port.setdefault(f"_{name}._{protocol}.{base}", []).append((number, target))
            names[f"_{protocol}.{base}"] = {}
    for owner, found in by_port.items():
        names[owner] = {Type.SRV: _weighted(found)}
    if candidates:
        names[base] = {Type.SRV: _weighted([(number, target) for _, _, number, target in candidates])}
    return names


def _cluster_ip_names(base: str, service: Service) -> dict[str, RRsets]:
    candidates = [
        (port.name, port.protocol.lower(), port.port, base) for port in service.ports for _ in service.cluster_ips
    ]
    names = _service_ports(base, candidates)
    names[base] = {**_addresses(service.cluster_ips), **names.get(base, {})}
    return names


def _headless_names(base: str, ready: list[_ReadyEndpoint]) -> dict[str, RRsets]:
    if not ready:
        return {}
    candidates = [(*port, f"{endpoint.label}.{base}") for endpoint in ready for port in endpoint.ports]
    names = _service_ports(base, candidates)
    names[base] = {**_addresses(endpoint.address for endpoint in ready), **names.get(base, {})}
    names.update(_endpoint_names(base, ready))
    return names


def _external(base: str, service: Service) -> ServiceRecords:
    target = service.external_name.removesuffix(".")
    labels = target.split(".")
    if canonical_ip(target) is not None or not all(0 < len(label) < 64 for label in labels) or len(target) > 253:
        return ServiceRecords()  # An address or an impossible name: there is nothing to point at.
    names: dict[str, RRsets] = {base: {Type.CNAME: (target + ".",)}}
    return ServiceRecords(names=_with_ancestors(names, base), external_name=target + ".")


def _with_ancestors(names: dict[str, RRsets], base: str) -> dict[str, RRsets]:
    if names:
        _, _, parent = base.partition(".")
        names.setdefault(parent, {})
    return names
