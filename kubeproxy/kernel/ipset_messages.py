"""Messages about ipsets of (address, port, address), packed by hand. Pure.

One message carries up to 800 entries (2 to 3 µs each; the `ipset` program or pyroute2 take 13 to 180).
An entry here means "this endpoint talks to itself": both addresses are the same. Numbers are those of
linux/netfilter/ipset/ip_set.h.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from kubeproxy.kernel.netlink_messages import (
    AF,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    PROTOCOL_NUMBER,
    attribute,
    attributes,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

Entry = tuple[str, Protocol, int]
"""Address, protocol and port of an endpoint."""

SUBSYSTEM = 6 << 8
CMD_CREATE, CMD_DESTROY, CMD_LIST, CMD_ADD, CMD_DEL, CMD_HEADER, CMD_TYPE = 2, 3, 7, 9, 10, 12, 13
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY = 1, 2, 3, 4, 5
ATTR_DATA, ATTR_ADT, ATTR_LINENO = 7, 8, 9
DATA_IP, DATA_PORT, DATA_PROTO, DATA_MAXELEM, DATA_IP2 = 1, 4, 7, 19, 20
IPADDR_IPV4, IPADDR_IPV6 = 1, 2

TYPE = "hash:ip,port,ip"
MAX_ELEMENTS = 1 << 20
BATCH = 800
"""Entries a message: an attribute of 65,535 bytes holds 862 of IPv6."""

IPSET_PROTOCOL = 6
BUSY = 4100
"""Error: a rule refers to the set."""
_PROTOCOL = {number: protocol for protocol, number in PROTOCOL_NUMBER.items()}


def encode_head(family: Family, name: str) -> bytes:
    """Encode what every message about a set begins with; the whole body of one that only names it."""
    protocol = attribute(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL]))
    return struct.pack("=BBH", AF[family], 0, 0) + protocol + attribute(ATTR_SETNAME, name.encode() + b"\0")


def encode_create(family: Family, name: str, revision: int) -> bytes:
    """Encode the body of a message that makes a set."""
    size = attribute(DATA_MAXELEM | NLA_F_NET_BYTEORDER, struct.pack("!I", MAX_ELEMENTS))
    return b"".join(
        (
            encode_head(family, name),
            attribute(ATTR_TYPENAME, TYPE.encode() + b"\0"),
            attribute(ATTR_REVISION, bytes([revision])),
            attribute(ATTR_FAMILY, bytes([AF[family]])),
            attribute(ATTR_DATA | NLA_F_NESTED, size),
        )
    )


def encode_type(family: Family) -> bytes:
    """Encode the question which revisions of the set type the kernel has."""
    protocol = attribute(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL]))
    kind = attribute(ATTR_TYPENAME, TYPE.encode() + b"\0")
    return struct.pack("=BBH", AF[family], 0, 0) + protocol + kind + attribute(ATTR_FAMILY, bytes([AF[family]]))


def _row(family: Family) -> struct.Struct:
    """Return the layout of one entry: address, port, protocol, the address again, a line number."""
    size = 4 if family is Family.V4 else 16
    return struct.Struct(f"=HH HHHH{size}s HH2sxx HHBxxx HHHH{size}s HHI")


_ROWS = {Family.V4: _row(Family.V4), Family.V6: _row(Family.V6)}


def encode_entries(family: Family, name: str, entries: Sequence[Entry]) -> bytes:
    """Encode the body of a message that adds or deletes entries, at most `BATCH`."""
    assert len(entries) <= BATCH
    v4 = family is Family.V4
    layout, size = _ROWS[family], (4 if v4 else 16)
    ip_kind = (IPADDR_IPV4 if v4 else IPADDR_IPV6) | NLA_F_NET_BYTEORDER
    before = (layout.size, ATTR_DATA | NLA_F_NESTED, size + 8, DATA_IP | NLA_F_NESTED, size + 4, ip_kind)
    again = (size + 8, DATA_IP2 | NLA_F_NESTED, size + 4, ip_kind)
    port_head = (6, DATA_PORT | NLA_F_NET_BYTEORDER)
    protocol_head = (5, DATA_PROTO)
    # The kernel writes the number of an entry that it refuses into this attribute.
    line = (8, ATTR_LINENO | NLA_F_NET_BYTEORDER, 0)
    rows = []
    for address, protocol, port in entries:
        ip = ip_address(address).packed
        number = PROTOCOL_NUMBER[protocol]
        rows.append(
            layout.pack(
                *before, ip, *port_head, port.to_bytes(2, "big"), *protocol_head, number, *again, ip, *line
            )
        )
    body = attribute(ATTR_ADT | NLA_F_NESTED, b"".join(rows))
    return encode_head(family, name) + attribute(ATTR_LINENO, bytes(4)) + body


def decode_members(bodies: Iterable[bytes]) -> Iterator[Entry]:
    """Decode the answers to a list: the entries whose two addresses are the same."""
    for body in bodies:
        for kind, value in attributes(body[4:]):
            if kind == ATTR_ADT:
                for _, row in attributes(value):
                    yield from _entry(row)


def _entry(row: bytes) -> Iterator[Entry]:
    fields = dict(attributes(row))
    first, second = (dict(attributes(fields.get(each, b""))) for each in (DATA_IP, DATA_IP2))
    protocol = _PROTOCOL.get(fields.get(DATA_PROTO, b"\0")[0])
    if first == second and protocol is not None:
        for packed in first.values():
            yield str(ip_address(packed)), protocol, int.from_bytes(fields[DATA_PORT], "big")
