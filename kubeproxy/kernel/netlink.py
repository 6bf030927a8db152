"""Netlink by hand, for the messages that are written thousands at a time.

pyroute2 serves everything that is rare; it needs 180 µs for an ipset entry where a packed message needs 3, so
hot paths pack their own and send many in one system call. Encoding is pure (functions here and in
`ipset.py`); `NetlinkSocket` is the only thing that touches the kernel. Blocking: for worker threads.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator

from kubeproxy.kernel.exec import KernelError

NETLINK_NETFILTER = 12

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_F_NESTED, NLA_F_NET_BYTEORDER = 0x8000, 0x4000

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
RECEIVE_BYTES = 1 << 20
PRIVATE_ERRORS = 4096
"""Error numbers from here on belong to the subsystem that was asked."""
TIMEOUT_SECONDS = 30


class NetlinkError(KernelError):
    """The kernel refused a message; ``what`` it was about begins the text."""

    def __init__(self, code: int, what: str = "netlink") -> None:
        super().__init__(f"{what}: {os.strerror(code) if code < PRIVATE_ERRORS else f'error {code}'}")
        self.code = code


def attribute(kind: int, value: bytes) -> bytes:
    """Encode one attribute, padded to four bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Decode attributes, the flags taken off their kinds. Stops at one that is cut short."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > len(data):
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += length + (-length % 4)


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Encode one message."""
    return _HEADER.pack(len(body) + 16, kind, flags, sequence, 0) + body


class NetlinkSocket:
    """One netlink socket; opened in the network namespace of the calling thread."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def __enter__(self) -> "NetlinkSocket":
        """Return itself; closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def request(self, kind: int, flags: int, body: bytes, what: str = "netlink") -> list[bytes]:
        """Send one message, which is about ``what``; return the bodies of all answers. Raises NetlinkError."""
        self._sequence += 1
        self._socket.send(message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, body))
        answers: list[bytes] = []
        while not self._receive(answers, what):
            pass
        return answers

    def _receive(self, answers: list[bytes], what: str) -> bool:
        """Take in one datagram; return whether the answer is complete."""
        data = self._socket.recv(RECEIVE_BYTES)
        offset = 0
        while offset + 16 <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < 16:
                raise NetlinkError(errno.EBADMSG, what)
            body = data[offset + 16 : offset + length]
            offset += length + (-length % 4)
            if sequence != self._sequence:
                continue
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                (code,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
                if code:
                    raise NetlinkError(-code, what)
                return True
            answers.append(body)
        return False
