"""Messages about ipsets of addresses and of (address, port, address), packed by hand. Pure.

One message carries up to 800 entries (1 to 3 µs each; the `ipset` program or pyroute2 take 13 to 180).
An entry of two addresses here means "this endpoint talks to itself": both are the same. Numbers are those of
linux/netfilter/ipset/ip_set.h.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from ipaddress import ip_address

from kubeproxy.kernel.netlink_messages import (
    AF,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    PROTOCOL_NUMBER,
    attribute,
    attributes,
    netfilter_head,
    text_attribute,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

Entry = tuple[str, Protocol, int]
"""Address, protocol and port of an endpoint."""

Member = Entry | str
"""What a set may hold: endpoints, or addresses."""

SUBSYSTEM = 6 << 8
CMD_CREATE, CMD_DESTROY, CMD_LIST, CMD_ADD, CMD_DEL, CMD_HEADER, CMD_TYPE = 2, 3, 7, 9, 10, 12, 13
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY = 1, 2, 3, 4, 5
ATTR_FLAGS, ATTR_DATA, ATTR_ADT, ATTR_LINENO = 6, 7, 8, 9
DATA_IP, DATA_PORT, DATA_TIMEOUT, DATA_PROTO, DATA_FLAGS, DATA_HASHSIZE, DATA_MAXELEM, DATA_IP2 = (
    1,
    4,
    6,
    7,
    8,
    18,
    19,
    20,
)
LIST_HEADERS, FORCEADD = 1 << 2, 1 << 5
"""Flags of a list (no entries, please), and of a set."""
IPADDR_IPV4, IPADDR_IPV6 = 1, 2


class SetType(Enum):
    """The kinds of set that we use: the kernel's name of the type, and how many entries one may have."""

    ENDPOINTS = ("hash:ip,port,ip", 1 << 20)
    ADDRESSES = ("hash:ip", 1 << 20)
    CLIENTS = ("hash:ip", 1 << 16)
    """Addresses that rules add and that are forgotten after a time; in a full set a new one drives another out."""

    def __init__(self, kernel_name: str, max_elements: int) -> None:
        self.kernel_name = kernel_name
        self.max_elements = max_elements


BATCH = 800
"""Entries a message: an attribute of 65,535 bytes holds 862 of IPv6."""

IPSET_PROTOCOL = 6
TOO_MANY_SETS = 4099
"""Error: the network namespace has 65,535 sets, which is all that it may have."""
BUSY = 4100
"""Error: a rule refers to the set."""
_PROTOCOL = {number: protocol for protocol, number in PROTOCOL_NUMBER.items()}


def _opening(family: Family | None) -> bytes:
    return netfilter_head(family) + attribute(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL]))


def encode_head(family: Family, name: str) -> bytes:
    """Encode what every message about a set begins with; the whole body of one that only names it."""
    return _opening(family) + text_attribute(ATTR_SETNAME, name)


def encode_create(family: Family, name: str, kind: SetType, revision: int) -> bytes:
    """Encode the body of a message that makes a set."""
    options = _number(DATA_MAXELEM, kind.max_elements)
    if kind is SetType.CLIENTS:
        # The timeout here is that of entries added without one; there are none.
        options += _number(DATA_HASHSIZE, 64) + _number(DATA_TIMEOUT, 0) + _number(DATA_FLAGS, FORCEADD)
    return b"".join(
        (
            encode_head(family, name),
            text_attribute(ATTR_TYPENAME, kind.kernel_name),
            attribute(ATTR_REVISION, bytes([revision])),
            attribute(ATTR_FAMILY, bytes([AF[family]])),
            attribute(ATTR_DATA | NLA_F_NESTED, options),
        )
    )


def _number(kind: int, value: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, struct.pack("!I", value))


def encode_headers() -> bytes:
    """Encode the question for every set's name, type and family."""
    return _opening(None) + _number(ATTR_FLAGS, LIST_HEADERS)


def encode_type(family: Family, kind: SetType) -> bytes:
    """Encode the question which revisions of the set type the kernel has."""
    name = text_attribute(ATTR_TYPENAME, kind.kernel_name)
    return _opening(family) + name + attribute(ATTR_FAMILY, bytes([AF[family]]))


_LINE = struct.pack("=HHI", 8, ATTR_LINENO | NLA_F_NET_BYTEORDER, 0)
"""The kernel writes the number of an entry that it refuses into this attribute."""


def _endpoint_row(family: Family) -> struct.Struct:
    """Return the layout of an endpoint between the head that every entry has and the line number."""
    size = 4 if family is Family.V4 else 16
    return struct.Struct(f"={size}s HH2sxx HHBxxx HHHH{size}s")


_ENDPOINT_ROWS = {family: _endpoint_row(family) for family in Family}


def encode_entries(family: Family, name: str, entries: Sequence[Member]) -> bytes:
    """Encode the body of a message that adds or deletes entries of one type, at most `BATCH`."""
    assert len(entries) <= BATCH
    v4 = family is Family.V4
    size = 4 if v4 else 16
    ip_head = (size + 4, (IPADDR_IPV4 if v4 else IPADDR_IPV6) | NLA_F_NET_BYTEORDER)
    first = (ATTR_DATA | NLA_F_NESTED, size + 8, DATA_IP | NLA_F_NESTED, *ip_head)
    again = (size + 8, DATA_IP2 | NLA_F_NESTED, *ip_head)
    port_head = (6, DATA_PORT | NLA_F_NET_BYTEORDER)
    protocol_head = (5, DATA_PROTO)
    row, head_size = _ENDPOINT_ROWS[family], 12
    address_head = struct.pack("=6H", head_size + size + len(_LINE), *first)
    endpoint_head = struct.pack("=6H", head_size + row.size + len(_LINE), *first)
    rows = []
    for entry in entries:
        if isinstance(entry, str):
            rows.append(address_head + _packed(entry, v4) + _LINE)
            continue
        ip, port = _packed(entry[0], v4), entry[2].to_bytes(2, "big")
        number = PROTOCOL_NUMBER[entry[1]]
        rows.append(endpoint_head + row.pack(ip, *port_head, port, *protocol_head, number, *again, ip) + _LINE)
    body = attribute(ATTR_ADT | NLA_F_NESTED, b"".join(rows))
    return encode_head(family, name) + attribute(ATTR_LINENO, bytes(4)) + body


def _packed(address: str, v4: bool) -> bytes:
    # A third of what ip_address() takes, and addresses are canonical here.
    return bytes(map(int, address.split("."))) if v4 else ip_address(address).packed


def decode_members(bodies: Iterable[bytes]) -> Iterator[Member]:
    """Decode the answers to a list: addresses, and entries whose two addresses are the same."""
    for body in bodies:
        for kind, value in attributes(body[4:]):
            if kind == ATTR_ADT:
                for _, row in attributes(value):
                    yield from _entry(row)


def _entry(row: bytes) -> Iterator[Member]:
    fields = dict(attributes(row))
    first = dict(attributes(fields.get(DATA_IP, b"")))
    if DATA_IP2 not in fields:
        for packed in first.values():
            yield str(ip_address(packed))
        return
    protocol = _PROTOCOL.get(fields.get(DATA_PROTO, b"\0")[0])
    if first == dict(attributes(fields[DATA_IP2])) and protocol is not None:
        for packed in first.values():
            yield str(ip_address(packed)), protocol, int.from_bytes(fields[DATA_PORT], "big")
