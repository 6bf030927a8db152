"""Which tables are in use, who has changed them, which matches are there? Asked of the kernel, in microseconds.

iptables' own programs cannot tell: in legacy each of them makes the table that it is asked about, and reads all
of it (80 ms at 10,000 Services), however little it is to print. Blocking, but only just.
"""

import ctypes
import errno
import os
import socket
from pathlib import Path

from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import (
    NETLINK_NETFILTER,
    attribute,
    attributes,
    netfilter_head,
    text_attribute,
)
from kubeproxy.model.addresses import Family

_SO_GET_INFO = 64
_SO_GET_REVISION_MATCH = {Family.V4: 66, Family.V6: 68}
_INFO_BYTES = 84
"""struct ipt_getinfo (and ip6t_getinfo): name, where each hook's rules start and end, how many and how large."""
_LEVELS = {Family.V4: (socket.AF_INET, socket.IPPROTO_IP), Family.V6: (socket.AF_INET6, socket.IPPROTO_IPV6)}

_REVISION_BYTES = 30
"""struct xt_get_revision: a name of 29 bytes and a revision."""

_NFT_GET_GENERATION = 10 << 8 | 16
_GENERATION_ID = 1
_COMPAT_GET = 11 << 8
_COMPAT_NAME, _COMPAT_REVISION, _COMPAT_TYPE = 1, 2, 3
_COMPAT_MATCH = 0

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
        body = netfilter_head(None)
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


def legacy_has_match(family: Family, match: str) -> bool:
    """Return whether rules of legacy tables may have `-m MATCH`; the kernel loads its module for the question.

    Revision 0 is asked for; that there is none of it says that there are others.
    """
    kind, level = _LEVELS[family]
    asked_for = ctypes.create_string_buffer(match.encode(), _REVISION_BYTES)
    length = ctypes.c_uint32(_REVISION_BYTES)
    with socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW) as asked:
        number = _SO_GET_REVISION_MATCH[family]
        refused = _libc.getsockopt(asked.fileno(), level, number, asked_for, ctypes.byref(length))
    return not refused or ctypes.get_errno() == errno.EPROTONOSUPPORT


def nft_has_match(family: Family, match: str) -> bool:
    """Return whether rules of iptables-nft may have `-m MATCH`, which nf_tables carries as it is."""
    body = netfilter_head(family)
    body += text_attribute(_COMPAT_NAME, match)
    body += attribute(_COMPAT_REVISION, bytes(4)) + attribute(_COMPAT_TYPE, _COMPAT_MATCH.to_bytes(4, "big"))
    try:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            netlink.request(_COMPAT_GET, 0, body, f"match {match}")
    except NetlinkError as error:
        return error.code == errno.EPROTONOSUPPORT
    return True
