"""Virtual addresses: local routes on the dummy device of ipvs mode. Blocking; one thread at a time.

A route makes an address local as one on the device would, is written many times as fast (10,000 in 0.1 s), names
who speaks to it from this node, and carries a protocol number that says whose it is. The dummy device is only what
it hangs on, for both families.

When the last IPv4 address goes from a device, the kernel removes all IPv4 routes from it. So while kube-proxy's
addresses are taken away, ours hang on the loopback device too, and packets never miss them.
"""

import errno
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Protocol, TypeVar

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import DumpInterrupted, KeptSocket, NetlinkError
from kubeproxy.kernel.netlink_messages import NETLINK_ROUTE, NLM_F_CREATE, NLM_F_EXCL
from kubeproxy.kernel.virtual_addresses_messages import (
    NLM_F_APPEND,
    NLM_F_REPLACE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    Device,
    decode_addresses,
    decode_device,
    decode_route,
    encode_address,
    encode_addresses_question,
    encode_device,
    encode_device_question,
    encode_new_device,
    encode_route,
    encode_routes_question,
    encode_up,
    encode_without_link_local,
)
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family

DEVICE = "kube-ipvs0"
LOOPBACK = 1
"""The index that the loopback device has in every network namespace."""
ATTEMPTS = 3
"""To read all routes while somebody changes others."""

T = TypeVar("T")


class AddressesRefused(KernelError):
    """The kernel would not have some addresses; everything else that was asked for is done."""

    def __init__(self, device: str, refused: Mapping[str, str]) -> None:
        self.refused = dict(refused)
        """Why, by address."""
        address, why = next(iter(self.refused.items()))
        more = f"; and {len(self.refused) - 1:,} more addresses" if len(self.refused) > 1 else ""
        super().__init__(f"device {device}: virtual address {address}: {why}{more}")


class Addresses(Protocol):
    """The virtual addresses of one family. Addresses are canonical text."""

    def ensure_device(self) -> int:
        """Make the device unless it is there, set it up; return its index. Raises KernelError with what to do."""
        ...

    def device(self) -> int | None:
        """Return the device's index, None when it is not there."""
        ...

    def held(self) -> dict[str, str]:
        """Return our addresses on the device, each with the address that speaks to it from here, or ""."""
        ...

    def add(self, addresses: Collection[str], source: str = "") -> None:
        """Make addresses local; those that are with this source already do no harm. Raises AddressesRefused.

        ``source``, which must be an address of this node, speaks to them from here; "" leaves it to the kernel.
        """
        ...

    def set_source(self, addresses: Collection[str], source: str) -> None:
        """Change who speaks to addresses that are held with another source. Raises AddressesRefused."""
        ...

    def remove(self, addresses: Collection[str]) -> None:
        """Let addresses go; those that are not held do no harm. Raises AddressesRefused."""
        ...

    def foreign_addresses(self) -> frozenset[str]:
        """Return the addresses (/32, /128) that somebody put on the device itself, as kube-proxy does."""
        ...

    def remove_addresses(self, addresses: Collection[str]) -> None:
        """Take such addresses off it; those that are not there do no harm. Raises AddressesRefused."""
        ...

    def remove_device(self) -> bool:
        """Remove the device unless an address of either family is on it; return whether it is gone.

        A device of another kind is somebody else's, and stays.
        """
        ...


