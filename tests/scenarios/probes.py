"""One probe: a client asks an address and port once, and learns who answered, or how it was turned away."""

import contextlib
import ipaddress
import os
import select
import socket
import struct
import time

from kubeproxy.model.addresses import family_of
from kubeproxy.model.objects import Protocol, Record
from tests.scenarios import sctp
from tests.scenarios.addresses import HOSTS, V4, name_of
from tests.scenarios.lab import Lab

IP_RECVERR, IPV6_RECVERR, MSG_ERRQUEUE = 11, 25, 0x2000
REFUSED, DROPPED = "REFUSED", "DROPPED"


class Answer(Record, frozen=True, kw_only=True):
    """Who answered, whether it saw the client's own address, and on which port it was asked."""

    server: str
    client: str
    """`same` or `masq`."""
    port: int

    def __str__(self) -> str:
        return f"{self.server} {self.client} {self.port}"


def probe(
    lab: Lab, client: str, protocol: Protocol, address: str, port: int, timeout: float = 2.0
) -> Answer | str:
    """Ask once; return the answer, or REFUSED, or DROPPED (nothing came for ``timeout`` seconds)."""
    family = family_of(address)
    kind = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM, Protocol.SCTP: socket.SOCK_RAW}
    number = socket.IPPROTO_SCTP if protocol is Protocol.SCTP else 0
    inet = socket.AF_INET if family is V4 else socket.AF_INET6
    host = HOSTS[client]
    with lab.socket(host.namespace, inet, kind[protocol], number) as own:
        # The node takes the address that its routes say, as its programs do, but a port that nobody else has now.
        # Else the kernel may give one to two connections to different places; where both lead to one endpoint,
        # IPVS takes the answers of one for the other's.
        any_address = "0.0.0.0" if family is V4 else "::"
        own.bind((any_address if client in ("node", "localhost") else host.address(family), 0))
        own.settimeout(timeout)
        if (
            protocol is Protocol.TCP
        ):  # ends by a reset: connection tracking remembers it for seconds, not for minutes
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        try:
            text = _ask_sctp(own, address, port, timeout) if number else _ask(own, address, port)
        except ConnectionRefusedError:
            return REFUSED
        except OSError:
            return DROPPED
        seen, server, reached = text.split()
        same = ipaddress.ip_address(seen) == ipaddress.ip_address(own.getsockname()[0])
    return Answer(server=name_of(server), client="same" if same else "masq", port=int(reached))


def _ask(own: socket.socket, address: str, port: int) -> str:
    own.connect((address, port))
    if own.type == socket.SOCK_DGRAM:
        with contextlib.suppress(
            PermissionError
        ):  # the node's own packet was stopped; whether loudly, is to be seen
            own.send(b"?")
    return own.recv(200).decode()


def _ask_sctp(own: socket.socket, address: str, port: int, timeout: float) -> str:
    level, option = (
        (socket.IPPROTO_IP, IP_RECVERR) if own.family == socket.AF_INET else (socket.IPPROTO_IPV6, IPV6_RECVERR)
    )
    own.setsockopt(level, option, 1)
    own.connect((address, 0))
    tag = int.from_bytes(os.urandom(4), "big") | 1
    source = 20000 + tag % 40000
    with contextlib.suppress(PermissionError):
        own.send(sctp.packet(sctp.INIT, source, port, tag))
    own.setblocking(False)
    poll, deadline = select.poll(), time.monotonic() + timeout
    poll.register(own, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
        with contextlib.suppress(ConnectionRefusedError, PermissionError, BlockingIOError):
            data = own.recv(2000)
            if own.family == socket.AF_INET:
                data = data[(data[0] & 15) * 4 :]
            _, to, kind, _, note = sctp.parse(data)
            if to == source and kind == sctp.INIT_ACK:
                return note.decode()
        # Raw sockets hear of everybody's errors; ours quotes our ports.
        with contextlib.suppress(BlockingIOError):
            quoted = own.recvmsg(2000, 500, MSG_ERRQUEUE)[0]
            if int.from_bytes(quoted[:2], "big") == source:
                raise ConnectionRefusedError
    raise TimeoutError
