"""Which tables are in use, and has anybody changed them? Asked of the kernel itself, in microseconds.

iptables' own programs cannot tell: in legacy each of them makes the table that it is asked about, and reads all
of it (80 ms at 10,000 Services), however little it is to print. Blocking, but only just.
"""

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, attributes
from kubeproxy.model.addresses import Family

_SO_GET_INFO = 64
_INFO_BYTES = 84
"""struct ipt_getinfo (and ip6t_getinfo): name, where each hook's rules start and end, how many and how large."""
_LEVELS = {Family.V4: (socket.AF_INET, socket.IPPROTO_IP), Family.V6: (socket.AF_INET6, socket.IPPROTO_IPV6)}

_NFT_GET_GENERATION = 10 << 8 | 16
_GENERATION_ID = 1

_NAMES = {Family.V4: "ip_tables_names", Family.V6: "ip6_tables_names"}

_libc = ctypes.CDLL(None, use_errno=True)


def legacy_tables(family: Family) -> frozenset[str]:
    """Return the legacy tables that somebody has made in this network namespace. Raises OSError."""
    try:
        return frozenset(Path("/proc/thread-self/net", _NAMES[family]).read_text().split())
    except FileNotFoundError:
        return frozenset()


def legacy_extent(family: Family, table: str) -> bytes:
    """Return how many rules a legacy table has and what room they take: rules that vanish change it."""
    kind, level = _LEVELS[family]
    info = ctypes.create_string_buffer(table.encode(), _INFO_BYTES)
    length = ctypes.c_uint32(_INFO_BYTES)
    with socket.socket(kind, socket.SOCK_DGRAM) as asked:
        if _libc.getsockopt(asked.fileno(), level, _SO_GET_INFO, info, ctypes.byref(length)):
            number = ctypes.get_errno()
            raise OSError(number, f"legacy table {table}: {os.strerror(number)}")
    return info.raw


def nft_generation() -> bytes:
    """Return the number of nf_tables' last transaction: every change of any table changes it."""
    with NetlinkSocket(NETLINK_NETFILTER) as netlink:
        body = struct.pack("=BBH", socket.AF_UNSPEC, 0, 0)
        (answer,) = netlink.request(_NFT_GET_GENERATION, 0, body, "nf_tables generation")
    return dict(attributes(answer[4:]))[_GENERATION_ID]


def has_nft() -> bool:
    """Return whether this kernel has nf_tables at all."""
    try:
        nft_generation()
    except NetlinkError as error:
        if error.code != errno.EINVAL:  # which is what nfnetlink says of a subsystem that it does not know
            raise
        return False
    return True
