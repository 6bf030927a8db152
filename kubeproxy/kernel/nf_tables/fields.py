"""Keys and data of sets: their lengths, their types, and the bytes of places, slots and endpoints. Pure.

A concatenation is its fields one after another, each filled up with zeros to a multiple of four bytes; one that
stands alone is as short as it is. Numbers of a packet are in network order, those of the kernel in the host's.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from sys import byteorder

from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER, address_text, packed_address
from kubeproxy.kernel.nf_tables.types import VERDICTS, Field, SetSpec
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol

SPOKEN = {Family.V4: "ip", Family.V6: "ip6"}
"""How nftables names families."""
COMMENT_BYTES = 128
"""The longest comment that `nft` reads back."""

_ADDRESSES = (Field.ADDRESS, Field.SOURCE)
_BYTES = {Field.PROTOCOL: 1, Field.PORT: 2, Field.SLOT: 4, Field.CLASS: 4, Field.MARK: 4}
_TYPES = {Field.PROTOCOL: 12, Field.PORT: 13, Field.SLOT: 4, Field.CLASS: 23, Field.MARK: 19}
"""What libnftables calls the types of fields (enum datatypes); the kernel keeps the numbers and ignores them."""
_ADDRESS_TYPES = {Family.V4: 7, Family.V6: 8}
_TYPE_BITS = 6


def field_bytes(field: Field, family: Family) -> int:
    """Return how long a field is, without what fills it up; 0 for one that is none of ours."""
    return family.host_bits // 8 if field in _ADDRESSES else _BYTES.get(field, 0)


def fields_bytes(fields: Sequence[Field], family: Family) -> int:
    """Return how long a key (or data) of these fields is."""
    if len(fields) == 1:
        return field_bytes(fields[0], family)
    return sum((field_bytes(each, family) + 3) & ~3 for each in fields)


def data_bytes(spec: SetSpec, family: Family) -> int:
    """Return how long a map's data is, 0 for a set and for a map of verdicts."""
    return 0 if spec.data is None or spec.data == VERDICTS else fields_bytes(_fields(spec), family)


def _fields(spec: SetSpec) -> tuple[Field, ...]:
    return spec.data if isinstance(spec.data, tuple) else ()


def type_number(fields: Sequence[Field], family: Family) -> int:
    """Return libnftables' number of the type of these fields together."""
    number = 0
    for each in fields:
        number = number << _TYPE_BITS | (_ADDRESS_TYPES[family] if each in _ADDRESSES else _TYPES[each])
    return number


def fields_of_type(number: int, family: Family) -> tuple[Field, ...]:
    """Return the fields of a type by its number, `Field.OTHER` for each that is none of ours."""
    known = {kind: field for field, kind in _TYPES.items()} | {_ADDRESS_TYPES[family]: Field.ADDRESS}
    found: list[Field] = []
    while number:
        found.insert(0, known.get(number & (1 << _TYPE_BITS) - 1, Field.OTHER))
        number >>= _TYPE_BITS
    return tuple(found)


_PROTOCOL = {protocol: bytes((number, 0, 0, 0)) for protocol, number in PROTOCOL_NUMBER.items()}
_PLACE = struct.Struct("!4sH2x")


def place(address: str, protocol: Protocol, port: int) -> bytes:
    """Pack the place of a Service: a canonical address, protocol and port, 12 or 24 bytes."""
    return packed_address(address) + _PLACE.pack(_PROTOCOL[protocol], port)


def node_port(protocol: Protocol, port: int) -> bytes:
    """Pack protocol and port, 8 bytes."""
    return _PLACE.pack(_PROTOCOL[protocol], port)


@lru_cache(maxsize=4096)
def number(value: int) -> bytes:
    """Pack 32 bits in the host's order: a slot, a class, a mark."""
    return value.to_bytes(4, byteorder)


def endpoint(address: str, port: int) -> bytes:
    """Pack an endpoint's address and port, 8 or 20 bytes."""
    return packed_address(address) + _port(port)


@lru_cache(maxsize=65536)
def _port(port: int) -> bytes:
    return (port << 16).to_bytes(4, "big")


def clipped(comment: str) -> str:
    """Return a comment as it is written: no longer than `nft` reads back, and without what it could not."""
    if comment.isascii() and comment.isprintable() and len(comment) <= COMMENT_BYTES and '"' not in comment:
        return comment
    plain = "".join("'" if each == '"' else each if each.isprintable() else "?" for each in comment)
    return plain.encode(errors="replace")[:COMMENT_BYTES].decode(errors="ignore")


def text(packed: bytes, fields: Sequence[Field], family: Family) -> str:
    """Return a key or data in `nft`'s words, as far as its fields are known; for errors and logs."""
    if Field.OTHER in fields or fields_bytes(fields, family) != len(packed):
        return "0x" + packed.hex()
    words: list[str] = []
    offset = 0
    for each in fields:
        length = field_bytes(each, family)
        words.append(_word(packed[offset : offset + length], each))
        offset += (length + 3) & ~3
    return " . ".join(words)


_PROTOCOL_WORD = {number: protocol.value.lower() for protocol, number in PROTOCOL_NUMBER.items()}


def _word(value: bytes, field: Field) -> str:
    if field in _ADDRESSES:
        return address_text(value)
    if field is Field.PORT:
        return str(int.from_bytes(value, "big"))
    if field is Field.PROTOCOL:
        return _PROTOCOL_WORD.get(value[0], str(value[0]))
    plain = int.from_bytes(value, byteorder)
    if field is Field.CLASS:
        return f"{plain >> 16:x}:{plain & 0xFFFF:x}"
    return f"{plain:#x}" if field is Field.MARK else str(plain)
