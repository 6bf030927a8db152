"""TUN devices: IP packets of the kernel, read from and written to a file descriptor."""

import errno
import fcntl
import os
import socket
import struct

from kubeproxy.kernel.exec import KernelError

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


class TunError(KernelError):
    """No TUN device can be had; the text says why and what to do."""


def open_tun(name: str) -> int:
    """Make or take the TUN device and return its descriptor, non-blocking, one packet a read. It ends with it."""
    descriptor = _open()
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except OSError as error:
        os.close(descriptor)
        if error.errno == errno.EBUSY:
            raise TunError(f"TUN device {name} is in use by another program") from error
        raise TunError(f"TUN device {name}: {error.strerror}; CAP_NET_ADMIN is needed") from error
    return descriptor


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
