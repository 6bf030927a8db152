"""Messages about ipsets, packed by hand. Pure.

One message carries up to 750 entries (1 to 3 µs each; the `ipset` program or pyroute2 take 13 to 180); which
entries a set has follows from its type. Numbers are those of linux/netfilter/ipset/ip_set.h.
"""

import struct
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from kubeproxy.kernel.netlink_messages import (
    AF,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    PROTOCOL_NUMBER,
    attribute,
    attributes,
    decode_text,
    netfilter_head,
    packed_address,
    text_attribute,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol, Record

Entry = tuple[str, Protocol, int]
"""Address, protocol and port of an endpoint."""

RangeEntry = tuple[str, Protocol, int, str]
"""The same, and a canonical CIDR of clients, which no kernel takes with length 0 (the model has none)."""

MarkedEntry = tuple[str, Protocol, int, int, int]
"""The same, and the mark that a packet is given there, with the mask of the bits that it replaces."""

Member = Entry | RangeEntry | MarkedEntry | str | int
"""What a set may hold, by its type: see `SetType`."""

SUBSYSTEM = 6 << 8
CMD_CREATE, CMD_DESTROY, CMD_SWAP, CMD_LIST, CMD_ADD, CMD_DEL, CMD_TYPE = 2, 3, 6, 7, 9, 10, 13
ATTR_PROTOCOL, ATTR_SETNAME, ATTR_TYPENAME, ATTR_REVISION, ATTR_FAMILY = 1, 2, 3, 4, 5
ATTR_FLAGS, ATTR_DATA, ATTR_ADT, ATTR_LINENO = 6, 7, 8, 9
DATA_IP, DATA_PORT, DATA_PORT_TO, DATA_TIMEOUT, DATA_PROTO, DATA_FLAGS, DATA_LINENO = 1, 4, 5, 6, 7, 8, 9
DATA_IP2, DATA_CIDR2, DATA_MARK = 20, 21, 27
"""In an entry."""
DATA_HASHSIZE, DATA_MAXELEM, DATA_ELEMENTS = 18, 19, 24
"""In what describes a set."""
LIST_HEADERS, FORCEADD, WITH_SKBINFO = 1 << 2, 1 << 5, 1 << 6
"""Flags of a list (no entries, please), and of sets."""
IPADDR_IPV4, IPADDR_IPV6 = 1, 2


class SetType(Enum):
    """The kinds of set that we use: the kernel's name of the type, how many entries one may have, and flags."""

    ENDPOINTS = ("hash:ip,port,ip", 1 << 20, 0)
    """`Entry`: an endpoint that may talk to itself; both of the kernel's addresses are its own."""
    ADDRESSES = ("hash:ip", 1 << 20, 0)
    """Addresses."""
    CLIENTS = ("hash:ip", 1 << 16, FORCEADD)
    """Addresses that rules add and that are forgotten after a time; in a full set a new one drives another out."""
    PORTS = ("hash:ip,port", 1 << 20, 0)
    """`Entry`."""
    MARKS = ("hash:ip,port", 1 << 20, WITH_SKBINFO)
    """`MarkedEntry`: for `-j SET --map-set NAME dst,dst --map-mark`. Adding a place again changes its mark."""
    RANGES = ("hash:ip,port,net", 1 << 20, 0)
    """`RangeEntry`."""
    PORT_NUMBERS = ("bitmap:port", 1 << 16, 0)
    """Port numbers; such a set has no IP family, and packets of both match."""

    def __init__(self, kernel_name: str, max_elements: int, flags: int) -> None:
        self.kernel_name = kernel_name
        self.max_elements = max_elements
        self.flags = flags

    def family_number(self, family: Family) -> int:
        """Return the kernel's number of the family that a set of this type has."""
        return 0 if self.kernel_name == "bitmap:port" else AF[family]


BATCH = 750
"""Entries a message: an attribute of 65,535 bytes holds 780 of the longest kind."""

IPSET_PROTOCOL = 6
TOO_MANY_SETS = 4099
"""Error: the network namespace has 65,535 sets, which is all that it may have."""
BUSY = 4100
"""Error: a rule refers to the set."""
FULL = 4352
"""Error: the set has as many entries as it may have; of PORT_NUMBERS: no such port."""
REASONS = {
    4097: "it is no entry of such a set",
    4098: "this kernel does not have the set's type",
    4104: "the kernel stores no prefix of this length",
    4109: "the kernel wants an IPv4 address here",
    4110: "the kernel wants an IPv6 address here",
    4114: "the set was made without marks (skbinfo); remove it with ipset destroy, and it is made anew",
    FULL: "the set is full",
    4353: "the entry is null",
    4354: "the kernel does not know the protocol",
}
"""What the error numbers of an entry mean."""


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
        options += _number(DATA_HASHSIZE, 64) + _number(DATA_TIMEOUT, 0)
    if kind is SetType.PORT_NUMBERS:
        options = _port(DATA_PORT, 0) + _port(DATA_PORT_TO, 65535)
    elif kind.flags:
        options += _number(DATA_FLAGS, kind.flags)
    return b"".join(
        (
            encode_head(family, name),
            text_attribute(ATTR_TYPENAME, kind.kernel_name),
            attribute(ATTR_REVISION, bytes([revision])),
            attribute(ATTR_FAMILY, bytes([kind.family_number(family)])),
            attribute(ATTR_DATA | NLA_F_NESTED, options),
        )
    )


def encode_swap(family: Family, name: str, other: str) -> bytes:
    """Encode the body of a message that has two sets of one type exchange their names; rules follow the names."""
    return encode_head(family, name) + text_attribute(ATTR_TYPENAME, other)


def _port(kind: int, value: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, struct.pack("!H", value))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind | NLA_F_NET_BYTEORDER, struct.pack("!I", value))


