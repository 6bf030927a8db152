"""The clusters that are measured: N Services of M endpoints as an API server would send them. Pure.

One description, read two ways: as JSON by an agent's informers (`feed.py`), and decoded into a World for a backend
alone. Addresses: Services from 10.96.0.0, endpoints from 10.128.0.0, endpoints that come later from 10.248.0.0.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from figures import Size

from kubeproxy.model.decode import decode_proxy_slice, decode_service
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import key_of
from kubeproxy.model.world import World

NAMESPACE, PORT, TARGET_PORT = "bench", 80, 8080
SLICE_LIMIT = 100
"""Upstream's controller puts as many endpoints into a slice."""
NODES = 100
NODE_NAME, CLUSTER_CIDR = "node1", "10.128.0.0/9"
NODE_IP = "192.168.7.1"
_SERVICES, _ENDPOINTS, _LATER = (10 << 24 | second << 16 for second in (96, 128, 248))


def address(number: int) -> str:
    """Write an IPv4 address."""
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


def key(number: int) -> Key:
    """Return the key of a Service."""
    return NAMESPACE, f"svc-{number}"


def cluster_ip(number: int) -> str:
    """Return the address of a Service."""
    return address(_SERVICES + number)


def endpoint(size: Size, number: int, index: int) -> str:
    """Return the address of an endpoint that a Service has from the beginning."""
    return address(_ENDPOINTS + number * size.endpoints + index)


def later_endpoint(turn: int) -> str:
    """Return the address of an endpoint that comes with a change; another for each turn."""
    return address(_LATER + turn)


def node_of(size: Size, number: int, index: int) -> str:
    """Return the node that an endpoint is on."""
    return f"node{(number * size.endpoints + index) % NODES}"


def node() -> bytes:
    """Return the JSON of the node that the agent is on."""
    return _encode(
        {
            "metadata": {"name": NODE_NAME, "resourceVersion": "1"},
            "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}]},
        }
    )


def service(number: int, revision: int = 1) -> bytes:
    """Return a Service's JSON."""
    return _encode(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": _metadata(f"svc-{number}", number, revision),
            "spec": {
                "type": "ClusterIP",
                "clusterIP": cluster_ip(number),
                "clusterIPs": [cluster_ip(number)],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "selector": {"app": f"svc-{number}"},
                "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}],
            },
            "status": {"loadBalancer": {}},
        }
    )


def parts(size: Size) -> int:
    """Return how many EndpointSlices a Service has."""
    return -(-size.endpoints // SLICE_LIMIT)


def piece(size: Size, number: int, part: int = 0, turn: int | None = None, revision: int = 1) -> bytes:
    """Return an EndpointSlice's JSON; with a ``turn`` its first endpoint is another one, that turn's."""
    indices = range(part * SLICE_LIMIT, min((part + 1) * SLICE_LIMIT, size.endpoints))
    addresses = [endpoint(size, number, index) for index in indices]
    if turn is not None:
        addresses[0] = later_endpoint(turn)
    name = f"svc-{number}"
    metadata = _metadata(f"{name}-{part}", number, revision)
    metadata["labels"] = {"app": name, "kubernetes.io/service-name": name}
    return _encode(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata,
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}],
            "endpoints": [
                _endpoint(name, each, node_of(size, number, index), index)
                for each, index in zip(addresses, indices, strict=True)
            ],
        }
    )


def services(size: Size) -> Iterator[bytes]:
    """Yield all Services."""
    return (service(number) for number in range(size.services))


def pieces(size: Size) -> Iterator[bytes]:
    """Yield all EndpointSlices."""
    return (piece(size, number, part) for number in range(size.services) for part in range(parts(size)))


def world(size: Size) -> World:
    """Return the World of a cluster."""
    built = World()
    built.apply_services({key_of(each): each for each in map(decode_service, services(size))})
    built.apply_slices({key_of(each): each for each in map(decode_proxy_slice, pieces(size))})
    return built


def _metadata(name: str, number: int, revision: int) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": NAMESPACE,
        "uid": f"5a0f4c1e-0000-4000-8000-{number:012d}",
        "resourceVersion": str(revision),
        "generation": 1,
        "creationTimestamp": "2026-11-28T07:00:00Z",
        "labels": {"app": f"svc-{number}"},
    }


def _endpoint(service_name: str, ip: str, node: str, index: int) -> dict[str, Any]:
    return {
        "addresses": [ip],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": node,
        "zone": f"zone-{index % 3}",
        "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": f"{service_name}-7d9f8c6b5-{index:05d}"},
    }


_encode = msgspec.json.encode
