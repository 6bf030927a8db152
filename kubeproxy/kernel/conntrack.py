"""The kernel's connection tracking: flows read and deleted through ctnetlink.

`Conntrack` is the seam, `KernelConntrack` the real one, `fake_conntrack.FakeConntrack` a model of it. Every call
blocks and opens a socket of its own, in the network namespace of the calling thread; needs CAP_NET_ADMIN.
"""

import errno
from collections.abc import Collection, Iterator
from typing import Protocol

import msgspec

from kubeproxy.kernel.conntrack_messages import (
    MSG_DELETE,
    MSG_GET,
    MSG_GET_STATS,
    SUBSYSTEM,
    Decoder,
    decode_stats,
    encode_delete,
    encode_dump,
)
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, netfilter_head
from kubeproxy.model.addresses import Family
from kubeproxy.model.flows import Flow, FlowMatch

FILTERED_PORTS = 6
"""Up to so many ports, the table is read once for each."""

_WHAT = "conntrack"
_NOT_FILTERED = (errno.EINVAL, errno.EOPNOTSUPP)


class ConntrackUnavailable(KernelError):
    """This kernel cannot be asked about connections; the text says what to do."""


class Conntrack(Protocol):
    """What may be asked of and done to one family's tracked connections. Blocking."""

    def flows(self, match: FlowMatch) -> Iterator[Flow]:
        """Yield the flows that match as they are read, with nobody holding on to the others.

        Raises `netlink.DumpInterrupted` after the last when some may be missing; other KernelErrors when the
        kernel refuses.
        """
        ...

    def delete(self, flows: Collection[Flow]) -> int:
        """Delete entries; return how many were deleted. One that has gone meanwhile is passed over.

        Raises KernelError when the kernel refuses one, after all have been tried.
        """
        ...

    def size(self) -> tuple[int, int]:
        """Return how many connections this namespace tracks, and the most that it may."""
        ...


class KernelConntrack:
    """The real one."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def flows(self, match: FlowMatch) -> Iterator[Flow]:
        """See `Conntrack.flows`."""
        for part in _askable(match):
            decode = Decoder(self._family, part).decode
            for body in self._bodies(part):
                flow = decode(body)
                if flow is not None:
                    yield flow

    def _bodies(self, match: FlowMatch) -> Iterator[bytes]:
        kind = SUBSYSTEM | MSG_GET
        with _open() as netlink:
            try:
                yield from netlink.dump(kind, encode_dump(self._family, match), _WHAT)
                return
            except NetlinkError as error:
                if error.code not in _NOT_FILTERED:
                    raise
        # A kernel that takes no filter says so at once; one without ctnetlink says the same.
        with _open() as netlink:
            try:
                yield from netlink.dump(kind, encode_dump(self._family, None), _WHAT)
            except NetlinkError as error:
                raise _explained(error) from error

    def delete(self, flows: Collection[Flow]) -> int:
        """See `Conntrack.delete`."""
        bodies = [encode_delete(self._family, flow) for flow in flows]
        with _open() as netlink:
            codes = netlink.pipeline(SUBSYSTEM | MSG_DELETE, bodies, _WHAT)
        refused = next((code for code in codes if code not in (0, errno.ENOENT)), 0)
        if refused:
            raise NetlinkError(refused, f"{_WHAT}: an entry cannot be deleted")
        return codes.count(0)

    def size(self) -> tuple[int, int]:
        """See `Conntrack.size`."""
        with _open() as netlink:
            try:
                (answer,) = netlink.request(SUBSYSTEM | MSG_GET_STATS, 0, netfilter_head(None), _WHAT)
            except NetlinkError as error:
                raise _explained(error) from error
        return decode_stats(answer)


def _askable(match: FlowMatch) -> Iterator[FlowMatch]:
    """Split a question about few ports into one for each: the kernel filters by one, 7 times as fast as we do."""
    if 1 < len(match.ports) <= FILTERED_PORTS:
        for port in sorted(match.ports):
            yield msgspec.structs.replace(match, ports=frozenset((port,)))
    else:
        yield match


def _open() -> NetlinkSocket:
    try:
        return NetlinkSocket(NETLINK_NETFILTER)
    except OSError as error:
        raise ConntrackUnavailable(f"{_WHAT}: {error.strerror}; modprobe nf_conntrack_netlink") from error


def _explained(error: NetlinkError) -> KernelError:
    if error.code in _NOT_FILTERED:
        return ConntrackUnavailable(f"{error}; modprobe nf_conntrack_netlink")
    return error