def encode_headers(name: str = "") -> bytes:
    """Encode the question for every set's description without entries, or for that of one."""
    named = text_attribute(ATTR_SETNAME, name) if name else b""
    return _opening(None) + named + _number(ATTR_FLAGS, LIST_HEADERS)


class Header(Record, frozen=True, kw_only=True):
    """What the kernel says of a set."""

    name: str
    kernel_name: str
    """Of its type."""
    family: int
    """The kernel's number; 0 when its type has none."""
    has_marks: bool
    max_elements: int
    elements: int

    @property
    def kind(self) -> SetType | None:
        """What we would call it; None for a type that we have no use for."""
        fitting = (kind for kind in SetType if kind is not SetType.CLIENTS and self.suits(kind))
        return next(fitting, None)

    def suits(self, kind: SetType) -> bool:
        """Return whether entries of this kind can be put in."""
        return self.kernel_name == kind.kernel_name and self.has_marks is (kind is SetType.MARKS)


def decode_header(body: bytes) -> Header:
    """Decode one answer to `encode_headers`."""
    found = dict(attributes(body[4:]))
    data = dict(attributes(found.get(ATTR_DATA, b"")))
    return Header(
        name=decode_text(found[ATTR_SETNAME]),
        kernel_name=decode_text(found[ATTR_TYPENAME]),
        family=found[ATTR_FAMILY][0],
        has_marks=bool(int.from_bytes(data.get(DATA_FLAGS, b""), "big") & WITH_SKBINFO),
        max_elements=int.from_bytes(data.get(DATA_MAXELEM, b""), "big"),
        elements=int.from_bytes(data.get(DATA_ELEMENTS, b""), "big"),
    )


def encode_type(family: Family, kind: SetType) -> bytes:
    """Encode the question which revisions of the set type the kernel has."""
    name = text_attribute(ATTR_TYPENAME, kind.kernel_name)
    return _opening(family) + name + attribute(ATTR_FAMILY, bytes([kind.family_number(family)]))


