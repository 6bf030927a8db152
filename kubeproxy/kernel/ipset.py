"""ipsets of (address, port, address): created, filled, read and destroyed by packed netlink messages.

One message carries up to 800 entries (2 to 3 µs each; the `ipset` program or pyroute2 take 13 to 180).
An entry here means "this endpoint talks to itself": both addresses are the same. The encoder is pure.
"""

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, htons, inet_pton

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import (
    NETLINK_NETFILTER,
    NLA_F_NESTED,
    NLA_F_NET_BYTEORDER,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
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
NUMBER = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_PROTOCOL = {number: protocol for protocol, number in NUMBER.items()}


def _head(family: Family, name: str) -> bytes:
    af = AF_INET if family is Family.V4 else AF_INET6
    protocol = attribute(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL]))
    return struct.pack("=BBH", af, 0, 0) + protocol + attribute(ATTR_SETNAME, name.encode() + b"\0")


def encode_create(family: Family, name: str, revision: int) -> bytes:
    """Encode the body of a message that makes a set."""
    af = AF_INET if family is Family.V4 else AF_INET6
    size = attribute(DATA_MAXELEM | NLA_F_NET_BYTEORDER, struct.pack("!I", MAX_ELEMENTS))
    return b"".join(
        (
            _head(family, name),
            attribute(ATTR_TYPENAME, TYPE.encode() + b"\0"),
            attribute(ATTR_REVISION, bytes([revision])),
            attribute(ATTR_FAMILY, bytes([af])),
            attribute(ATTR_DATA | NLA_F_NESTED, size),
        )
    )


def encode_type(family: Family) -> bytes:
    """Encode the question which revisions of the set type the kernel has."""
    af = AF_INET if family is Family.V4 else AF_INET6
    protocol = attribute(ATTR_PROTOCOL, bytes([IPSET_PROTOCOL]))
    kind = attribute(ATTR_TYPENAME, TYPE.encode() + b"\0")
    return struct.pack("=BBH", af, 0, 0) + protocol + kind + attribute(ATTR_FAMILY, bytes([af]))


def _row(family: Family) -> struct.Struct:
    """Return the layout of one entry: address, port, protocol, the address again, a line number."""
    size = 4 if family is Family.V4 else 16
    return struct.Struct(f"=HH HHHH{size}s HHHxx HHBxxx HHHH{size}s HHI")


_ROWS = {Family.V4: _row(Family.V4), Family.V6: _row(Family.V6)}


def encode_entries(family: Family, name: str, entries: Sequence[Entry]) -> bytes:
    """Encode the body of a message that adds or deletes entries, at most `BATCH`."""
    assert len(entries) <= BATCH
    v4 = family is Family.V4
    layout, af, size = _ROWS[family], (AF_INET if v4 else AF_INET6), (4 if v4 else 16)
    ip_kind = (IPADDR_IPV4 if v4 else IPADDR_IPV6) | NLA_F_NET_BYTEORDER
    before = (layout.size, ATTR_DATA | NLA_F_NESTED, size + 8, DATA_IP | NLA_F_NESTED, size + 4, ip_kind)
    again = (size + 8, DATA_IP2 | NLA_F_NESTED, size + 4, ip_kind)
    port_head = (6, DATA_PORT | NLA_F_NET_BYTEORDER)
    protocol_head = (5, DATA_PROTO)
    # The kernel writes the number of an entry that it refuses into this attribute.
    line = (8, ATTR_LINENO | NLA_F_NET_BYTEORDER, 0)
    rows = []
    for address, protocol, port in entries:
        ip = inet_pton(af, address)
        number = NUMBER[protocol]
        rows.append(layout.pack(*before, ip, *port_head, htons(port), *protocol_head, number, *again, ip, *line))
    body = attribute(ATTR_ADT | NLA_F_NESTED, b"".join(rows))
    return _head(family, name) + attribute(ATTR_LINENO, bytes(4)) + body


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


class Ipset:
    """Sets of one family in the network namespace of the calling thread. Blocking."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def create(self, name: str) -> None:
        """Make a set; one of this name and type may exist already, whatever its size. Raises KernelError."""
        (answer,) = self._request(CMD_TYPE, 0, name, encode_type(self._family))
        revision = dict(attributes(answer[4:]))[ATTR_REVISION][0]
        body = encode_create(self._family, name, revision)
        try:
            self._request(CMD_CREATE, NLM_F_CREATE | NLM_F_EXCL, name, body)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            self._check_kind(name)

    def _check_kind(self, name: str) -> None:
        (answer,) = self._request(CMD_HEADER, 0, name, _head(self._family, name))
        found = dict(attributes(answer[4:]))
        af = AF_INET if self._family is Family.V4 else AF_INET6
        if (found[ATTR_TYPENAME].rstrip(b"\0"), found[ATTR_FAMILY][0]) != (TYPE.encode(), af):
            raise KernelError(f"ipset {name}: somebody's set of another type has this name; ipset destroy {name}")

    def destroy(self, name: str) -> bool:
        """Remove a set unless a rule refers to it; return whether it is gone (or never was)."""
        try:
            self._request(CMD_DESTROY, 0, name, _head(self._family, name))
        except NetlinkError as error:
            if error.code == BUSY:
                return False
            if error.code not in (errno.ENOENT, errno.EINVAL):  # no such set; a kernel without any
                raise
        return True

    def members(self, name: str) -> set[Entry]:
        """Return the entries of a set."""
        return set(decode_members(self._request(CMD_LIST, NLM_F_DUMP, name, _head(self._family, name))))

    def add(self, name: str, entries: list[Entry]) -> None:
        """Add entries; one that is there stays."""
        self._batches(CMD_ADD, name, entries)

    def delete(self, name: str, entries: list[Entry]) -> None:
        """Delete entries; one that is not there is passed over."""
        self._batches(CMD_DEL, name, entries)

    def _batches(self, command: int, name: str, entries: list[Entry]) -> None:
        for start in range(0, len(entries), BATCH):
            self._request(command, 0, name, encode_entries(self._family, name, entries[start : start + BATCH]))

    def _request(self, command: int, flags: int, name: str, body: bytes) -> list[bytes]:
        # A socket a call: the calls are few, and it must belong to the caller's network namespace.
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            return netlink.request(SUBSYSTEM | command, flags, body, f"ipset {name}")
