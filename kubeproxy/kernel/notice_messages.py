"""What the kernel tells of other people's changes, decoded. Pure.

nf_tables tells of every table, chain, rule, set and element that came or went, then, as the transaction's end, who
asked for it; rtnetlink of links, addresses and routes. Numbers are those of linux/netfilter/nf_tables.h and
linux/rtnetlink.h.
"""

import struct
from collections.abc import Collection, Iterator
from typing import NamedTuple

from kubeproxy.kernel.netlink_messages import AF, HEADER, attribute_map, decode_text
from kubeproxy.model.addresses import Family

GROUP_NFTABLES = 7
"""NFNLGRP_NFTABLES."""
GROUP_LINK = 1
GROUP_ADDRESS = {Family.V4: 5, Family.V6: 9}
GROUP_ROUTE = {Family.V4: 7, Family.V6: 11}

_NFTABLES = 10 << 8
_NEW_GENERATION = 15
_GENERATION, _PROCESS_NAME = 1, 3
_TRANSACTION = struct.pack("=H", _NFTABLES | _NEW_GENERATION)
_NETFILTER_HEAD = 4
_ATTRIBUTE = struct.Struct("=HH")

_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_DELROUTE = 16, 17, 20, 21, 25
_IFLA_IFNAME = 3
_IFF_UP = 1
_LINK_HEAD = struct.Struct("=BBHiII")
"""struct ifinfomsg: family, padding, type, index, flags, change."""
_ADDRESS_HEAD_BYTES, _IFA_LABEL = 8, 3
_ROUTE_HEAD = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, length of destination and source, tos, table, protocol, scope, type, flags."""
_RTA_DST = 1


class _Kind(NamedTuple):
    what: str
    is_gone: bool
    table: int
    """The attribute with the table's name."""
    name: int
    """The attribute with the name of the object, or of the chain or set that it is in; 0: none."""


_KINDS = {
    0: _Kind("table", False, 1, 0),
    2: _Kind("table", True, 1, 0),
    3: _Kind("chain", False, 1, 3),
    5: _Kind("chain", True, 1, 3),
    6: _Kind("rule", False, 1, 2),
    8: _Kind("rule", True, 1, 2),
    9: _Kind("set", False, 1, 2),
    11: _Kind("set", True, 1, 2),
    12: _Kind("element", False, 1, 2),
    14: _Kind("element", True, 1, 2),
}


class TableNotice(NamedTuple):
    """A change of nf_tables' state in one family."""

    port: int
    """Through which netlink port it was asked for."""
    what: str
    """What came or went: table, chain, rule, set or element."""
    is_gone: bool
    table: str
    name: str
    """The chain or set that it is or is in; "" for a table."""
    body: bytes
    """The whole message, for who looks for something in a rule."""


class Transaction(NamedTuple):
    """The end of what was asked for through one port."""

    port: int
    program: str
    generation: int
    """The number that it has raised the network namespace's to (`NfTable.generation`); 0 when it was not told."""


class LinkNotice(NamedTuple):
    """A network device as it is now."""

    port: int
    name: str
    is_up: bool
    """Whether it is there, and set up."""


class AddressNotice(NamedTuple):
    """An address of this node came, went or changed."""

    port: int
    is_gone: bool
    label: str
    """Of IPv4, the device that it was on; "" of IPv6."""


class RouteNotice(NamedTuple):
    """A route went."""

    port: int
    protocol: int
    """By which its owner is known."""
    destination: bytes
    """The packed address."""


def table_notices(datagram: bytes, family: Family) -> Iterator[TableNotice | Transaction]:
    """Decode a datagram of `GROUP_NFTABLES`; other families' changes are left out, and what is not understood."""
    front, last = b"", -1  # most changes are told like the one before, but for what is behind the names
    table = name = ""
    for kind, port, body in _messages(datagram):
        if kind & 0xFF00 != _NFTABLES:
            continue
        number = kind & 0xFF
        if number == _NEW_GENERATION:
            found = attribute_map(body, _NETFILTER_HEAD)
            generation = int.from_bytes(found.get(_GENERATION, b""), "big")
            yield Transaction(port, decode_text(found.get(_PROCESS_NAME, b"")), generation)
            continue
        known = _KINDS.get(number)
        if known is None or not body or body[0] != AF[family]:
            continue
        if number != last or not body.startswith(front):
            found = attribute_map(body, _NETFILTER_HEAD)
            table, name = (decode_text(found.get(which, b"")) for which in (known.table, known.name))
            front, last = _front(body, known), number
        yield TableNotice(port, known.what, known.is_gone, table, name, body)


def _front(body: bytes, kind: _Kind) -> bytes:
    """Return what of a change says what it is about, if that comes first; else all of it."""
    end = _NETFILTER_HEAD
    for expected in (kind.table, kind.name):
        if len(body) < end + _ATTRIBUTE.size:
            return body
        length, found = _ATTRIBUTE.unpack_from(body, end)
        if found != expected or length < _ATTRIBUTE.size:
            return body
        end += (length + 3) & ~3
    return body[:end]


def is_transaction(datagram: bytes) -> bool:
    """Return whether a datagram of `GROUP_NFTABLES` begins with the end of a transaction, as those with one do."""
    return datagram[4:6] == _TRANSACTION


def port_of(datagram: bytes) -> int:
    """Return through which netlink port the first change in a datagram was asked for."""
    return HEADER.unpack_from(datagram)[4] if len(datagram) >= HEADER.size else 0


def route_notices(
    datagram: bytes, protocols: Collection[int]
) -> Iterator[LinkNotice | AddressNotice | RouteNotice]:
    """Decode a datagram of rtnetlink's groups; routes that went are told of these ``protocols`` alone."""
    for kind, port, body in _messages(datagram):
        if kind in (_RTM_NEWLINK, _RTM_DELLINK) and len(body) >= _LINK_HEAD.size:
            flags = _LINK_HEAD.unpack_from(body)[4]
            name = decode_text(attribute_map(body, _LINK_HEAD.size).get(_IFLA_IFNAME, b""))
            yield LinkNotice(port, name, kind == _RTM_NEWLINK and bool(flags & _IFF_UP))
        elif kind in (_RTM_NEWADDR, _RTM_DELADDR):
            label = decode_text(attribute_map(body, _ADDRESS_HEAD_BYTES).get(_IFA_LABEL, b""))
            yield AddressNotice(port, kind == _RTM_DELADDR, label)
        elif kind == _RTM_DELROUTE and len(body) >= _ROUTE_HEAD.size:
            protocol = _ROUTE_HEAD.unpack_from(body)[5]
            if protocol in protocols:
                found = attribute_map(body, _ROUTE_HEAD.size)
                yield RouteNotice(port, protocol, found.get(_RTA_DST, b""))


def _messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, port and body of each message; stops at one that is cut short."""
    offset = 0
    while offset + HEADER.size <= len(datagram):
        length, kind, _, _, port = HEADER.unpack_from(datagram, offset)
        if length < HEADER.size or offset + length > len(datagram):
            return
        yield kind, port, datagram[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3
