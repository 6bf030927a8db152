"""A netlink socket for the messages that we pack ourselves (`netlink_messages.py`). Blocking."""

import contextlib
import errno
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink_batches import Parcel, Request, batches, numbered
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
from kubeproxy.kernel.writers import Writers

RECEIVE_BYTES = 1 << 20
PRIVATE_ERRORS = 4096
"""Error numbers from here on belong to the subsystem that was asked."""
TIMEOUT_SECONDS = 30
LAST_SEQUENCE = 0xFFFFFFFF
"""What the field of a message holds."""
_MOST_MESSAGES = 1 << 30
"""More than a pipeline ever has."""
SEND_BYTES = 1 << 18
"""Most that one send of a pipeline carries: the kernel copies it as a whole before it reads the first message."""
_SOL_NETLINK, _ADD_MEMBERSHIP, _NETLINK_CAP_ACK, _NETLINK_GET_STRICT_CHK = 270, 1, 10, 12
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class NetlinkError(KernelError):
    """The kernel refused a message; ``what`` it was about begins the text."""

    def __init__(self, code: int, what: str = "netlink") -> None:
        super().__init__(f"{what}: {os.strerror(code) if code < PRIVATE_ERRORS else f'error {code}'}")
        self.code = code


class DumpInterrupted(KernelError):
    """What was read is not all of it, or not all of one moment: it changed meanwhile, or the answer was lost."""


class NetlinkSocket:
    """One netlink socket; opened in the network namespace of the calling thread.

    ``receive_bytes`` is for whoever pipelines thousands of requests: each may be answered by an error, and the
    kernel drops answers that do not fit its buffer. It takes no memory until answers lie there. Without
    CAP_NET_ADMIN the buffers are only as large as net.core.rmem_max and wmem_max; pipelines are cut to what fits.
    ``writers`` is told of the socket's port, for who listens to what others change.
    """

    def __init__(self, protocol: int, receive_bytes: int = 0, writers: Writers | None = None) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._writers = writers
        if writers is not None:
            self._socket.bind((0, 0))
            self._port: int = self._socket.getsockname()[0]
            writers.begin(self._port)
        # As options of the socket: with settimeout() Python asks poll() before every call.
        for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(socket.SOL_SOCKET, direction, struct.pack("@ll", TIMEOUT_SECONDS, 0))
        self._buffer = memoryview(_pages(RECEIVE_BYTES))
        self._room: mmap.mmap | None = None
        """What a pipeline is packed in."""
        self._resize(_SO_SNDBUFFORCE, socket.SO_SNDBUF, 1 << 21)
        if receive_bytes:
            self._resize(_SO_RCVBUFFORCE, socket.SO_RCVBUF, receive_bytes)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # errors need not carry the request back
        self._sequence = 0
        self.answers_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        """What may lie in the receive buffer, as the kernel counts."""
        self._send_bytes = min(SEND_BYTES, self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 32)

    def _resize(self, force: int, ask: int, size: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, force, size)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, ask, size)

    def close(self) -> None:
        """Close it."""
        self._socket.close()
        if self._writers is not None:
            self._writers.end(self._port)

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
            self._socket.settimeout(None)

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

    def pipeline(self, kind: int, bodies: Iterable[bytes], what: str = "netlink", flags: int = 0) -> list[int]:
        """Send a message of each body, many in one call; return for each 0, or the kernel's error number.

        Not atomic, see `pipeline_requests`.
        """
        return self.pipeline_packed(lambda first: numbered(((kind, flags, body) for body in bodies), first), what)

    def pipeline_packed(self, pack: Callable[[int], Iterable[Parcel]], what: str = "netlink") -> list[int]:
        """Do the same with messages that ``pack`` makes, numbered from what it is given on."""
        count, refused = self._pipeline(pack(self._next_sequence()), what)
        codes = [0] * count
        for place, answer in refused.items():
            codes[place] = error_code(answer)
        return codes

    def pipeline_requests(self, requests: Iterable[Request], what: str = "netlink") -> list[bytes]:
        """Send messages of any kind, many in one call; return for each b"", or the body of the kernel's error.

        The kernel goes on behind a message that it refuses. Requests are taken as they are sent. Raises
        NetlinkError, OSError when it is not known which it refused, and what ``requests`` raises.
        """
        count, refused = self._pipeline(numbered(requests, self._next_sequence()), what)
        return [refused.get(place, b"") for place in range(count)]

    def _pipeline(self, parcels: Iterable[Parcel], what: str) -> tuple[int, dict[int, bytes]]:
        """Return how many messages were sent, and the errors in answer to them, by their places."""
        before = self._sequence
        refused: dict[int, bytes] = {}
        if self._room is None:
            self._room = _pages(self._send_bytes)
        for data, count in batches(parcels, self._room, self.answers_bytes):
            self._socket.send(data)
            first = self._sequence + 1
            self._sequence += count
            for sequence, answer in self._refusals(first, what):
                refused[sequence - before - 1] = answer
        return self._sequence - before, refused

    def _refusals(self, first: int, what: str) -> Iterator[tuple[int, bytes]]:
        """Take in the answers to messages from ``first`` on, up to that to the last, which always comes."""
        while True:
            for kind, _, sequence, answer in self._receive_whole(what):
                if kind != NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                if _code(answer):
                    yield sequence, answer
                if sequence == self._sequence:
                    return

    def _receive_whole(self, what: str) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            yield from self._receive(what)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            raise NetlinkError(errno.ENOBUFS, f"{what}: answers were lost") from error

    def _next_sequence(self) -> int:
        """Return the number of the next message; 1 again where 32 bits might not hold those that follow it."""
        if self._sequence > LAST_SEQUENCE - _MOST_MESSAGES:
            self._sequence = 0
        return self._sequence + 1

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence = self._next_sequence()
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
            yield from messages(self._datagram())
        except ValueError as error:
            raise NetlinkError(errno.EBADMSG, what) from error

    def _datagram(self) -> bytes:
        # Into one buffer: a new one for each call costs more than the call.
        try:
            return bytes(self._buffer[: self._socket.recv_into(self._buffer)])
        except BlockingIOError:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None


class KeptSocket:
    """A socket that stays open from one use to the next, for whoever has many small things to say.

    `with kept as netlink:` opens it if it is not open, in the network namespace of the calling thread; after an
    exception it is closed, and so the next use has a fresh one. For one thread at a time.
    """

    def __init__(self, protocol: int, receive_bytes: int = 0, writers: Writers | None = None) -> None:
        self._protocol, self._receive_bytes, self._writers = protocol, receive_bytes, writers
        self._open: NetlinkSocket | None = None

    def __enter__(self) -> NetlinkSocket:
        if self._open is None:
            self._open = NetlinkSocket(self._protocol, self._receive_bytes, self._writers)
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


def _pages(size: int) -> mmap.mmap:
    """Return memory of which only those pages are taken that are written; a bytearray writes all of its own."""
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def error_code(body: bytes) -> int:
    """Return the positive error number in the body of an NLMSG_ERROR."""
    return -_code(body)


def _code(body: bytes) -> int:
    """Return what an NLMSG_ERROR or NLMSG_DONE says: 0, or a negative error number."""
    return int(struct.unpack_from("=i", body)[0]) if len(body) >= 4 else 0