_LINES = [struct.pack("=HHI", 8, DATA_LINENO, number) for number in range(1, BATCH + 1)]
"""What ends an entry: the number that the kernel names it by when it refuses it."""
_ENTRY_HEADS = [struct.pack("=HH", size + 12, ATTR_DATA | NLA_F_NESTED) for size in range(80)]
"""What begins one, by how many bytes its fields take."""
_PORT_HEAD = struct.pack("=HH", 6, DATA_PORT | NLA_F_NET_BYTEORDER)
_PORT_END = b"\0\0"
_BEHIND_PORT = {
    each: _PORT_END + attribute(DATA_PROTO, bytes([number])) for each, number in PROTOCOL_NUMBER.items()
}
_MARK_HEAD = struct.pack("=HH", 12, DATA_MARK | NLA_F_NET_BYTEORDER)


def _address_head(family: Family, kind: int) -> bytes:
    size = family.host_bits // 8
    inner = IPADDR_IPV4 if family is Family.V4 else IPADDR_IPV6
    return struct.pack("=HHHH", size + 8, kind | NLA_F_NESTED, size + 4, inner | NLA_F_NET_BYTEORDER)


_FIRST = {family: _address_head(family, DATA_IP) for family in Family}
_SECOND = {family: _address_head(family, DATA_IP2) for family in Family}


def _of_address(family: Family, address: str) -> bytes:
    return _FIRST[family] + packed_address(address)


def _of_number(family: Family, port: int) -> bytes:
    return _PORT_HEAD + port.to_bytes(2, "big") + _PORT_END


def _of_port(family: Family, entry: Entry) -> bytes:
    address, protocol, port = entry
    ip = packed_address(address)
    return b"".join((_FIRST[family], ip, _PORT_HEAD, port.to_bytes(2, "big"), _BEHIND_PORT[protocol]))


def _of_endpoint(family: Family, entry: Entry) -> bytes:
    address, protocol, port = entry
    ip, behind = packed_address(address), _BEHIND_PORT[protocol]
    return b"".join((_FIRST[family], ip, _PORT_HEAD, port.to_bytes(2, "big"), behind, _SECOND[family], ip))


def _of_mark(family: Family, entry: MarkedEntry) -> bytes:
    return _of_port(family, entry[:3]) + _MARK_HEAD + (entry[3] << 32 | entry[4]).to_bytes(8, "big")


def _of_range(family: Family, entry: RangeEntry) -> bytes:
    address, _, length = entry[3].partition("/")
    if length == "0":
        raise ValueError(f"{entry[3]}: cannot be stored in an ipset")
    network = _SECOND[family] + packed_address(address) + attribute(DATA_CIDR2, bytes([int(length)]))
    return _of_port(family, entry[:3]) + network


# What an entry is, its set's type says.
_FIELDS: dict[SetType, Callable[[Family, Any], bytes]] = {
    SetType.ADDRESSES: _of_address,
    SetType.CLIENTS: _of_address,
    SetType.PORT_NUMBERS: _of_number,
    SetType.PORTS: _of_port,
    SetType.ENDPOINTS: _of_endpoint,
    SetType.MARKS: _of_mark,
    SetType.RANGES: _of_range,
}


def encode_entries(family: Family, name: str, kind: SetType, entries: Sequence[Member]) -> bytes:
    """Encode the body of a message that adds or deletes entries, at most `BATCH`.

    Raises ValueError for a prefix of length 0, which no kernel stores.
    """
    assert len(entries) <= BATCH
    fields_of = _FIELDS[kind]
    rows: list[bytes] = []
    for entry, line in zip(entries, _LINES, strict=False):
        fields = fields_of(family, entry)
        rows += _ENTRY_HEADS[len(fields)], fields, line
    body = attribute(ATTR_ADT | NLA_F_NESTED, b"".join(rows))
    return encode_head(family, name) + attribute(ATTR_LINENO, bytes(4)) + body


def decode_refusal(body: bytes) -> int:
    """Return the number (from 1) of the entry that an error is about; 0 when it is about the message."""
    # The kernel sends the message back, and has written the number where we left room for it.
    found = dict(attributes(body[24:])).get(ATTR_LINENO, b"")
    return int(struct.unpack("=I", found)[0]) if len(found) == 4 else 0
