"""TUN devices: IP packets of the kernel, read from and written to a file descriptor."""

import errno
import fcntl
import os
import socket
import struct
from ipaddress import ip_address

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import AF, NETLINK_ROUTE, NLM_F_CREATE, attribute
from kubeproxy.model.addresses import Family

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_RTM_NEWADDR, _RT_SCOPE_LINK, _IFA_ADDRESS, _IFA_LOCAL = 20, 253, 1, 2
_IFADDRMSG = struct.Struct("=BBBBI")
DUMMY_ADDRESS = "192.0.0.8"
_SIOCBRADDIF, _SIOCGIFHWADDR = 0x89A2, 0x8927
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class TunError(KernelError):
    """No TUN device can be had; the text says why and what to do."""


def open_tun(name: str) -> int:
    """Make or take the TUN device and return its descriptor, non-blocking, one packet a read. It ends with it."""
    return _take(name, _IFF_TUN)


def open_tap(name: str) -> int:
    """Make or take a TAP device, which carries Ethernet frames; as `open_tun` otherwise."""
    return _take(name, _IFF_TAP)


def _take(name: str, kind: int) -> int:
    descriptor = _open()
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), kind | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EBUSY:
            raise TunError(f"TUN device {name} is in use by another program") from error
        raise TunError(f"TUN device {name}: {error.strerror}; CAP_NET_ADMIN is needed") from error
    return descriptor


def join_bridge(bridge: str, name: str) -> bytes:
    """Make a device a port of a bridge; return the bridge's hardware address. Raises TunError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            index = socket.if_nametoindex(name)
            fcntl.ioctl(asked, _SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
            known = fcntl.ioctl(asked, _SIOCGIFHWADDR, struct.pack("16s24x", bridge.encode()))
        except OSError as error:
            raise TunError(f"device {name} cannot join the bridge {bridge}: {error.strerror}") from error
    return known[18:24]


def give_dummy_address(name: str) -> None:
    """Give a link the address that stands for none (RFC 7600), seen by nobody. Raises KernelError, OSError.

    Loose reverse-path filtering refuses every packet that comes in by a link without an IPv4 address.
    """
    head = _IFADDRMSG.pack(AF[Family.V4], 32, 0, _RT_SCOPE_LINK, socket.if_nametoindex(name))
    address = ip_address(DUMMY_ADDRESS).packed
    body = head + attribute(_IFA_LOCAL, address) + attribute(_IFA_ADDRESS, address)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        netlink.request(_RTM_NEWADDR, NLM_F_CREATE, body, f"address of {name}")


def switch_on(name: str) -> None:
    """Set a link up. Raises TunError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            known = fcntl.ioctl(asked, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
            (flags,) = struct.unpack_from("H", known, 16)
            fcntl.ioctl(asked, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))
        except OSError as error:
            raise TunError(f"TUN device {name} cannot be set up: {error.strerror}") from error


def check_tun() -> None:
    """Raise TunError when this process may not make TUN devices at all."""
    os.close(_open())


def _open() -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = "load the module tun" if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO) else "run as root"
        raise TunError(f"{_DEVICE} cannot be opened ({error.strerror}): {hint}") from error
