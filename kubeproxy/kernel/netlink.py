"""A netlink socket for the messages that we pack ourselves (`netlink_messages.py`). Blocking."""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink_messages import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    message,
    messages,
)

RECEIVE_BYTES = 1 << 20
PRIVATE_ERRORS = 4096
"""Error numbers from here on belong to the subsystem that was asked."""
TIMEOUT_SECONDS = 30
PIPELINE = 100
"""Requests in one send: the answers to all of them, should each be an error, still fit the usual buffer."""

PIPELINE_BYTES = 1 << 16
"""And how long they may be, taken together, unless a single one is longer."""

Request = tuple[int, int, bytes]
"""Kind, flags and body of a message."""

_SOL_NETLINK, _ADD_MEMBERSHIP, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK = 270, 1, 10, 12


class NetlinkError(KernelError):
    """The kernel refused a message; ``what`` it was about begins the text."""

    def __init__(self, code: int, what: str = "netlink") -> None:
        super().__init__(f"{what}: {os.strerror(code) if code < PRIVATE_ERRORS else f'error {code}'}")
        self.code = code


class DumpInterrupted(KernelError):
    """What was read is not all of it, or not all of one moment: it changed meanwhile, or the answer was lost."""


class NetlinkSocket:
    """One netlink socket; opened in the network namespace of the calling thread."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.settimeout(TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # errors need not carry the request back
        self._sequence = 0

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def __enter__(self) -> "NetlinkSocket":
        """Return itself; closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def join(self, group: int) -> None:
        """Listen to a multicast group too. Raises OSError."""
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def filter_in_kernel(self) -> None:
        """Have the kernel dump only what the question's fields admit (before Linux 4.20: everything, as ever)."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_GET_STRICT_CHK, 1)

    def listen(self, seconds: float) -> bytes:
        """Return the next datagram that nobody asked for, b"" when none comes within ``seconds``."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(RECEIVE_BYTES)
        except TimeoutError:
            return b""
        finally:
            self._socket.settimeout(TIMEOUT_SECONDS)

    def request(self, kind: int, flags: int, body: bytes, what: str = "netlink") -> list[bytes]:
        """Send one message, which is about ``what``; return the bodies of all answers. Raises NetlinkError."""
        self._send(kind, flags, body)
        return [answer for _, answer in self._answers(what)]

    def dump(self, kind: int, body: bytes, what: str = "netlink") -> Iterator[bytes]:
        """Yield the bodies of all answers to one message as they come, however many.

        Raises DumpInterrupted after the last one when some are missing or may be, NetlinkError when the kernel
        refuses.
        """
        self._send(kind, NLM_F_DUMP, body)
        changed = 0
        try:
            for flags, answer in self._answers(what):
                changed |= flags & NLM_F_DUMP_INTR
                yield answer
        except NetlinkError as error:
            if error.code != errno.EINTR:
                raise
            changed = 1
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            raise DumpInterrupted(f"{what}: the kernel's answer did not fit") from error
        if changed:
            raise DumpInterrupted(f"{what}: changed while it was read")

    def pipeline(self, kind: int, bodies: Sequence[bytes], what: str = "netlink", flags: int = 0) -> list[int]:
        """Send a message of each body, many in one call; return for each 0, or the kernel's error number."""
        answers = self.pipeline_requests([(kind, flags, body) for body in bodies], what)
        return [-_code(answer) if answer else 0 for answer in answers]

    def pipeline_requests(self, requests: Sequence[Request], what: str = "netlink") -> list[bytes]:
        """Send messages of any kind, many in one call; return for each b"", or the body of the kernel's error.

        The kernel goes on behind a message that it refuses. A message whose errors come back whole (ipset's) must
        not be long: `PIPELINE_BYTES` go out in one call.
        """
        errors: list[bytes] = []
        for part in _parts(requests):
            errors += self._pipeline(part, what)
        return errors

    def exchange(self, encode: Callable[[int], bytes], what: str = "netlink") -> list[bytes]:
        """Send what ``encode`` makes for a sequence number: several messages, of which one asks for an answer."""
        self._sequence += 1
        self._socket.send(encode(self._sequence))
        return [answer for _, answer in self._answers(what)]

    def _pipeline(self, requests: Sequence[Request], what: str) -> list[bytes]:
        first = self._sequence + 1
        self._sequence += len(requests)
        packed = [
            message(kind, flags | NLM_F_REQUEST, first + i, body)
            for i, (kind, flags, body) in enumerate(requests[:-1])
        ]
        kind, flags, body = requests[-1]
        packed.append(message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, body))
        self._socket.send(b"".join(packed))
        errors = [b""] * len(requests)
        # Only the last is answered whatever becomes of it; another is heard of when it is refused.
        while True:
            for kind, _, sequence, answer in self._receive(what):
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                if _code(answer):
                    errors[sequence - first] = answer
                if sequence == self._sequence:
                    return errors

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(message(kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, body))

    def _answers(self, what: str) -> Iterator[tuple[int, bytes]]:
        """Yield flags and body of every answer to the last message, until its end."""
        while True:
            for kind, flags, sequence, body in self._receive(what):
                if sequence != self._sequence:
                    continue
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    code = _code(body)
                    if code:
                        raise NetlinkError(-code, what)
                    return
                yield flags, body

    def _receive(self, what: str) -> Iterator[tuple[int, int, int, bytes]]:
        """Take in one datagram: kind, flags, sequence and body of each message in it."""
        try:
            yield from messages(self._socket.recv(RECEIVE_BYTES))
        except ValueError as error:
            raise NetlinkError(errno.EBADMSG, what) from error


class KeptSocket:
    """A socket that stays open from one use to the next, for whoever has many small things to say.

    `with kept as netlink:` opens it if it is not open, in the network namespace of the calling thread; after an
    exception it is closed, and so the next use has a fresh one. For one thread at a time.
    """

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._open: NetlinkSocket | None = None

    def __enter__(self) -> NetlinkSocket:
        if self._open is None:
            self._open = NetlinkSocket(self._protocol)
        return self._open

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.close()

    def close(self) -> None:
        """Close it until it is used again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __del__(self) -> None:
        self.close()


def _parts(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """Cut requests into what goes out in one call."""
    start = size = 0
    for i, (_, _, body) in enumerate(requests):
        if i > start and (i - start == PIPELINE or size + len(body) > PIPELINE_BYTES):
            yield requests[start:i]
            start, size = i, 0
        size += len(body)
    if requests:
        yield requests[start:]


def error_code(body: bytes) -> int:
    """Return the positive error number in the body of an NLMSG_ERROR."""
    return -_code(body)


def _code(body: bytes) -> int:
    """Return what an NLMSG_ERROR or NLMSG_DONE says: 0, or a negative error number."""
    return int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
