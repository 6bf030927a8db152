"""PURE: records → the bytes of an answer, made once, when a Service changes.

A reply is header + the question's own bytes + a *tail*. The tail is all that costs time to make, and nothing
in it depends on who asks: names in it are compressed against the question, which always stands at offset 12
and has the same length in every letter case. So a query costs a look-up and a few concatenations (`answers`).

Encoding follows RFC 1035; SRV targets are written out in full (RFC 2782), but later names may point at them.
"""

from collections.abc import Sequence

import msgspec

from dns.names import packed
from dns.rrtypes import Type

QUESTION_AT = 12
POINTER = 0xC000
MAX_POINTER = 0x3FFF
SOA_MAX_TTL = 300
SOA_TIMERS = (7200, 1800, 86400)
"""Refresh, retry and expire, as CoreDNS has them."""

OPT_SIZE = 11
UDP_PAYLOAD = 1232
"""The UDP size that we advertise: what fits an IPv6 packet on any link (DNS flag day 2020)."""
_OPT_HEAD = b"\0\0\x29" + UDP_PAYLOAD.to_bytes(2, "big")
OPT = _OPT_HEAD + b"\0\0\0\0\0\0"
OPT_DO = _OPT_HEAD + b"\0\0\x80\0\0\0"

FIXED_STRIDE = {Type.A: 16, Type.AAAA: 28}
"""Bytes of an address record with a compressed owner: sets of these can be rotated by slicing."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A positive or negative answer without its question."""

    counts: bytes
    """QDCOUNT to ARCOUNT for a reply without OPT."""
    counts_opt: bytes
    tail: bytes
    stride: int = 0
    """Not 0: the tail is that many bytes a record, in any order: `answers` rotates it."""
    ends: tuple[int, ...] = ()
    """Where each record of the Answer section ends in the tail: where truncation may cut."""


def question_of(owner: bytes, kind: int) -> bytes:
    """Return the question section that asks for a wire name and type in class IN; the table's key."""
    return owner + kind.to_bytes(2, "big") + b"\0\1"


def counts(answer: int, authority: int = 0, additional: int = 0) -> bytes:
    """Return the last eight bytes of a header with one question."""
    return b"\0\1" + b"".join(number.to_bytes(2, "big") for number in (answer, authority, additional))


_COUNTS: dict[tuple[int, int, int], tuple[bytes, bytes]] = {}


def _shared_counts(answer: int, authority: int, additional: int) -> tuple[bytes, bytes]:
    key = (answer, authority, additional)
    found = _COUNTS.get(key)
    if found is None:
        found = _COUNTS[key] = (counts(*key), counts(answer, authority, additional + 1))
    return found


class Tail:
    """Writes records after a question and compresses their names against all that stands before."""

    def __init__(self, owner: bytes) -> None:
        self._data = bytearray()
        self._base = QUESTION_AT + len(owner) + 4
        self._seen: dict[bytes, int] = {}
        self._note(owner, QUESTION_AT)

    def __len__(self) -> int:
        return len(self._data)

    def finish(self) -> bytes:
        """Return what was written."""
        return bytes(self._data)

    def _note(self, name: bytes, at: int) -> None:
        while name[0] and at <= MAX_POINTER:
            self._seen.setdefault(name, at)
            step = name[0] + 1
            name, at = name[step:], at + step

    def name(self, name: bytes, compress: bool = True) -> None:
        """Write a lower-case wire name."""
        at = self._base + len(self._data)
        whole = name
        while compress and name[0]:
            pointer = self._seen.get(name)
            if pointer is not None:
                self._data += whole[: len(whole) - len(name)]
                self._data += (POINTER | pointer).to_bytes(2, "big")
                break
            name = name[name[0] + 1 :]
        else:
            self._data += whole
        self._note(whole, at)

    def head(self, owner: bytes, kind: int, ttl: int) -> int:
        """Write a record up to its RDLENGTH, which `close` fills in; return where its rdata starts."""
        self.name(owner)
        self._data += kind.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big") + b"\0\0"
        return len(self._data)

    def raw(self, data: bytes) -> None:
        """Write rdata that holds no name."""
        self._data += data

    def close(self, start: int) -> None:
        """End the record whose rdata starts at ``start``."""
        self._data[start - 2 : start] = (len(self._data) - start).to_bytes(2, "big")


