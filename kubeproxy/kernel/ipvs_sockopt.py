"""IPVS' older interface, by socket options: what it tells of all virtual servers of IPv4 in one answer. Blocking.

The newer one, by generic netlink, tells how many there are, or how many destinations each has, by listing them: a
hundred times as long, or a thousand. Needs CAP_NET_ADMIN in the network namespace of the calling thread.
"""

import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import TypeVar

from kubeproxy.kernel.ipvs_overview import ENTRY_BYTES, HEAD_BYTES, Overview

log = logging.getLogger(__name__)

_BASE = 64 + 1024 + 64
_SO_GET_INFO, _SO_GET_SERVICES = _BASE + 1, _BASE + 2
"""IP_VS_SO_GET_INFO, IP_VS_SO_GET_SERVICES (linux/ip_vs.h)."""
_INFO = struct.Struct("=III")
"""struct ip_vs_getinfo: version, size of the table of connections, virtual servers of IPv4 (with marks, too)."""
_HEAD = struct.Struct("=I")
_ATTEMPTS = 3
_NOBODY = bytes(16)
"""What stands where the kernel has written no entry: no protocol, no address, no port, no mark."""
_T = TypeVar("_T")

_libc = ctypes.CDLL(None, use_errno=True)


class SocketOptions:
    """Asks; that the kernel does not answer is told once.

    `count` is for any thread, `overview` for one at a time.
    """

    def __init__(self) -> None:
        self._room = bytearray()
        """For answers, kept as new memory costs more than the question."""
        self._refused: set[str] = set()
        """What the kernel refused when it was last asked."""
        self._is_understood = True
        """Whether the kernel lays entries out as programs like this one do; one of 64 bits and i386 differ."""

    def count(self) -> int | None:
        """Return how many virtual servers of IPv4 there are, None when the kernel does not say."""
        return self._told(
            "how many virtual servers there are",
            "those that somebody else adds or deletes are found later, when they are listed",
            _count,
        )

    def overview(self) -> Overview | None:
        """Return what the kernel tells of all virtual servers of IPv4, None when it does not say.

        None too while others keep adding and deleting some. 0.1 ms for 1,000, 2 for 10,000 (User-Mode Linux).
        """
        if self.count() is None or not self._is_understood:
            return None  # and that was told
        return self._told(
            "how many destinations all virtual servers have",
            "those that somebody else adds or deletes are found when their virtual server has its turn",
            self._ask_for_all,
        )

    def _told(self, what: str, otherwise: str, ask: Callable[[socket.socket], _T]) -> _T | None:
        try:
            # Any socket of the family will do; a raw one would ask for CAP_NET_RAW.
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
                answer = ask(asked)
        except OSError as refused:
            if what not in self._refused:
                log.warning("IPVS does not say %s (%s): %s", what, refused, otherwise)
            self._refused.add(what)
            return None
        self._refused.discard(what)
        return answer

    def _ask_for_all(self, asked: socket.socket) -> Overview | None:
        for _ in range(_ATTEMPTS):
            count = _count(asked)
            # Room for one more, which must stay empty; and nobody before may be missing.
            room = self._asked_for(asked, count + 1)
            last = HEAD_BYTES + count * ENTRY_BYTES
            is_grown = room[last : last + len(_NOBODY)] != _NOBODY
            is_shrunk = count > 0 and room[last - ENTRY_BYTES :][: len(_NOBODY)] == _NOBODY
            if not is_grown and not is_shrunk:
                return Overview(room[HEAD_BYTES:last])
        return None

    def _asked_for(self, asked: socket.socket, count: int) -> memoryview:
        """Ask for so many entries; return what the kernel has written of them, and zeros."""
        size = HEAD_BYTES + count * ENTRY_BYTES
        if len(self._room) < size:
            self._room = bytearray(size + size // 8)
        room = memoryview(self._room)[:size]
        _HEAD.pack_into(room, 0, count)
        for place in range(max(HEAD_BYTES, size - 2 * ENTRY_BYTES), size, ENTRY_BYTES):
            room[place : place + len(_NOBODY)] = _NOBODY
        length = ctypes.c_uint32(size)
        into = (ctypes.c_char * size).from_buffer(self._room)
        if _libc.getsockopt(asked.fileno(), socket.IPPROTO_IP, _SO_GET_SERVICES, into, ctypes.byref(length)):
            number = ctypes.get_errno()
            # The length is another one than it wants, of which it complains in its log each time.
            self._is_understood = number != errno.EINVAL
            raise OSError(number, os.strerror(number))
        return room


def _count(asked: socket.socket) -> int:
    _, _, count = _INFO.unpack(asked.getsockopt(socket.IPPROTO_IP, _SO_GET_INFO, _INFO.size))
    return int(count)
