"""What IPVS' older interface tells of all virtual servers of IPv4 at once, and how two answers differ. Pure.

An answer is an array of struct ip_vs_service_entry (linux/ip_vs.h): how a virtual server was made, how many
destinations it has, and its statistics. Nobody here reads these, which every packet changes. The rest is kept by
columns: to cut six out of 10,000 entries takes 0.1 ms, to compare them next to nothing, to make objects of the
entries 30 ms.
"""

import struct
from collections.abc import Iterable, Iterator

from kubeproxy.kernel.ipvs_messages import OTHERWISE, server_told
from kubeproxy.kernel.ipvs_types import HASHED, PERSISTENT, Server, ServerKey, mark_key
from kubeproxy.kernel.netlink_messages import PROTOCOL_NUMBER, PROTOCOL_OF, address_text, packed_address
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol, Record

_MADE = "H2x 4s 2s2x I 16s I I 4s I"
"""Protocol, address, port, mark; scheduler, flags, timeout, netmask; how many destinations."""
_STATISTICS = "I I I Q Q I I I I I"
ENTRY_BYTES = struct.calcsize(f"@{_MADE} {_STATISTICS} 0Q")
"""The size of an entry; numbers of 64 bits are aligned as this machine's kernel does it."""
HEAD_BYTES = struct.calcsize("@I 0Q")
"""What stands before the entries: how many there are (struct ip_vs_get_services)."""

_ENTRY = struct.Struct(f"={_MADE}")
_WORDS = ENTRY_BYTES // 8
_COLUMNS, _OF_KEY = _ENTRY.size // 8, 2
"""Columns of eight bytes, and how many of them are the key."""
_ROW = struct.Struct(f"={_COLUMNS}Q")
_BY_MARK = Protocol.TCP
"""What the kernel notes for a virtual server by mark that was made by generic netlink; others may do otherwise."""
_HOST = b"\xff" * 4
_NOWHERE = bytes(4)
_EMPTY = memoryview(bytes(8)).cast("Q")[:0]

_Row = tuple[int, ...]


class Outline(Record, frozen=True):
    """A virtual server, and how many destinations it has, whatever their weights."""

    server: Server
    destinations: int


class Overview:
    """Every virtual server of IPv4, anybody's, by address or by mark, at one moment; but no persistence engines.

    Equal ones say the same of all; the same virtual servers in another order are another overview.
    """

    def __init__(self, entries: memoryview) -> None:
        """See the class; ``entries``, as the kernel writes them, are copied."""
        words = _view(entries)
        self._columns = tuple(words[column::_WORDS].tobytes() for column in range(_COLUMNS))

    def __len__(self) -> int:
        """Return how many virtual servers there are."""
        return len(self._columns[0]) // 8

    def __eq__(self, other: object) -> bool:
        """Return whether another one says the same."""
        return isinstance(other, Overview) and self._columns == other._columns

    __hash__ = None  # type: ignore[assignment]  # they are compared, and never looked up

    def outlines(self) -> dict[ServerKey, Outline]:
        """Return all that is told; 3 µs each."""
        found = filter(None, map(_outline, zip(*self._views(), strict=True)))
        return {outline.server.key: outline for outline in found}

    def of(self, keys: Iterable[ServerKey]) -> dict[ServerKey, Outline]:
        """Return what is told of these, as far as they are there; 1 ms where there are 10,000."""
        views = self._views()
        identities = zip(*views[:_OF_KEY], strict=True)
        places = {identity: place for place, identity in enumerate(identities)}
        found: dict[ServerKey, Outline] = {}
        for key in keys:
            place = next((places[each] for each in _identities(key) if each in places), None)
            outline = None if place is None else _outline(_row(views, place))
            if outline is not None:
                found[key] = outline
        return found

    def differing(self, other: "Overview") -> set[ServerKey]:
        """Return of whom the other says something else, or nothing, or says it where this one does not."""
        views = self._views()
        rows: Iterable[_Row]
        if self._columns[:_OF_KEY] == other._columns[:_OF_KEY]:  # mostly
            rows = (_row(views, place) for place in set(self._places_differing(other)))
        else:
            rows = self._rows_differing(other)
        return {outline.server.key for outline in map(_outline, rows) if outline is not None}

    def _rows_differing(self, other: "Overview") -> set[_Row]:
        """Return the rows that one of both has: where few came or went, most stand in a row before and after."""
        columns = list(zip(self._columns, other._columns, strict=True))
        before = min(_alike(mine, others) for mine, others in columns)
        most = min(len(self), len(other)) - before
        after = min(_alike(mine, others, from_end=True, most=most) for mine, others in columns)
        mine, others = (
            set(zip(*[view[before : len(each) - after] for view in each._views()], strict=True))
            for each in (self, other)
        )
        return mine ^ others

    def _places_differing(self, other: "Overview") -> Iterator[int]:
        for mine, others in zip(self._columns, other._columns, strict=True):
            if mine != others:
                pairs = enumerate(zip(_view(mine), _view(others), strict=True))
                yield from (place for place, (one, another) in pairs if one != another)

    def _views(self) -> list[memoryview]:
        return [_view(column) for column in self._columns]


