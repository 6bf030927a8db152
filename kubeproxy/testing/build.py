"""Objects of the model in few words: `service("ns/web", "10.96.0.1:80")`, `endpoint_slice("ns/web", ...)`.

Ports are written `80`, `80/UDP`, `80>8080` (targetPort differs), `http=80>8080/TCP`, several with commas.
"""

import re
from collections.abc import Iterable

from kubeproxy.model.addresses import family_of
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import (
    Conditions,
    Endpoint,
    EndpointSlice,
    Protocol,
    Record,
    Service,
    ServicePort,
    ServiceType,
    SlicePort,
)
from kubeproxy.model.world import World

_PORT = re.compile(r"(?:(?P<name>[a-z0-9-]*)=)?(?P<port>\d+)(?:>(?P<target>\d+))?(?:/(?P<protocol>\w+))?")


class Port(Record, frozen=True, kw_only=True):
    """One port as written in a builder."""

    name: str
    port: int
    target: int
    protocol: Protocol


def ports(text: str) -> list[Port]:
    """Parse `http=80>8080/TCP,53/UDP`."""
    found = []
    for part in text.split(","):
        match = _PORT.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part!r} is no port; write name=port>target/PROTOCOL")
        number = int(match["port"])
        found.append(
            Port(
                name=match["name"] or "",
                port=number,
                target=int(match["target"] or number),
                protocol=Protocol(match["protocol"] or "TCP"),
            )
        )
    return found


def key(text: str) -> Key:
    """Parse `namespace/name`; the namespace may be left out."""
    namespace, slash, name = text.rpartition("/")
    return (namespace if slash else "default"), name


def service(name: str, cluster_ip: str, port: str = "80", *, node_port: int = 0, **fields: object) -> Service:
    """Build a Service; further fields are those of `objects.Service`. Node ports count up from ``node_port``."""
    namespace, short = key(name)
    entries = tuple(
        ServicePort(name=each.name, protocol=each.protocol, port=each.port, node_port=node_port and node_port + i)
        for i, each in enumerate(ports(port))
    )
    if node_port:
        fields.setdefault("type", ServiceType.NODE_PORT)
    ips = tuple(cluster_ip.split(",")) if cluster_ip else ()
    return Service(namespace=namespace, name=short, cluster_ips=ips, ports=entries, **fields)  # type: ignore[arg-type]


def endpoint(address: str, *, node: str = "", ready: bool = True, **fields: object) -> Endpoint:
    """Build an Endpoint; further fields are those of `objects.Endpoint`."""
    conditions = Conditions(ready=ready, serving=ready)
    return Endpoint(address=address, node_name=node, conditions=conditions, **fields)  # type: ignore[arg-type]


def endpoint_slice(
    service_name: str, port: str, endpoints: Iterable[Endpoint | str], *, suffix: str = "abcde"
) -> EndpointSlice:
    """Build a slice of a Service; an endpoint may be plain text: `10.0.0.1` or `10.0.0.1@node1`."""
    namespace, short = key(service_name)
    entries = tuple(_endpoint(each) if isinstance(each, str) else each for each in endpoints)
    label = family_of(entries[0].address).label if entries else "IPv4"
    return EndpointSlice(
        namespace=namespace,
        name=f"{short}-{suffix}",
        service=short,
        address_type=label,
        ports=tuple(SlicePort(name=p.name, protocol=p.protocol, port=p.target) for p in ports(port)),
        endpoints=entries,
    )


def _endpoint(text: str) -> Endpoint:
    address, _, node = text.partition("@")
    return endpoint(address, node=node)


def world(*objects: Service | EndpointSlice) -> World:
    """Build a World of Services and EndpointSlices."""
    built = World()
    for each in objects:
        identity = (each.namespace, each.name)
        if isinstance(each, Service):
            built.apply_services({identity: each})
        else:
            built.apply_slices({identity: each})
    return built


def crowd(services: int, endpoints: int = 3, *, nodes: int = 100) -> World:
    """Build a World of many Services with as many endpoints each, spread over nodes; for measurements."""
    built = World()
    for i in range(services):
        name = f"bench/svc-{i}"
        vip = f"10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}"
        first = i * endpoints
        addresses = [
            f"10.{128 + (n >> 16)}.{n >> 8 & 255}.{n & 255}@node{n % nodes}"
            for n in range(first, first + endpoints)
        ]
        one, piece = service(name, vip, "http=80>8080"), endpoint_slice(name, "http=80>8080", addresses)
        built.apply_services({(one.namespace, one.name): one})
        built.apply_slices({(piece.namespace, piece.name): piece})
    return built
