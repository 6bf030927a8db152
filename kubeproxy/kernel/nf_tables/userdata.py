"""What the kernel keeps for the `nft` program without looking at it: comments, and how a set's fields are written.

The kernel knows the lengths of keys and no more; `nft` lists a map as `typeof ip daddr . meta l4proto . th dport`
because whoever made it left that here. The layout is libnftnl's (udata.h) and that of nft's expressions
(expr_typeof_*_udata): a row of one byte of kind, one of length, and the value; numbers in the host's order. Pure.
"""

import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

from kubeproxy.kernel.netlink_messages import decode_text
from kubeproxy.kernel.nf_tables.fields import clipped, fields_of_type
from kubeproxy.kernel.nf_tables.types import VERDICTS, Field, SetSpec
from kubeproxy.model.addresses import Family

COMMENT = 0
"""Of a table, a chain, a rule and an element."""
_KEY_ORDER, _DATA_ORDER, _KEY_TYPE, _DATA_TYPE, _DATA_INTERVAL, _SET_COMMENT = 0, 1, 3, 4, 6, 7
"""Of a set."""
_MIXED_ORDER, _HOST_ORDER, _NETWORK_ORDER = 0, 1, 2
_EXPRESSION, _EXPRESSION_DATA = 0, 1
_VERDICT, _PAYLOAD, _META, _CONCATENATION, _NUMBERS = 1, 7, 9, 13, 23
"""nft's kinds of expressions (enum expr_types)."""

_Header = tuple[int, int]
_IP4_SOURCE, _IP4_DESTINATION, _IP6_SOURCE, _IP6_DESTINATION = (12, 11), (12, 12), (13, 8), (13, 9)
_DESTINATION_PORT = 11, 2
"""A protocol (enum proto_desc_id) and the number of a field of its header.

A port in data is that of any protocol too, though nft 1.0.6 then does not add a single rule that translates by the
map ("conflicting protocols"; it does load a whole file). Were it TCP's, nft would give such a rule a comparison
with TCP when it loads its own listing, and the others would not be served any more.
"""
_META_KEYS = {Field.PROTOCOL: 16, Field.CLASS: 2, Field.MARK: 3}
_NETWORK = (Field.ADDRESS, Field.SOURCE, Field.PORT)


def _value(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def _number(kind: int, value: int) -> bytes:
    return _value(kind, struct.pack("=I", value))


def values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Decode kind and value of each; stops at one that is cut short."""
    offset = 0
    while offset + 2 <= len(data):
        kind, length = data[offset], data[offset + 1]
        if offset + 2 + length > len(data):
            return
        yield kind, data[offset + 2 : offset + 2 + length]
        offset += 2 + length


def encode_comment(comment: str, kind: int = COMMENT) -> bytes:
    """Encode a comment, of anything but a set; b"" for none."""
    return _value(kind, clipped(comment).encode() + b"\0") if comment else b""


def decode_comment(data: bytes, kind: int = COMMENT) -> str:
    """Decode it; "" when there is none."""
    return decode_text(dict(values(data)).get(kind, b"")) if data else ""


def decode_set_comment(data: bytes) -> str:
    """Decode a set's comment; "" when it has none."""
    return decode_comment(data, _SET_COMMENT)


def encode_set(spec: SetSpec, family: Family) -> bytes:
    """Encode what is kept with a set."""
    found = _number(_KEY_ORDER, _order(spec.key))
    if spec.data is None:
        found += _value(_KEY_TYPE, _typeof(spec.key, family))
    else:
        found += _number(_DATA_ORDER, _order(spec.data)) + _value(_KEY_TYPE, _typeof(spec.key, family))
        found += _value(_DATA_TYPE, _typeof(spec.data, family)) + _number(_DATA_INTERVAL, 0)
    return found + encode_comment(spec.comment, _SET_COMMENT)


def _order(fields: Sequence[Field] | str) -> int:
    if isinstance(fields, str) or len(fields) != 1:
        return _MIXED_ORDER
    return _NETWORK_ORDER if fields[0] in _NETWORK else _HOST_ORDER


@lru_cache(maxsize=256)
def _typeof(fields: tuple[Field, ...] | str, family: Family) -> bytes:
    if fields == VERDICTS:
        return _expression(_VERDICT, b"")
    parts = [_field(Field(each), family) for each in fields]
    if len(parts) == 1:
        return parts[0]
    return _expression(_CONCATENATION, b"".join(_value(i, part) for i, part in enumerate(parts)))


def _expression(kind: int, data: bytes) -> bytes:
    return _number(_EXPRESSION, kind) + _value(_EXPRESSION_DATA, data)


def _field(field: Field, family: Family) -> bytes:
    if field is Field.SLOT:
        random, modulus, offset = 1, 2, 0
        return _expression(_NUMBERS, _number(0, random) + _number(1, modulus) + _number(2, offset))
    if field in _META_KEYS:
        return _expression(_META, _number(0, _META_KEYS[field]))
    description, place = _header(field, family)
    return _expression(_PAYLOAD, _number(0, description) + _number(1, place))


def _header(field: Field, family: Family) -> _Header:
    if field is Field.PORT:
        return _DESTINATION_PORT
    if field is Field.ADDRESS:
        return _IP4_DESTINATION if family is Family.V4 else _IP6_DESTINATION
    return _IP4_SOURCE if family is Family.V4 else _IP6_SOURCE


_OURS = tuple(each for each in Field if each is not Field.OTHER)


@lru_cache(maxsize=2)
def _known(family: Family) -> dict[bytes, Field]:
    return {_field(each, family): each for each in _OURS}


def decode_fields(data: bytes, *, of_key: bool, type_number: int, family: Family) -> tuple[Field, ...]:
    """Return the fields of a set's key, or of its data, from what is kept with it, or else from its type."""
    by_type = fields_of_type(type_number, family)
    typeof = dict(values(data)).get(_KEY_TYPE if of_key else _DATA_TYPE, b"")
    parts = [typeof]
    if len(by_type) > 1:
        parts = [part for _, part in values(dict(values(typeof)).get(_EXPRESSION_DATA, b""))]
    if len(parts) != len(by_type):
        return by_type
    known = _known(family)
    return tuple(known.get(part, plain) for part, plain in zip(parts, by_type, strict=True))
