"""A TCP proxy on loopback that stands between a client and a server and breaks what passes through it.

One fault is in force at a time, for connections that stand and for new ones; everything random comes from the
generator that a test seeds. What a partition holds back is delivered when it ends, as TCP does: also a request
whose client has given up meanwhile.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from enum import StrEnum
from urllib.parse import urlsplit

_WRITES = (b"POST /v3/kv/txn", b"POST /v3/kv/compaction", b"POST /v3/lease/grant", b"POST /v3/lease/revoke")


class Fault(StrEnum):
    """What happens to bytes that arrive."""

    NONE = "none"
    DELAY = "delay"
    TRICKLE = "trickle"
    CUT_REQUEST = "cut request"
    CUT_RESPONSE = "cut response"
    PARTITION = "partition"
    HALF_OPEN = "half-open"
    REFUSE = "refuse"
    NUISANCE = "nuisance"
    """Delays, and cuts of one exchange in twenty, but none of a write: whether one happened would be unknown."""


class FaultProxy:
    """Passes connections on to a port of loopback."""

    def __init__(self, target: str, rng: random.Random) -> None:
        self._port = urlsplit(target).port
        self._rng = rng
        self._fault = Fault.NONE
        self._changed = asyncio.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["FaultProxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.sever()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def set(self, fault: Fault) -> None:
        """Put a fault in force, or end it."""
        self._fault = fault
        self._changed.set()
        self._changed.clear()

    def sever(self) -> None:
        """Reset every connection at once."""
        for connection in tuple(self._connections):
            connection.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = _Connection(writer)
        self._connections.add(connection)
        try:
            if self._fault is Fault.REFUSE:
                return
            while self._fault is Fault.PARTITION:
                await self._changed.wait()
            upstream, connection.server = await asyncio.open_connection("127.0.0.1", self._port)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, connection.server, connection, to_server=True))
                pumps.create_task(self._pump(upstream, writer, connection, to_server=False))
        except* (OSError, _Cut):
            pass
        finally:
            connection.abort()
            self._connections.discard(connection)
            self._tasks.discard(task)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: "_Connection",
        *,
        to_server: bool,
    ) -> None:
        while data := await reader.read(1 << 16):
            if to_server and data.startswith(b"POST "):
                connection.is_write = data.startswith(_WRITES)
            await self._pass(data, writer, connection, to_server=to_server)
        raise _Cut

    async def _pass(
        self, data: bytes, writer: asyncio.StreamWriter, connection: "_Connection", *, to_server: bool
    ) -> None:
        while self._fault is Fault.PARTITION or (self._fault is Fault.HALF_OPEN and not to_server):
            await self._changed.wait()
        match self._fault:
            case Fault.DELAY:
                await asyncio.sleep(self._rng.uniform(0, 0.1))
            case Fault.TRICKLE:
                while len(data) > 1 and self._fault is Fault.TRICKLE:
                    size = self._rng.randint(1, 64)
                    writer.write(data[:size])
                    data = data[size:]
                    await asyncio.sleep(self._rng.uniform(0, 0.01))
            case Fault.CUT_REQUEST if to_server and self._rng.random() < 0.5:
                await self._cut(data, writer)
            case Fault.CUT_RESPONSE if not to_server and self._rng.random() < 0.5:
                await self._cut(data, writer)
            case Fault.NUISANCE:
                await asyncio.sleep(self._rng.uniform(0, 0.001))
                if not connection.is_write and self._rng.random() < 0.05:
                    await self._cut(data, writer)
        writer.write(data)
        await writer.drain()

    async def _cut(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Let a part through, then reset."""
        writer.write(data[: self._rng.randrange(len(data))])
        with contextlib.suppress(OSError):
            await writer.drain()
        raise _Cut


class _Cut(Exception):
    """The end of a connection."""


class _Connection:
    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.server: asyncio.StreamWriter | None = None
        self.is_write = False

    def abort(self) -> None:
        for writer in (self.client, self.server):
            if writer is not None:
                writer.transport.abort()
