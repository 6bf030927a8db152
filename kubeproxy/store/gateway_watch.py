"""The gateway's watches: a store's watch as lines of JSON, for as long as the client reads them.

The first line says ``created``; a line of events follows each batch; one with ``canceled`` (and
``compact_revision`` when history is gone) is the last. A silent watch that asked for ``progress_notify`` gets a
line without events now and then. Nothing is queued: while the client does not read, the store's watch is not
read either, and a client that does not read for ``write_seconds`` is cut off.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from types import MappingProxyType
from typing import Any

import msgspec
from aiohttp import web

from kubeproxy.store.base import Compacted, Store, StoreError, WatchBatch
from kubeproxy.store.gateway_codec import WatchCreateRequest, WatchRequest, decode, event, failure, header, lean
from kubeproxy.store.gateway_door import read_body

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 10.0
WRITE_SECONDS = 30.0
_KEEPALIVE = MappingProxyType(
    {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
)
"""A client whose machine vanished is found out in half a minute."""


class Watches:
    """Serves POST /v3/watch, until `stop`."""

    def __init__(
        self, store_of: Callable[[web.Request], Store], progress_seconds: float, write_seconds: float
    ) -> None:
        self._store_of = store_of
        self._progress_seconds = progress_seconds
        self._write_seconds = write_seconds
        self._stopping = asyncio.Event()

    async def stop(self, _: web.Application) -> None:
        """End every watch, so that the server's shutdown need not wait for its clients."""
        self._stopping.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve one watch until the client leaves or stops reading, or the store or the server ends."""
        store = self._store_of(request)
        asked = decode(await read_body(request), WatchRequest).create_request
        _keep_alive(request)
        batches = store.watch(asked.key, asked.range_end, asked.start_revision)
        stream = _Stream(request, asked, self._write_seconds)
        revision = 0
        try:
            # The first batch before the first byte: a watch that is refused is answered as any other call.
            revision = (await anext(batches)).revision
            await stream.created(revision)
            await self._forward(batches, stream, revision)
        except Compacted as error:
            await stream.created(revision)
            await stream.send(_canceled(error))
        except StoreError as error:
            if not stream.response.prepared:
                raise
            await stream.send(_canceled(error))
        return stream.response

    async def _forward(self, batches: AsyncIterator[WatchBatch], stream: "_Stream", revision: int) -> None:
        reading = asyncio.ensure_future(_next(batches))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while not stream.gone:
                await asyncio.wait(
                    {reading, stopping}, timeout=self._progress_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if stopping.done() or (reading.done() and reading.result() is None):
                    await stream.send(lean(canceled=True, cancel_reason="etcdserver: server stopped"))
                    return
                if batch := reading.result() if reading.done() else None:
                    revision = batch.revision
                    reading = asyncio.ensure_future(_next(batches))
                    await stream.send_batch(batch)
                else:
                    await stream.send_progress(revision)
        finally:
            reading.cancel()
            stopping.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)


async def _next(batches: AsyncIterator[WatchBatch]) -> WatchBatch | None:
    return await anext(batches, None)


class _Stream:
    """The lines to one client."""

    def __init__(self, request: web.Request, asked: WatchCreateRequest, write_seconds: float) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._request = request
        self._asked = asked
        self._write_seconds = write_seconds

    @property
    def gone(self) -> bool:
        """Whether the client has left."""
        transport = self._request.transport
        return transport is None or transport.is_closing()

    async def created(self, revision: int) -> None:
        """Send the first line, if it has not been."""
        if not self.response.prepared:
            await self.response.prepare(self._request)
            await self.send(lean(header=header(revision), created=True))

    async def send_batch(self, batch: WatchBatch) -> None:
        """Send the events that are asked for, or else the progress."""
        events = [
            event(change, with_previous=self._asked.prev_kv)
            for change in batch.events
            if self._asked.wants(change)
        ]
        if events:
            await self.send(lean(header=header(batch.revision), events=events))
        else:
            await self.send_progress(batch.revision)

    async def send_progress(self, revision: int) -> None:
        """Say that everything up to ``revision`` has been sent, to a client that asked to be told."""
        if self._asked.progress_notify:
            await self.send(lean(header=header(revision)))

    async def send(self, result: dict[str, Any]) -> None:
        """Send one line; a client that does not take it in time is cut off."""
        line = msgspec.json.encode({"result": lean(watch_id=self._asked.watch_id) | result}) + b"\n"
        try:
            async with asyncio.timeout(self._write_seconds):
                await self.response.write(line)
        except TimeoutError:
            log.warning("a watch of %s did not read for %g s: cut off", self._request.remote, self._write_seconds)
            self._cut()
        except ConnectionError:
            self._cut()

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()


def _canceled(error: StoreError) -> dict[str, Any]:
    compacted = error.revision if isinstance(error, Compacted) else 0
    return lean(canceled=True, compact_revision=compacted, cancel_reason=failure(error).message)


def _keep_alive(request: web.Request) -> None:
    connection = request.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        for name, value in _KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
