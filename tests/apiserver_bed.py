"""The API server over an in-memory store, without a socket of its own process: what its tests drive."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import TCPConnector
from aiohttp.test_utils import TestClient, TestServer

from kubeproxy.apiserver.allocate import Allocator, parse_ranges
from kubeproxy.apiserver.app import api_app
from kubeproxy.apiserver.authentication import Authenticator
from kubeproxy.apiserver.bootstrap import SystemObjects
from kubeproxy.apiserver.feed import Limits
from kubeproxy.apiserver.gate import Gate
from kubeproxy.apiserver.gc import GarbageCollector
from kubeproxy.apiserver.masters import Reach
from kubeproxy.apiserver.registry import Registry
from kubeproxy.clock import SystemClock
from kubeproxy.store.base import Range, Store, prefix_end
from kubeproxy.store.sqlite import SqliteStore

Obj = dict[str, Any]

SERVICES = "/api/v1/namespaces/default/services"
PODS = "/api/v1/namespaces/default/pods"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
REPLICA_SETS = "/apis/apps/v1/namespaces/default/replicasets"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


class Bed:
    """A client of one API server; `call` returns the HTTP status and the decoded answer."""

    def __init__(self, client: TestClient, registry: Registry) -> None:
        self.client = client
        self.registry = registry

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Obj]:
        data = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("Content-Type", "application/json")
        async with self.client.request(method, path, data=data, headers=named) as answer:
            return answer.status, msgspec.json.decode(await answer.read())

    async def made(self, path: str, body: Obj) -> Obj:
        """Create an object that must be accepted."""
        code, obj = await self.call("POST", path, body)
        assert code == 201, obj
        return obj

    async def refused(self, path: str, body: Obj) -> str:
        """Create an object that must be refused; return the message."""
        code, answer = await self.call("POST", path, body)
        assert code >= 400, answer
        assert answer["kind"] == "Status"
        assert answer["code"] == code
        return str(answer["message"])


@asynccontextmanager
async def api_bed(
    service_range: str = "10.96.0.0/12", ports: str = "30000-32767", ring: Limits | None = None
) -> AsyncIterator[Bed]:
    async with await SqliteStore.open(":memory:") as store, api_on(store, service_range, ports, ring=ring) as bed:
        yield bed


@asynccontextmanager
async def api_on(
    store: Store,
    service_range: str = "10.96.0.0/12",
    ports: str = "30000-32767",
    seed: int = 7,
    ring: Limits | None = None,
    authenticator: Authenticator | None = None,
) -> AsyncIterator[Bed]:
    """Another API server on a store; without an authenticator everybody may do everything."""
    clock, rng = SystemClock(), random.Random(seed)
    ranges = parse_ranges(service_range, ports)
    registry = Registry(store, Allocator(store, ranges, rng), clock=clock, rng=rng)
    await SystemObjects(registry, ranges, Reach("192.168.56.10", 8001)).ensure()
    gate = Gate(authenticator, registry, clock) if authenticator else None
    server = TestServer(api_app(registry, clock, gate, ring=ring))
    async with TestClient(server, connector=TCPConnector(limit=0)) as client:
        yield Bed(client, registry)


async def claimed(bed: Bed) -> dict[str, str]:
    """Return what is in use, by address or `PROTOCOL-PORT`, with the name of whose it is."""
    prefix = b"/registry/ranges/"
    found = await bed.registry.store.range(Range(key=prefix, range_end=prefix_end(prefix)))
    return {kv.key.rpartition(b"/")[2].decode(): kv.value.rpartition(b"/")[2].decode() for kv in found.kvs}


def shown(*services: Obj) -> set[str]:
    """Return what Services show of addresses and ports that they hold, named as `claimed` names it."""
    held: set[str] = set()
    for obj in services:
        spec = obj["spec"]
        held |= {ip for ip in spec.get("clusterIPs", ()) if ip != "None"}
        held |= {f"{p['protocol']}-{p['nodePort']}" for p in spec.get("ports", ()) if "nodePort" in p}
        if "healthCheckNodePort" in spec:
            held.add(f"TCP-{spec['healthCheckNodePort']}")
    return held


def collector(bed: Bed) -> GarbageCollector:
    return GarbageCollector(bed.registry, SystemClock())


def service(name: str, **spec: Any) -> Obj:
    ports = spec.pop("ports", [{"port": 80}])
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports, **spec}}


def pod(name: str, **spec: Any) -> Obj:
    containers = [{"name": "c", "image": "nginx"}]
    return {"metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def deployment(name: str) -> Obj:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": template}}
