"""IPVS of the network namespace of the calling thread. Blocking.

`virtual_servers.VirtualServers` is the seam, `Ipvs` the real one, `fake_ipvs.FakeVirtualServers` a model of it.
"""

import contextlib
import errno
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.genetlink import family_number
from kubeproxy.kernel.genetlink_messages import NETLINK_GENERIC
from kubeproxy.kernel.ipvs_messages import (
    NAME,
    decode_counted,
    decode_destinations,
    decode_servers,
    decode_timeouts,
    encode_flush,
    encode_get_destinations,
    encode_get_servers,
    encode_get_timeouts,
    encode_set_timeouts,
    pack_commands,
)
from kubeproxy.kernel.ipvs_overview import Overview
from kubeproxy.kernel.ipvs_sockopt import SocketOptions
from kubeproxy.kernel.ipvs_types import Command, Counted, Found, Server, ServerKey, Timeouts, Verb
from kubeproxy.kernel.netlink import KeptSocket, NetlinkError, NetlinkSocket
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

PROBES = {
    Family.V4: ServerKey(Protocol.TCP, "198.51.100.0", 20000),
    Family.V6: ServerKey(Protocol.TCP, "2001:db8::", 20000),
}
"""What is asked for to find out what the kernel can: addresses for documentation (RFC 5737, 3849), as upstream."""

_RECEIVE_BYTES = 8 << 20
"""Twice that as the kernel counts: 13,000 refusals. One send carries some 2,000 commands."""
_WHAT = "IPVS"
_CHANGES = threading.Lock()
"""A dump resumes by position, so a server deleted meanwhile makes it pass over another, and the kernel does not
say so. Both families are in one table; their threads share this."""
_T = TypeVar("_T")


class IpvsUnavailable(KernelError):
    """This kernel has no IPVS; the text says what to do."""


class Ipvs:
    """The kernel's load balancer; see `virtual_servers.VirtualServers`. For one thread at a time.

    One socket stays open from the first call on, since a change takes less time than opening it; after a failure
    the next call opens another.
    """

    def __init__(self) -> None:
        self._kept = KeptSocket(NETLINK_GENERIC, _RECEIVE_BYTES)
        self._number = 0
        self._options = SocketOptions()

    def available(self) -> bool:
        """See `VirtualServers`."""
        try:
            with self._using():
                return True
        except IpvsUnavailable:
            return False

    def has_scheduler(self, name: str) -> bool:
        """See `VirtualServers`."""
        delete = Command(Verb.DELETE_SERVER, Server(PROBES[Family.V4]))
        # The first deletes what somebody left who was stopped in the middle of this.
        _, code, _ = self.run([delete, Command(Verb.ADD_SERVER, Server(PROBES[Family.V4], name)), delete])
        if code not in (0, errno.ENOENT):
            raise NetlinkError(code, f"{_WHAT}: scheduler {name}")
        return not code

    def serves(self, family: Family) -> bool:
        """See `VirtualServers`. The kernel looks at the family first, and then finds nothing to delete."""
        (code,) = self.run([Command(Verb.DELETE_SERVER, Server(PROBES[family]))])
        if code not in (0, errno.ESRCH, errno.EAFNOSUPPORT):
            raise NetlinkError(code, f"{_WHAT}: {family.label}")
        return code != errno.EAFNOSUPPORT

    def servers(self, family: Family) -> dict[ServerKey, Server]:
        """See `VirtualServers`."""
        return {server.key: server for server in self._listed(lambda bodies: decode_servers(bodies, family))}

    def count(self, family: Family) -> int | None:
        """See `VirtualServers`."""
        return self._options.count() if family is Family.V4 else None

    def overview(self, family: Family) -> Overview | None:
        """See `VirtualServers`."""
        return self._options.overview() if family is Family.V4 else None

    def counted_servers(self, family: Family) -> dict[ServerKey, Counted]:
        """See `VirtualServers`."""
        return {found.server.key: found for found in self._listed(lambda bodies: decode_counted(bodies, family))}

    def _listed(self, decode: Callable[[Iterable[bytes]], Iterator[_T]]) -> list[_T]:
        with self._using() as netlink, _CHANGES:
            bodies = list(netlink.dump(self._number, encode_get_servers(), f"{_WHAT} virtual servers"))
        return list(decode(bodies))

    def destinations(self, key: ServerKey) -> list[Found]:
        """See `VirtualServers`."""
        with self._using() as netlink:
            bodies = netlink.dump(self._number, encode_get_destinations(key), f"{_WHAT} destinations")
            return list(decode_destinations(bodies))

    def run(self, commands: Sequence[Command]) -> list[int]:
        """See `VirtualServers`. All in one sendmsg, up to 256 KiB."""
        with self._using() as netlink, _CHANGES:
            number = self._number
            codes = netlink.pipeline_packed(lambda sequence: pack_commands(commands, number, sequence), _WHAT)
        if errno.ENOENT in codes:
            self._number = 0  # or the module was loaded anew, and its family has another number
        return codes

    def timeouts(self) -> Timeouts:
        """See `VirtualServers`."""
        with self._using() as netlink:
            (answer,) = netlink.request(self._number, 0, encode_get_timeouts(), f"{_WHAT} timeouts")
        return decode_timeouts(answer)

    def set_timeouts(self, *, tcp: int = 0, tcp_fin: int = 0, udp: int = 0) -> None:
        """See `VirtualServers`."""
        with self._using() as netlink:
            netlink.request(self._number, 0, encode_set_timeouts(Timeouts(tcp, tcp_fin, udp)), f"{_WHAT} timeouts")

    def flush(self) -> bool:
        """See `VirtualServers`. It loads a module, so ask only where IPVS has been in use."""
        try:
            with self._using() as netlink, _CHANGES:
                netlink.request(self._number, 0, encode_flush(), f"{_WHAT} virtual servers")
        except IpvsUnavailable:
            return False
        return True

    @contextlib.contextmanager
    def _using(self) -> Iterator[NetlinkSocket]:
        """Lend the socket; a failure closes it, since answers to what failed may still arrive there."""
        try:
            with self._kept as netlink:
                self._number = self._number or family_number(netlink, NAME)
                if not self._number:
                    raise IpvsUnavailable(f"{_WHAT}: this kernel has none; modprobe ip_vs")
                yield netlink
        except OSError as error:
            self._number = 0
            raise NetlinkError(error.errno or errno.ETIMEDOUT, _WHAT) from error
        except BaseException:
            self._number = 0
            raise
