"""Everybody in the lab who answers: to whom it may concern, by TCP, UDP and SCTP, in one thread for all.

An answer is `CLIENT SERVER PORT`: whom the server saw, which of its addresses was asked, and on which port.
"""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Callable

from tests.scenarios import sctp

IP_PKTINFO, IPV6_RECVPKTINFO, IPV6_PKTINFO, IPV6_FREEBIND = 8, 49, 50, 78

Make = Callable[[int, int, int], socket.socket]
"""Makes a socket of (family, type, protocol) in some namespace."""


class Responders:
    """One thread that answers on many sockets."""

    def __init__(self) -> None:
        self._sockets: dict[int, tuple[socket.socket, Callable[[socket.socket], None]]] = {}
        self._poll = select.epoll()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="responders", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for each, _ in self._sockets.values():
            each.close()
        self._poll.close()

    def listen(self, make: Make, ports: tuple[int, ...], address: str = "") -> None:
        """Answer by TCP and UDP on ports, of one address or of all."""
        for family in (socket.AF_INET, socket.AF_INET6):
            if address and (":" in address) is not (family == socket.AF_INET6):
                continue
            for port in ports:
                for kind, answer in ((socket.SOCK_STREAM, _accept), (socket.SOCK_DGRAM, _reply)):
                    server = make(family, kind, 0)
                    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if family == socket.AF_INET6:
                        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    if kind == socket.SOCK_DGRAM:
                        _ask_for_destination(server)
                    server.bind((address, port))
                    if kind == socket.SOCK_STREAM:
                        server.listen(512)
                    self._add(server, answer)

    def listen_sctp(self, make: Make) -> None:
        """Answer every SCTP INIT in a namespace, whatever its port."""
        for family in (socket.AF_INET, socket.AF_INET6):
            server = make(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)
            _ask_for_destination(server)
            self._add(server, _acknowledge)

    def _add(self, server: socket.socket, answer: Callable[[socket.socket], None]) -> None:
        server.setblocking(False)
        self._sockets[server.fileno()] = server, answer
        self._poll.register(server, select.EPOLLIN)

    def _serve(self) -> None:
        while not self._stop.is_set():
            for number, _ in self._poll.poll(0.05):
                server, answer = self._sockets[number]
                with contextlib.suppress(OSError):
                    while True:
                        answer(server)


def _ask_for_destination(server: socket.socket) -> None:
    if server.family == socket.AF_INET:
        server.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        server.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        server.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)  # `wan` has a network, not every address in it


def _accept(server: socket.socket) -> None:
    connection, (client, *_) = server.accept()
    with connection:
        own, port, *_ = connection.getsockname()
        connection.send(f"{client} {own} {port}".encode())


def _reply(server: socket.socket) -> None:
    _, ancillary, _, client = server.recvmsg(200, 200)
    own, back = _destination(server.family, ancillary)
    answer = f"{client[0]} {own} {server.getsockname()[1]}".encode()
    server.sendmsg([answer], back, 0, client)


def _acknowledge(server: socket.socket) -> None:
    data, ancillary, _, client = server.recvmsg(2000, 200)
    own, back = _destination(server.family, ancillary)
    if server.family == socket.AF_INET:
        data = data[(data[0] & 15) * 4 :]
    source, port, kind, tag, _ = sctp.parse(data)
    if kind == sctp.INIT:
        note = f"{client[0]} {own} {port}".encode()
        server.sendmsg([sctp.packet(sctp.INIT_ACK, port, source, tag, note)], back, 0, (client[0], 0))


def _destination(family: int, ancillary: list[tuple[int, int, bytes]]) -> tuple[str, list[tuple[int, int, bytes]]]:
    """Return which address a packet was sent to, and what makes the answer leave from it."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            own = data[8:12]
            return socket.inet_ntop(family, own), [(level, kind, struct.pack("I4s4s", 0, own, bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, IPV6_PKTINFO):
            own = data[:16]
            return socket.inet_ntop(family, own), [(level, kind, own + struct.pack("I", 0))]
    raise OSError("the kernel did not say which address was asked")
