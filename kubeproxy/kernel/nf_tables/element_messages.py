"""Elements of sets and maps, to the kernel's attributes and back. Pure.

A full load has a hundred thousand of them. So what an element of usual shape has besides its key and data is made
once for each pair of lengths: to encode one is to put four pieces together, to decode one is to find the
same two pieces where they must be. Everything else (comments, ranges, timeouts, verdicts) takes the general way.
"""

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache

from kubeproxy.kernel.netlink_messages import NLA_F_NESTED, attribute, attribute_map, attributes, decode_text
from kubeproxy.kernel.nf_tables import numbers as n
from kubeproxy.kernel.nf_tables.attributes import Attributes, nested, u64, value, verdict
from kubeproxy.kernel.nf_tables.expressions import Decide
from kubeproxy.kernel.nf_tables.fields import clipped
from kubeproxy.kernel.nf_tables.object_messages import HEAD_BYTES, Undecodable, encode_elements_of
from kubeproxy.kernel.nf_tables.types import Element
from kubeproxy.kernel.nf_tables.userdata import COMMENT, decode_comment, encode_comment
from kubeproxy.model.addresses import Family

MOST_BYTES = 60_000
"""Of the elements in one message: the length of a list is a number of 16 bits."""

_ATTRIBUTE = struct.Struct("=HH")
_USERDATA = int(n.Element.USERDATA)  # to look a member of an enum up takes as long as all else about an element


