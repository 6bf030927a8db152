import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import msgspec
import pytest

from kubeproxy.clock import ManualClock, settle
from kubeproxy.following import Following
from kubeproxy.health.announce import Announcer
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.world import World
from kubeproxy.store.kube_wire import Page, StreamingUnsupported, WatchEvent
from kubeproxy.store.resources import NODES, Resource

pytestmark = pytest.mark.unit


class Server:
    """An API server that has one Node, and tells what becomes of it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[WatchEvent] = asyncio.Queue()
        self.revision = 1

    def tell(self, kind: str, ip: str = "192.168.0.2", heartbeat: str = "") -> None:
        self.revision += 1
        meta = {"name": "node1", "resourceVersion": str(self.revision)}
        conditions = [{"type": "Ready", "lastHeartbeatTime": heartbeat}]
        status = {"addresses": [{"type": "InternalIP", "address": ip}], "conditions": conditions}
        node = {"metadata": meta, "spec": {"podCIDR": "10.1.0.0/24"}, "status": status}
        self.events.put_nowait(WatchEvent(type=kind, object=msgspec.json.encode(node)))

    async def pages(self, resource: Resource, **_: Any) -> AsyncIterator[Page]:
        yield Page(items=(), revision="1", more="")

    async def watch(self, resource: Resource, revision: str, **_: Any) -> AsyncIterator[WatchEvent]:
        if not revision:
            raise StreamingUnsupported("lists only")
        if resource is not NODES:
            await asyncio.Event().wait()
        while True:
            yield await self.events.get()


class Touched:
    """A syncer that counts what it is told."""

    def __init__(self) -> None:
        self.nodes = 0

    def touch(self, keys: Collection[Key]) -> None:
        raise AssertionError(f"no Service was told of: {keys}")

    def touch_node(self) -> None:
        self.nodes += 1


async def test_only_what_forwarding_depends_on_touches_and_a_deleted_node_stays_known() -> None:
    clock, world, syncer, server = ManualClock(), World(), Touched(), Server()
    health = ProxyHealth([Family.V4], 30)
    following = Following(
        server,  # type: ignore[arg-type]
        clock,
        "node1",
        world,
        [syncer],  # type: ignore[list-item]
        None,  # type: ignore[arg-type]  # reports count no Nodes
        health,
        Announcer(lambda note: None, "node1"),
        lambda: None,
    )
    task = asyncio.create_task(following.informers["node"].run())
    server.tell("ADDED")
    await clock.step(1)
    assert (syncer.nodes, health.healthz(clock.wall())[0]) == (1, 200)
    for second in range(5):
        server.tell("MODIFIED", heartbeat=f"2026-11-27T00:00:0{second}Z")
    await settle()
    assert syncer.nodes == 1
    server.tell("DELETED")
    await settle()
    assert (syncer.nodes, health.healthz(clock.wall())[0]) == (1, 503)
    assert world.node is not None
    server.tell("ADDED", ip="192.168.0.3")
    await settle()
    assert (syncer.nodes, health.healthz(clock.wall())[0]) == (2, 200)
    task.cancel()
