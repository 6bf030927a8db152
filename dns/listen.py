"""Sockets: UDP and TCP on one address and port, and the loop that answers from them.

The UDP side does not use asyncio's datagram transport, which costs more than the answer: a readable socket is
drained in one go, and only what the table does not know becomes a task. On a wildcard address the reply is
sent from the address that was asked (IP_PKTINFO), or a client of a machine with several would not know it.
"""

import asyncio
import logging
import socket
import struct
from typing import Any

from dns.dispatch import Dispatcher
from kubeproxy.model.addresses import host_port

log = logging.getLogger(__name__)

BATCH = 64
"""Packets answered before the event loop gets a turn."""
MAX_PACKET = 65535
RECEIVE_BUFFER = 4 << 20
MAX_UNDER_WAY = 4096
"""Queries that wait for an upstream, per socket; more are dropped, and the client asks again."""
TCP_IDLE_SECONDS = 10.0
TCP_READ_SECONDS = 3.0
TCP_WRITE_SECONDS = 5.0
TCP_MAX_CONNECTIONS = 1024
TCP_MAX_UNDER_WAY = 128

_IP_PKTINFO = 8
_FAMILIES = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}

Address = tuple[Any, ...]


class BindError(OSError):
    """An address that cannot be listened on; the text says which and why."""


def open_socket(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Open a bound, non-blocking socket. Raises BindError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    channel = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        else:
            channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            if address in _FAMILIES:
                _ask_for_destination(channel, family)
        channel.bind((address, port))
        if kind == socket.SOCK_STREAM:
            channel.listen(512)
    except OSError as error:
        channel.close()
        proto = "tcp" if kind == socket.SOCK_STREAM else "udp"
        why = (error.strerror or str(error)).lower()
        raise BindError(f"listen {proto} {host_port(address, port)}: bind: {why}") from None
    return channel


def _ask_for_destination(channel: socket.socket, family: socket.AddressFamily) -> None:
    if family == socket.AF_INET6:
        channel.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        channel.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


class Listener:
    """One address and port, UDP and TCP. ``dispatcher`` may be replaced while it runs (reload)."""

    def __init__(self, address: str, port: int, dispatcher: Dispatcher) -> None:
        self.address = address
        self.dispatcher = dispatcher
        self._ipv6 = ":" in address
        self._udp = open_socket(address, port, socket.SOCK_DGRAM)
        self.port: int = self._udp.getsockname()[1]
        try:
            self._tcp = open_socket(address, self.port, socket.SOCK_STREAM)
        except BindError:
            self._udp.close()
            raise
        self._wildcard = address in _FAMILIES
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[Any]] = set()
        self._sources: dict[bytes, list[tuple[int, int, bytes]]] = {}
        self.dropped = 0
        """Queries dropped because too many waited for upstreams."""

    async def start(self) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._udp, self._drain_with_source if self._wildcard else self._drain)
        self._server = await asyncio.start_server(self._converse, sock=self._tcp)

    async def stop(self) -> None:
        """Stop listening, let what is under way end for a moment, close."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._udp)
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        for task in (*self._tasks, *self._connections):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._connections, return_exceptions=True)
        self._udp.close()
        self._tcp.close()

    # --- UDP

    def _drain(self) -> None:
        channel, fast = self._udp, self.dispatcher.fast
        for _ in range(BATCH):
            try:
                packet, client = channel.recvfrom(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("udp receive: %s", error)
                return
            reply = fast(packet, False, self._ipv6)
            if reply is None:
                self._spawn(packet, client, [])
            else:
                self._send(reply, client, [])

    def _drain_with_source(self) -> None:
        channel, fast = self._udp, self.dispatcher.fast
        for _ in range(BATCH):
            try:
                packet, ancillary, _, client = channel.recvmsg(MAX_PACKET, 64)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("udp receive: %s", error)
                return
            source = self._source(ancillary)
            reply = fast(packet, False, self._ipv6)
            if reply is None:
                self._spawn(packet, client, source)
            else:
                self._send(reply, client, source)

    def _source(self, ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
        """Turn "arrived for this address" into "send from this address", the interface left open."""
        if not ancillary:
            return []
        level, kind, data = ancillary[0]
        found = self._sources.get(data)
        if found is None:
            if len(self._sources) > 256:
                self._sources.clear()
            if self._ipv6:
                # A link-local address means something only on its interface.
                scoped = data[:2] == b"\xfe\x80"
                found = [(level, kind, data if scoped else data[:16] + b"\0\0\0\0")]
            else:
                found = [(level, kind, struct.pack("=I4s4s", 0, data[4:8], b"\0\0\0\0"))]
            self._sources[data] = found
        return found

    def _send(self, reply: bytes, client: Address, source: list[tuple[int, int, bytes]]) -> None:
        try:
            if source:
                self._udp.sendmsg((reply,), source, 0, client)
            else:
                self._udp.sendto(reply, client)
        except OSError as error:
            # A full buffer or a client that cannot be reached: UDP promises nothing, the client asks again.
            log.debug("udp send: %s", error)

    def _spawn(self, packet: bytes, client: Address, source: list[tuple[int, int, bytes]]) -> None:
        if len(self._tasks) >= MAX_UNDER_WAY:
            self.dropped += 1
            return
        task = asyncio.get_running_loop().create_task(self._answer(packet, client, source))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, packet: bytes, client: Address, source: list[tuple[int, int, bytes]]) -> None:
        reply = await self.dispatcher.serve(packet, False, (client[0], client[1]))
        if reply is not None:
            self._send(reply, client, source)

    # --- TCP

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: any number of queries, answered as they become ready (RFC 7766)."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= TCP_MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        pending: set[asyncio.Task[None]] = set()
        client = writer.get_extra_info("peername")
        try:
            await self._read_queries(reader, writer, client, pending)
            if pending:
                await asyncio.wait(pending, timeout=TCP_WRITE_SECONDS)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.debug("tcp %s: %s", client, error)
        finally:
            self._connections.discard(task)
            for waiting in pending:
                waiting.cancel()
            writer.close()

    async def _read_queries(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        client: Address,
        pending: set[asyncio.Task[None]],
    ) -> None:
        loop = asyncio.get_running_loop()
        while not reader.at_eof():
            async with asyncio.timeout(TCP_IDLE_SECONDS):
                try:
                    size = await reader.readexactly(2)
                except asyncio.IncompleteReadError:
                    return  # The client is done; what it still waits for is written by our caller.
            async with asyncio.timeout(TCP_READ_SECONDS):
                packet = await reader.readexactly(int.from_bytes(size, "big"))
            reply = self.dispatcher.fast(packet, True, self._ipv6) if len(packet) >= 12 else None
            if reply is not None:
                await _write(writer, reply)
                continue
            if len(pending) >= TCP_MAX_UNDER_WAY:
                await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            task = loop.create_task(self._answer_stream(packet, (client[0], client[1]), writer))
            pending.add(task)
            task.add_done_callback(pending.discard)

    async def _answer_stream(self, packet: bytes, client: tuple[str, int], writer: asyncio.StreamWriter) -> None:
        reply = await self.dispatcher.serve(packet, True, client)
        if reply is not None:
            try:
                await _write(writer, reply)
            except (OSError, TimeoutError) as error:
                log.debug("tcp %s: %s", client, error)  # The client went away before its answer came.


async def _write(writer: asyncio.StreamWriter, reply: bytes) -> None:
    writer.write(len(reply).to_bytes(2, "big") + reply)
    async with asyncio.timeout(TCP_WRITE_SECONDS):
        await writer.drain()