def _view(data: bytes | memoryview) -> memoryview:
    return memoryview(data).cast("Q") if data else _EMPTY


def _alike(one: bytes, another: bytes, *, from_end: bool = False, most: int | None = None) -> int:
    """Return with how many equal places two columns begin, or end; at most ``most``."""
    alike, beyond = 0, (min(len(one), len(another)) // 8 if most is None else most) + 1
    while beyond - alike > 1:
        middle = (alike + beyond) // 2
        ends = slice(-8 * middle, -8 * alike or None) if from_end else slice(8 * alike, 8 * middle)
        if one[ends] == another[ends]:  # views are compared place by place
            alike = middle
        else:
            beyond = middle
    return alike


def _row(views: Iterable[memoryview], place: int) -> _Row:
    return tuple(view[place] for view in views)


def pack_entry(outline: Outline) -> bytes:
    """Return the entry of a virtual server, as the kernel writes it, with statistics of 0."""
    server = outline.server
    flags = server.flags & ~OTHERWISE | HASHED | (PERSISTENT if server.affinity_seconds else 0)
    netmask = _NOWHERE if server.flags & OTHERWISE else _HOST
    rest = (server.scheduler.encode(), flags, server.affinity_seconds, netmask, outline.destinations)
    return _ENTRY.pack(*_key_fields(server.key), *rest).ljust(ENTRY_BYTES, b"\0")


def _key_fields(key: ServerKey, by_mark: Protocol = _BY_MARK) -> tuple[int, bytes, bytes, int]:
    if key.protocol is None:
        return PROTOCOL_NUMBER[by_mark], _NOWHERE, bytes(2), key.mark
    return PROTOCOL_NUMBER[key.protocol], packed_address(key.address), key.port.to_bytes(2, "big"), 0


def _identities(key: ServerKey) -> Iterator[_Row]:
    """Yield what the columns of a key may hold; nothing for one of IPv6."""
    if key.family is not Family.V4:
        return
    for by_mark in Protocol if key.protocol is None else (_BY_MARK,):
        packed = _ENTRY.pack(*_key_fields(key, by_mark), b"", 0, 0, b"", 0)
        yield _ROW.unpack(packed)[:_OF_KEY]


def _outline(row: _Row) -> Outline | None:
    """Return what an entry says; None of a protocol that has no Services."""
    number, address, port, mark, scheduler, flags, timeout, netmask, destinations = _ENTRY.unpack(_ROW.pack(*row))
    if mark:
        key = mark_key(Family.V4, mark)
    elif number in PROTOCOL_OF:
        key = ServerKey(PROTOCOL_OF[number], address_text(address), int.from_bytes(port, "big"))
    else:
        return None
    otherwise = bool(flags & PERSISTENT) and netmask != _HOST
    return Outline(server_told(key, scheduler, flags, timeout, otherwise=otherwise), destinations)
