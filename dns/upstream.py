"""One upstream server: a question sent over UDP or TCP, and the answer that belongs to it.

Each question goes out from a socket of its own, so from a port of its own with a random identity: what a spoofer
has to guess. Whatever comes back that does not answer this very question is not looked at further.
"""

import asyncio
import secrets
import socket

from dns.message import HEADER, Malformed, Query, question_end, without_opt
from kubeproxy.clock import Clock
from kubeproxy.model.addresses import host_port

MAX_FAILS = 2
"""Failures in a row after which an upstream is asked only when nobody else is left (forward's max_fails)."""
REST_SECONDS = 5.0
"""How long a failed upstream is left alone before it is tried again."""


class Upstream:
    """A server that questions are forwarded to, and what is known of its health."""

    def __init__(self, host: str, port: int, clock: Clock) -> None:
        self.host = host
        self.port = port
        self._clock = clock
        self._fails = 0
        self._rests_until = 0.0

    def __str__(self) -> str:
        return host_port(self.host, self.port)

    @property
    def healthy(self) -> bool:
        """Whether it answered lately, or may be tried again."""
        return self._fails < MAX_FAILS or self._clock.now() >= self._rests_until

    async def ask(self, query: Query, timeout: float, *, stream: bool) -> bytes:
        """Return the reply as it came, its identity the query's. Raises OSError, TimeoutError or Malformed."""
        identity = secrets.token_bytes(2)
        packet = identity + query.clean()[2:]
        try:
            async with asyncio.timeout(timeout):
                reply = await (self._over_tcp(packet, query) if stream else self._over_udp(packet, query))
        except (OSError, TimeoutError):
            self._fails += 1
            self._rests_until = self._clock.now() + REST_SECONDS
            raise
        self._fails = 0
        return query.packet[:2] + without_opt(reply)[2:]

    async def _over_udp(self, packet: bytes, query: Query) -> bytes:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
            channel.connect((self.host, self.port))  # An ICMP error then ends the wait at once.
            channel.send(packet)
            while True:
                reply = await loop.sock_recv(channel, 65535)
                if _answers(reply, packet, query):
                    return reply

    async def _over_tcp(self, packet: bytes, query: Query) -> bytes:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(len(packet).to_bytes(2, "big") + packet)
            await writer.drain()
            size = int.from_bytes(await reader.readexactly(2), "big")
            reply = await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise ConnectionError(f"{self} closed the connection") from None
        finally:
            writer.close()
        if not _answers(reply, packet, query):
            raise Malformed(f"{self} answered another question")
        return reply


def _answers(reply: bytes, packet: bytes, query: Query) -> bool:
    """Say whether a packet is the reply to a query: identity, QR and question."""
    if len(reply) < HEADER or reply[:2] != packet[:2] or not reply[2] & 0x80 or reply[4:6] != b"\0\1":
        return False
    try:
        end = question_end(reply)
    except Malformed:
        return False
    return reply[HEADER:end].lower() == query.question.lower()
