"""Sockets, and who may have how many connections: the server's edge, before a byte is read.

What a connection may cost: a TLS handshake has ten seconds, a connection without a whole request (an idle one, or
half a header) ninety, as upstream's IdleTimeout; headers are bounded by aiohttp. One client of another machine has
a thousand connections; all together have what the process may open, less a reserve for the store.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import Any

from aiohttp import web

from kubeproxy.clock import Clock
from kubeproxy.http_log import HTTP_LOG
from kubeproxy.logs import Turns
from kubeproxy.model.addresses import host_port

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
IDLE_SECONDS = 90.0
CONNECTIONS_PER_CLIENT = 1000
RESERVED_FILES = 128
SWEEP_SECONDS = 1.0
_TCP_INFO = struct.Struct("=24xI92xQ16xI")
"""linux/tcp.h: tcpi_unacked, tcpi_bytes_acked and tcpi_notsent_bytes."""
UNREAD_SECONDS = 30.0
"""A client that takes nothing of its answer for so long is cut off: a long list, perhaps, waits in memory."""
_SHUTDOWN_SECONDS = 2.0
_PAUSE = 0.1
"""Between two tries to accept where the machine has no descriptor left."""


def is_loopback(bound: socket.socket) -> bool:
    """Say whether only programs of this machine can reach a socket."""
    if bound.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return ip_address(bound.getsockname()[0]).is_loopback


def url_of(bound: socket.socket, *, tls: bool) -> str:
    """Return the URL by which this machine reaches a socket."""
    address, port = bound.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"{'https' if tls else 'http'}://{host_port(reachable, port)}"


class Doorkeeper:
    """Accepts connections for one application, up to so many for each client and for all."""

    def __init__(self, app: web.Application, clock: Clock, *, connections: int) -> None:
        # A client that leaves ends what was done for it, as upstream: else each watch stays for its time.
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=HTTP_LOG,
            # 200 KB of gzip are 200 MB, and would be unpacked before anybody is asked who he is.
            auto_decompress=False,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            keepalive_timeout=IDLE_SECONDS,
            handle_signals=False,
            handler_cancellation=True,
        )
        self._clock = clock
        self._most = connections
        self._open: dict[str, set[asyncio.Transport]] = {}
        self._starting: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = Turns(clock.now)
        self._unread: dict[asyncio.Transport, tuple[int, float]] = {}
        """Of those for whom something waits: how many bytes they had taken, and since when no more."""
        self.refused = 0

    async def start(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        """Begin to accept on a socket, in TLS if there is a context."""
        if self._runner.server is None:
            await self._runner.setup()
            self._spawn(self._sweep())
            self._spawn(self._see_to_readers())
        bound.setblocking(False)
        self._spawn(self._accept(bound, context))

    async def stop(self) -> None:
        """End every connection."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(bound)
            except OSError as error:
                self._complain("a connection cannot be accepted: %s", error)
                await asyncio.sleep(_PAUSE)
                continue
            client = address[0] if isinstance(address, tuple) else ""
            if self._has_room(client):
                self._starting[client] = self._starting.get(client, 0) + 1
                self._spawn(self._serve(connection, client, context))
            else:
                self.refused += 1
                self._complain("too many connections, from %s too: %d were refused", client, self.refused)
                connection.close()

    async def _serve(self, connection: socket.socket, client: str, context: ssl.SSLContext | None) -> None:
        server = self._runner.server
        assert server is not None
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                server,
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if context else None,
            )
        except OSError as error:  # an SSLError and a TimeoutError are some
            log.debug("no connection with %s: %s", client, error)
            connection.close()
        else:
            self._open.setdefault(client, set()).add(transport)
        finally:
            self._starting[client] -= 1
            if not self._starting[client]:
                del self._starting[client]

    def _has_room(self, client: str) -> bool:
        """Look whether one more may be had."""
        limit = self._most if _is_local(client) else CONNECTIONS_PER_CLIENT
        if self._count_of(client) >= limit:
            self._forget_closed(client)
        if self._total() >= self._most:
            self._forget_all_closed()
        return self._count_of(client) < limit and self._total() < self._most

    def _count_of(self, client: str) -> int:
        return len(self._open.get(client, ())) + self._starting.get(client, 0)

    def _total(self) -> int:
        return sum(map(len, self._open.values())) + sum(self._starting.values())

    async def _sweep(self) -> None:
        """Let go of what has ended; in between it counts only where a limit is near, which `_has_room` sees to."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            self._forget_all_closed()

    async def _see_to_readers(self) -> None:
        """Cut off who does not read; a look at 15,000 connections takes 20 ms."""
        while True:
            await self._clock.sleep(UNREAD_SECONDS / 6)
            self._cut_off()

    def _cut_off(self) -> None:
        """End connections whose clients have taken nothing for long of what waits for them."""
        self._forget_all_closed()
        now, before, self._unread = self._clock.now(), self._unread, {}
        for transport in (each for group in self._open.values() for each in group):
            taken = _taken(transport)
            if taken is None:
                continue
            known, since = before.get(transport, (-1, now))
            self._unread[transport] = (taken, since if known == taken else now)
            if known == taken and now - since >= UNREAD_SECONDS:
                self._complain("%s does not read its answer: cut off", transport.get_extra_info("peername"))
                transport.abort()

    def _forget_all_closed(self) -> None:
        for client in tuple(self._open):
            self._forget_closed(client)

    def _forget_closed(self, client: str) -> None:
        standing = {transport for transport in self._open.pop(client, ()) if not transport.is_closing()}
        if standing:
            self._open[client] = standing

    def _complain(self, text: str, *values: object) -> None:
        if self._turns.take():
            log.warning(text, *values)


def _taken(transport: asyncio.Transport) -> int | None:
    """Return how many bytes a client has acknowledged, None when nothing waits for it.

    The kernel is asked: a TLS transport hands all it has to the one below, and shows nothing of what waits there.
    """
    try:
        connection = transport.get_extra_info("socket")
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        sent, acknowledged, unsent = _TCP_INFO.unpack(info)
    except (AttributeError, OSError, struct.error):  # closed, or no TCP
        return None
    return int(acknowledged) if sent or unsent else None


def _is_local(client: str) -> bool:
    with contextlib.suppress(ValueError):
        return ip_address(client).is_loopback
    return True
