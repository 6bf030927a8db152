"""An API server in memory, as an agent's informers see it: a cluster at first, then the events that it is given.

It holds nothing of the cluster: objects are made as they are listed, so the memory of this process is the agent's.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import cluster
from figures import Size

from kubeproxy.store.kube import Listing
from kubeproxy.store.kube_wire import Page, WatchEvent
from kubeproxy.store.resources import ENDPOINT_SLICES, NODES, SERVICES, Resource

CHUNK = 64 * 1024
"""Bytes of events that a client has at once, as from a socket; then the event loop has its turn."""

_OPENED = WatchEvent(type="OPENED", object=b"")
_SYNCED = WatchEvent(type="SYNCED", object=b'{"metadata": {"resourceVersion": "1"}}')


class Feed:
    """What `following.Following` and `health.events.Recorder` need of a `store.kube.KubeClient`."""

    server = "http://127.0.0.1:8001"

    def __init__(self, size: Size) -> None:
        self._initial: dict[Resource, Callable[[], Iterator[bytes]]] = {
            SERVICES: lambda: cluster.services(size),
            ENDPOINT_SLICES: lambda: cluster.pieces(size),
            NODES: lambda: iter([cluster.node()]),
        }
        self._queues: dict[Resource, asyncio.Queue[WatchEvent]] = {}

    def tell(self, resource: Resource, kind: str, data: bytes) -> None:
        """Send an event (ADDED, MODIFIED, DELETED) to whoever watches."""
        self._queues[resource].put_nowait(WatchEvent(type=kind, object=data))

    async def watch(self, resource: Resource, revision: str, **scope: str) -> AsyncIterator[WatchEvent]:
        """See `informer.ObjectSource`."""
        queue = self._queues.setdefault(resource, asyncio.Queue())
        yield _OPENED
        if not revision:
            async for event in _in_chunks(self._listed(resource)):
                yield event
            yield _SYNCED
        sent = 0
        while True:
            event = await queue.get()
            yield event
            sent += len(event.object)
            if sent >= CHUNK:
                sent = 0
                await asyncio.sleep(0)

    def _listed(self, resource: Resource) -> Iterator[WatchEvent]:
        for data in self._initial.get(resource, lambda: iter(()))():
            yield WatchEvent(type="ADDED", object=data)

    async def pages(self, resource: Resource, **scope: str) -> AsyncIterator[Page]:
        """See `informer.ObjectSource`; nobody asks where a watch begins with what there is."""
        raise NotImplementedError("the watch sends initial events")
        yield

    async def list(self, resource: Resource, **scope: str) -> Listing:
        """See `events.EventApi`: there are no Events yet."""
        return Listing(items=(), revision="1")

    async def create(self, resource: Resource, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        """See `events.EventApi`."""
        return body

    async def patch(self, resource: Resource, namespace: str, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """See `events.EventApi`."""
        return patch


async def _in_chunks(events: Iterator[WatchEvent]) -> AsyncIterator[WatchEvent]:
    sent = 0
    for event in events:
        yield event
        sent += len(event.object)
        if sent >= CHUNK:
            sent = 0
            await asyncio.sleep(0)