class VirtualAddresses:
    """The real ones, in the network namespace of the thread that calls first."""

    def __init__(
        self, family: Family, device: str = DEVICE, kind: str = "dummy", writers: Writers | None = None
    ) -> None:
        self._family = family
        self._name = device
        self._kind = kind
        self._index: int | None = None
        """The device's, as last seen."""
        self._netlink = KeptSocket(NETLINK_ROUTE, writers=writers)

    def ensure_device(self) -> int:
        """See `Addresses.ensure_device`."""
        found = self._find() or self._make()
        if found.kind != self._kind:
            raise KernelError(
                f"device {self._name}: another kind of device has this name ({found.kind or 'hardware'}); rename "
                f"or remove it: ip link delete {self._name}"
            )
        try:
            self._request(RTM_NEWLINK, 0, encode_without_link_local(found.index))
        except NetlinkError as error:
            if error.code != errno.EAFNOSUPPORT:  # a kernel or a device without IPv6
                raise
        self._request(RTM_NEWLINK, 0, encode_up(found.index))
        if left := self._held(self._family, LOOPBACK):  # by somebody who ended half-way in `remove_addresses`
            self._write(RTM_DELROUTE, 0, left, LOOPBACK)
        return found.index

    def device(self) -> int | None:
        """See `Addresses.device`."""
        found = self._find()
        return found.index if found else None

    def held(self) -> dict[str, str]:
        """See `Addresses.held`."""
        index = self.device()
        return self._held(self._family, index) if index is not None else {}

    def add(self, addresses: Collection[str], source: str = "") -> None:
        """See `Addresses.add`."""
        self._write(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, dict.fromkeys(addresses, source), self._known())

    def set_source(self, addresses: Collection[str], source: str) -> None:
        """See `Addresses.set_source`."""
        if self._family is Family.V6:
            routes = dict.fromkeys(addresses, source)
            self._write(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, routes, self._known())
            return
        # IPv4 would replace whichever route comes first, and tells routes with different sources apart. So the new
        # one is appended, and the first of ours is the old one.
        refused: dict[str, str] = {}
        try:
            self.add(addresses, source)
        except AddressesRefused as error:
            refused = error.refused
        self.remove([each for each in addresses if each not in refused])
        self._raise(refused)

    def remove(self, addresses: Collection[str]) -> None:
        """See `Addresses.remove`."""
        if (index := self._index or self.device()) is not None:
            self._write(RTM_DELROUTE, 0, dict.fromkeys(addresses, ""), index)

    def foreign_addresses(self) -> frozenset[str]:
        """See `Addresses.foreign_addresses`."""
        index = self.device()
        return frozenset(self._foreign(self._family, index)) if index is not None else frozenset()

    def remove_addresses(self, addresses: Collection[str]) -> None:
        """See `Addresses.remove_addresses`."""
        index = self.device()
        if index is None:
            return
        held = self._held(self._family, index) if self._family is Family.V4 else {}
        self._write(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, held, LOOPBACK)
        bodies = (encode_address(self._family, each, index) for each in addresses)
        codes = self._pipeline(RTM_DELADDR, 0, bodies)
        self._write(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND, held, index)
        self._write(RTM_DELROUTE, 0, held, LOOPBACK)
        failed = {each: code for each, code in zip(addresses, codes, strict=True) if code}
        self._raise({each: _says(code) for each, code in failed.items() if code != errno.EADDRNOTAVAIL})

    def remove_device(self) -> bool:
        """See `Addresses.remove_device`."""
        found = self._find()
        if found is None:
            return True
        if found.kind != self._kind:
            return False
        if any(self._held(family, found.index) or self._foreign(family, found.index) for family in Family):
            return False
        self._index = None
        try:
            self._request(RTM_DELLINK, 0, encode_device(found.index))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
        return True

    def _make(self) -> Device:
        try:
            self._request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, encode_new_device(self._name, self._kind))
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                raise KernelError(
                    f"device {self._name}: this kernel lacks the module {self._kind}: modprobe {self._kind}; if "
                    "there is none, install the package with the kernel's other modules, or use iptables mode"
                ) from error
            if error.code != errno.EEXIST:  # the other family's thread made it meanwhile
                raise
        found = self._find()
        if found is None:
            raise KernelError(f"device {self._name}: was removed as soon as it was made")
        return found

    def _find(self) -> Device | None:
        try:
            answers = self._request(RTM_GETLINK, 0, encode_device_question(self._name))
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise
            self._index = None
            return None
        found = decode_device(answers[0])
        self._index = found.index
        return found

    def _held(self, family: Family, index: int) -> dict[str, str]:
        def routes(answers: Iterable[bytes]) -> dict[str, str]:
            found: dict[str, str] = {}
            for answer in answers:
                if route := decode_route(family, answer, index):
                    found.setdefault(*route)  # of two, packets follow the first
            return found

        return self._dump(RTM_GETROUTE, encode_routes_question(family, index), routes)

    def _foreign(self, family: Family, index: int) -> set[str]:
        def addresses(answers: Iterable[bytes]) -> set[str]:
            return {address for answer in answers for address in decode_addresses(family, answer, index)}

        return self._dump(RTM_GETADDR, encode_addresses_question(family, index), addresses)

    def _dump(self, kind: int, question: bytes, read: Callable[[Iterable[bytes]], T]) -> T:
        for left in reversed(range(ATTEMPTS)):
            try:
                with self._netlink as netlink:
                    netlink.filter_in_kernel()
                    return read(netlink.dump(kind, question, f"device {self._name}"))
            except DumpInterrupted:
                if not left:
                    raise
        raise AssertionError

    def _known(self) -> int:
        index = self._index or self.device()
        if index is None:
            raise KernelError(f"device {self._name}: is gone; the next full sync makes it anew")
        return index

    def _write(self, kind: int, flags: int, routes: Mapping[str, str], index: int) -> None:
        """Make or delete local routes, given with their sources, on a device."""
        bodies = (encode_route(self._family, each, index, source) for each, source in routes.items())
        codes = self._pipeline(kind, flags, bodies)
        if errno.ENODEV in codes:
            self._index = None  # it was made anew
        harmless = (0, errno.ESRCH, errno.ENODEV) if kind == RTM_DELROUTE else (0, errno.EEXIST)
        failed = {each: code for each, code in zip(routes, codes, strict=True) if code not in harmless}
        self._raise({each: self._reason(code, routes[each]) for each, code in failed.items()})

    def _pipeline(self, kind: int, flags: int, bodies: Iterable[bytes]) -> list[int]:
        with self._netlink as netlink:
            return netlink.pipeline(kind, bodies, f"device {self._name}", flags)

    def _reason(self, code: int, source: str) -> str:
        if code == errno.EINVAL and source:
            return f"the kernel does not take {source} as its source: is it an address of this node?"
        if code == errno.EACCES and self._family is Family.V6:
            return f"IPv6 is switched off on the device; sysctl -w net.ipv6.conf.{self._name}.disable_ipv6=0"
        return _says(code)

    def _raise(self, refused: Mapping[str, str]) -> None:
        if refused:
            raise AddressesRefused(self._name, refused)

    def _request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        with self._netlink as netlink:
            return netlink.request(kind, flags, body, f"device {self._name}")


def _says(code: int) -> str:
    return str(NetlinkError(code, "the kernel says"))
