"""A netlink socket for the messages that we pack ourselves (`netlink_messages.py`). Blocking."""

import errno
import os
import socket
import struct

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink_messages import (
    HEADER,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    message,
)

RECEIVE_BYTES = 1 << 20
PRIVATE_ERRORS = 4096
"""Error numbers from here on belong to the subsystem that was asked."""
TIMEOUT_SECONDS = 30


class NetlinkError(KernelError):
    """The kernel refused a message; ``what`` it was about begins the text."""

    def __init__(self, code: int, what: str = "netlink") -> None:
        super().__init__(f"{what}: {os.strerror(code) if code < PRIVATE_ERRORS else f'error {code}'}")
        self.code = code


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
            length, kind, _, sequence, _ = HEADER.unpack_from(data, offset)
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