def encode_elements(
    family: Family, table: str, name: str, elements: Iterable[Element], *, keys_only: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield the bodies of as many messages as it takes, each after the index of its first element.

    ``keys_only``: as the order to delete them.
    """
    front = encode_elements_of(family, table, name)
    for first, listed in _lists(elements, keys_only):
        yield first, front + nested(n.ElementList.ELEMENTS, listed)


def _lists(elements: Iterable[Element], keys_only: bool) -> Iterator[tuple[int, bytes]]:
    pieces: list[bytes] = []
    first = size = 0
    for count, element in enumerate(elements):
        piece = _key_only(element) if keys_only else _piece(element)
        size += len(piece)
        if size > MOST_BYTES and pieces:
            yield first, b"".join(pieces)
            pieces, first, size = [], count, len(piece)
        pieces.append(piece)
    if pieces:
        yield first, b"".join(pieces)


_TAIL = struct.Struct("=HHBB")
"""What stands before a comment: the attribute's head, and that of the value in it."""


@lru_cache(maxsize=1024)
def _frame(key_bytes: int, data_bytes: int, comment_bytes: int = 0) -> tuple[bytes, bytes, bytes, bytes]:
    """Return what stands before the key, the data and the comment, and behind it, in an element of usual shape."""
    key_length, data_length = 8 + key_bytes, 8 + data_bytes if data_bytes else 0
    kept_length = _TAIL.size + comment_bytes + 1 if comment_bytes else 0
    padding = -kept_length % 4
    front = _ATTRIBUTE.pack(4 + key_length + data_length + kept_length + padding, n.LIST_ELEMENT | NLA_F_NESTED)
    front += _ATTRIBUTE.pack(key_length, n.Element.KEY | NLA_F_NESTED) + _ATTRIBUTE.pack(
        4 + key_bytes, n.DATA_VALUE
    )
    middle = back = end = b""
    if data_bytes:
        middle = _ATTRIBUTE.pack(data_length, n.Element.DATA | NLA_F_NESTED)
        middle += _ATTRIBUTE.pack(4 + data_bytes, n.DATA_VALUE)
    if comment_bytes:
        back = _TAIL.pack(kept_length, n.Element.USERDATA, COMMENT, comment_bytes + 1)
        end = b"\0" * (1 + padding)
    return front, middle, back, end


def _piece(element: Element) -> bytes:
    key, data = element.key, element.data
    if data is None:
        data = b""
    unusual = element.end or element.timeout or element.expires
    if unusual or data.__class__ is not bytes or (len(key) | len(data)) & 3:
        return nested(n.LIST_ELEMENT, _general(element))
    if not element.comment:
        front, middle, _, _ = _frame(len(key), len(data))
        return front + key + middle + data
    comment = clipped(element.comment).encode()
    front, middle, back, end = _frame(len(key), len(data), len(comment))
    return b"".join((front, key, middle, data, back, comment, end))


def _general(element: Element) -> bytes:
    parts = [_keys(element)]
    data = element.data
    if isinstance(data, Decide):
        parts.append(verdict(n.Element.DATA, data))
    elif data is not None:
        parts.append(value(n.Element.DATA, data))
    if element.timeout:
        parts.append(u64(n.Element.TIMEOUT, element.timeout))
    if element.expires:
        parts.append(u64(n.Element.EXPIRATION, element.expires))
    if element.comment:
        parts.append(attribute(n.Element.USERDATA, encode_comment(element.comment)))
    return b"".join(parts)


def _keys(element: Element) -> bytes:
    end = value(n.Element.KEY_END, element.end) if element.end is not None else b""
    return value(n.Element.KEY, element.key) + end


def _key_only(element: Element) -> bytes:
    if element.end is None and not len(element.key) & 3:
        return _frame(len(element.key), 0)[0] + element.key
    return nested(n.LIST_ELEMENT, _keys(element))


def decode_elements(body: bytes) -> Iterator[Element]:
    """Yield the elements in an answer to the question for them. Raises Undecodable."""
    listed = attribute_map(body, HEAD_BYTES).get(n.ElementList.ELEMENTS, b"")
    return iter(_alike(listed) or _one_by_one(listed))


def _alike(listed: bytes) -> list[Element]:
    """Decode a list whose elements differ in key and data only, as those of most sets; [] when it is no such."""
    length = _ATTRIBUTE.unpack_from(listed)[0] if len(listed) >= 4 else 0
    if length < 4 or length > len(listed) or len(listed) % length:
        return []
    first = _decoded(listed[4:length])
    row = _row(len(first.key), len(first.data) if isinstance(first.data, bytes) else 0)
    if not _is_usual(first) or row.size != length:
        return []
    rows = list(row.iter_unpack(listed))
    if len({(front, middle) for front, _, middle, _ in rows}) != 1:
        return []
    return [Element(key, data or None) for _, key, _, data in rows]


@lru_cache(maxsize=64)
def _row(key_bytes: int, data_bytes: int) -> struct.Struct:
    """Return what an element of usual shape without a comment consists of, as `_frame` has it."""
    front, middle, _, _ = _frame(key_bytes, data_bytes)
    return struct.Struct(f"={len(front)}s{key_bytes}s{len(middle)}s{data_bytes}s")


def _one_by_one(listed: bytes) -> Iterator[Element]:
    offset, end, head_of = 0, len(listed), _ATTRIBUTE.unpack_from
    # What the last element of usual shape looked like: most look like the one before, but for their comments.
    front = middle = b""
    key_at, key_end, data_at, data_end = 12, 0, 0, 1 << 16
    while offset + 4 <= end:
        length, _ = head_of(listed, offset)
        if length < 4 or offset + length > end:
            raise Undecodable("an element that is cut short")
        after = offset + length
        if (
            length >= data_end
            and listed[offset + 4 : offset + key_at] == front
            and listed[offset + key_end : offset + data_at] == middle
        ):
            comment = _comment(listed, offset + data_end, after) if length > data_end else ""
            if comment is not None:
                data = listed[offset + data_at : offset + data_end] if middle else None
                yield Element(listed[offset + key_at : offset + key_end], data, comment)
                offset = after  # a multiple of four
                continue
        element = _decoded(listed[offset + 4 : after])
        if _is_usual(element):
            key_end = key_at + len(element.key)
            data_at = key_end + 8 if element.data is not None else key_end
            data_end = data_at + len(element.data) if isinstance(element.data, bytes) else data_at
            front, middle = listed[offset + 4 : offset + key_at], listed[offset + key_end : offset + data_at]
        yield element
        offset += (length + 3) & ~3


def _comment(listed: bytes, offset: int, end: int) -> str | None:
    """Return the comment that fills this part of a list, None when it is something else."""
    if end - offset < _TAIL.size:
        return None
    length, kind, what, size = _TAIL.unpack_from(listed, offset)
    ends = offset + _TAIL.size + size
    if (kind, what, length) != (_USERDATA, COMMENT, _TAIL.size + size) or (ends + 3) & ~3 != end:
        return None
    return decode_text(listed[offset + _TAIL.size : ends])


def _is_usual(element: Element) -> bool:
    data = element.data if element.data is not None else b""
    others = element.end or element.timeout or element.expires
    return isinstance(data, bytes) and not others and not (len(element.key) | len(data)) & 3


def _decoded(body: bytes) -> Element:
    found = Attributes(body)
    try:
        data: bytes | Decide | None = None
        if n.Element.DATA in found:
            is_verdict = n.DATA_VERDICT in found.within(n.Element.DATA)
            data = found.verdict(n.Element.DATA) if is_verdict else found.value(n.Element.DATA)
        return Element(
            found.value(n.Element.KEY),
            data,
            decode_comment(found.raw(n.Element.USERDATA, b"")),
            found.value(n.Element.KEY_END) if n.Element.KEY_END in found else None,
            found.number(n.Element.TIMEOUT, 0),
            found.number(n.Element.EXPIRATION, 0),
        )
    except KeyError as error:
        raise Undecodable(f"an element without {error}") from error


def element_at(body: bytes, offset: int) -> int | None:
    """Return which element of a message a byte of its body belongs to, None for one of something else."""
    at, found = HEAD_BYTES, b""
    for kind, found in attributes(body[HEAD_BYTES:]):
        at += 4
        if kind == n.ElementList.ELEMENTS:
            break
        at += (len(found) + 3) & ~3
    else:
        return None
    for index, (_, element) in enumerate(attributes(found)):
        if at <= offset < at + 4 + len(element):
            return index
        at += (4 + len(element) + 3) & ~3
    return None