def address_answer(kind: Type, addresses: Sequence[str], ttl: int) -> Answer:
    """Encode an A or AAAA set: any order of its records is the same set, so it can be rotated."""
    size = FIXED_STRIDE[kind]
    head = (
        b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big") + (size - 12).to_bytes(2, "big")
    )
    tail = b"".join(head + packed(address) for address in addresses)
    plain, with_opt = _shared_counts(len(addresses), 0, 0)
    ends = tuple(range(size, len(tail) + 1, size)) if len(tail) > 200 else ()
    return Answer(plain, with_opt, tail, size if len(addresses) > 1 else 0, ends)


Glue = Sequence[tuple[bytes, Type, str]]
"""Additional records: (owner, A or AAAA, address)."""


def name_answer(owner: bytes, kind: Type, targets: Sequence[bytes], ttl: int, glue: Glue = ()) -> Answer:
    """Encode a PTR, CNAME or NS set, and the addresses of its targets."""
    tail = Tail(owner)
    ends = []
    for target in targets:
        start = tail.head(owner, kind, ttl)
        tail.name(target)
        tail.close(start)
        ends.append(len(tail))
    _write_glue(tail, glue, ttl)
    plain, with_opt = _shared_counts(len(targets), 0, len(glue))
    return Answer(plain, with_opt, tail.finish(), 0, tuple(ends))


def srv_answer(owner: bytes, records: Sequence[tuple[int, int, int, bytes]], glue: Glue, ttl: int) -> Answer:
    """Encode SRV records (priority, weight, port, target) with the addresses of their targets."""
    tail = Tail(owner)
    ends = []
    for priority, weight, port, target in records:
        start = tail.head(owner, Type.SRV, ttl)
        tail.raw(priority.to_bytes(2, "big") + weight.to_bytes(2, "big") + port.to_bytes(2, "big"))
        tail.name(target, compress=False)
        tail.close(start)
        ends.append(len(tail))
    _write_glue(tail, glue, ttl)
    plain, with_opt = _shared_counts(len(records), 0, len(glue))
    return Answer(plain, with_opt, tail.finish(), 0, tuple(ends))


def _write_glue(tail: Tail, glue: Glue, ttl: int) -> None:
    for owner, kind, address in glue:
        start = tail.head(owner, kind, ttl)
        tail.raw(packed(address))
        tail.close(start)


def txt_answer(text: str, ttl: int) -> Answer:
    """Encode one TXT record of one short string."""
    data = text.encode("ascii")
    rdata = bytes((len(data),)) + data
    head = b"\xc0\x0c" + Type.TXT.to_bytes(2, "big") + b"\0\1" + ttl.to_bytes(4, "big")
    plain, with_opt = _shared_counts(1, 0, 0)
    return Answer(plain, with_opt, head + len(rdata).to_bytes(2, "big") + rdata)


def soa_answer(zone: bytes, owner: bytes, serial: int, ttl: int, authority: bool = True) -> Answer:
    """Encode a zone's SOA after a question for ``owner``, a name in it: a negative answer's proof.

    Names in it point into the question, so that they repeat the letter case of whoever asks (0x20).
    """
    tail = Tail(owner)
    start = tail.head(zone, Type.SOA, min(ttl, SOA_MAX_TTL))
    tail.name(b"\x02ns\x03dns" + zone)
    tail.name(b"\x0ahostmaster" + zone)
    for number in (serial, *SOA_TIMERS, ttl):
        tail.raw(number.to_bytes(4, "big"))
    tail.close(start)
    plain, with_opt = _shared_counts(*((0, 1, 0) if authority else (1, 0, 0)))
    return Answer(plain, with_opt, tail.finish(), 0, ())
