"""Sockets for the agent's small HTTP servers, which strangers may reach: opened, bounded and ended."""

import asyncio
import socket

from aiohttp import web

from kubeproxy.kernel.sockets import listen

MOST_CONNECTIONS = 256
"""One server's; a newer one ends the oldest, so whoever keeps connections open keeps nobody else out."""
END_SECONDS = 0.5
"""What a request that is being answered has when its server ends; idle connections have nothing."""


class Door:
    """Answers on any number of sockets with one aiohttp server, until closed."""

    def __init__(self, http: web.Server) -> None:
        self._http = http
        self._accepting: list[asyncio.Server] = []

    async def open(self, *sockets: socket.socket) -> None:
        """Begin to answer on listening sockets, which are closed with the door."""
        loop = asyncio.get_running_loop()
        for bound in sockets:
            self._accepting.append(await loop.create_server(self._connect, sock=bound))

    async def close(self) -> None:
        """Stop listening and end every connection, whatever its client thinks of that."""
        for server in self._accepting:
            server.close()
        self._accepting.clear()
        self._http.pre_shutdown()
        await self._http.shutdown(END_SECONDS)

    def _connect(self) -> asyncio.Protocol:
        connections = self._http.connections
        if len(connections) >= MOST_CONNECTIONS:
            connections[0].force_close()
        return self._http()


def listen_on(address: str, port: int) -> socket.socket:
    """Return a socket that listens; as in Go, 0.0.0.0 means IPv6 too where the machine has it. Raises OSError."""
    if address == "0.0.0.0":
        try:
            return listen("::", port)
        except OSError:
            return listen(address, port)  # no IPv6 here, or else the same complaint again
    return listen(address, port)
