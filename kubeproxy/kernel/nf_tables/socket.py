"""A netlink socket for batches: one datagram, and what the kernel says to it. Blocking."""

import errno
import socket
from collections.abc import Iterator

from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, NLMSG_ERROR, messages
from kubeproxy.kernel.nf_tables.refusals import Refusal, decode_refusal
from kubeproxy.kernel.writers import Writers

SEND_BYTES = 128 << 20
"""What a batch may have, as root; without, net.core.wmem_max limits it. Takes no memory until it is sent."""
RECEIVE_BYTES = 1 << 20
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class BatchSocket(NetlinkSocket):
    """Opened in the network namespace of the calling thread; ``writers`` are told of its port."""

    def __init__(self, writers: Writers | None = None) -> None:
        super().__init__(NETLINK_NETFILTER, RECEIVE_BYTES, writers)
        self._resize(_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BYTES)
        try:
            # Have errors say which attribute they are about (Linux 4.12).
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
        self.most_bytes = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) - 64
        """What fits into one datagram; the kernel keeps some of the buffer for itself."""

    def reserve(self, count: int) -> int:
        """Return the first of so many sequence numbers in a row."""
        first = self._next_sequence()
        self._sequence = first + count - 1
        return first

    def transact(self, datagram: bytes, first: int, last: int) -> list[Refusal]:
        """Send a batch whose messages are numbered so; return what was refused of it.

        The kernel is through with it when it has been sent, and its answers lie there. An answer to ``last`` is
        among them, unless the batch was refused as a whole: one with ``first`` then says why. Raises OSError.
        """
        self._socket.send(datagram)
        found: list[Refusal] = []
        lost = False
        while True:
            try:
                size = self._socket.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                # Nothing more, and no answer to the last: it was lost, or the batch was broken off on its way.
                return found or [Refusal(errno.ENOBUFS if lost else errno.EINTR, first, None)]
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            for kind, _, sequence, body in _understood(bytes(self._buffer[:size])):
                if kind != NLMSG_ERROR or not first <= sequence <= last:
                    continue
                refusal = decode_refusal(sequence, body)
                if refusal.code:
                    found.append(refusal)
                if sequence == last:
                    return found


def _understood(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield what `messages` does. Raises OSError (EBADMSG): it is not known then what was done."""
    try:
        yield from messages(datagram)
    except ValueError as error:
        raise OSError(errno.EBADMSG, f"nf_tables: {error}") from error
