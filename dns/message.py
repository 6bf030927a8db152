"""PURE: packets off the hot path: a query taken apart and checked, a reply made to fit who asked.

A packet is hostile. `read_query` says what to do with it: nothing, an error, or a `Query` for the plugin chain.
Replies travel along the chain as whole messages (bytes) whose question has the query's length; `finish` gives
them the query's identity and letter case, cuts them to what the client takes and adds OPT. Cutting at record
boundaries is sound, because compression pointers only point backwards.
"""

import msgspec

from dns.answers import STREAM_LIMIT, UDP_PLAIN_LIMIT
from dns.names import MAX_WIRE
from dns.rrtypes import Rcode, Type
from dns.wire import OPT, OPT_DO, Answer, counts

HEADER = 12
_QUERY = 0
_TC = 0x02


class Malformed(ValueError):
    """Bytes that are no DNS message."""


class Query(msgspec.Struct, frozen=True):
    """A well-formed query with one question."""

    packet: bytes
    question: bytes
    """As it was asked, letter case included."""
    name: bytes
    """The name in wire form, lower case."""
    qtype: int
    qclass: int
    edns: bool = False
    dnssec_ok: bool = False
    limit: int = UDP_PLAIN_LIMIT
    """The largest reply that the client takes."""
    stream: bool = False
    client: tuple[str, int] = ("", 0)
    depth: int = 0
    """How many names were followed to come to this question (ExternalName)."""

    @property
    def recursion_desired(self) -> bool:
        """RD."""
        return bool(self.packet[2] & 1)

    @property
    def checking_disabled(self) -> bool:
        """CD."""
        return bool(self.packet[3] & 0x10)

    def clean(self) -> bytes:
        """Return the packet to send to an upstream: what was understood of the query and nothing else."""
        opt = (OPT_DO if self.dnssec_ok else OPT) if self.edns else b""
        flags = bytes((self.packet[2] & 1, self.packet[3] & 0x30))  # RD; AD and CD, which a validator heeds
        return self.packet[:2] + flags + counts(0, 0, 1 if opt else 0) + self.question + opt

    def asking(self, name: bytes) -> "Query":
        """Return the same query about another name, at full size: a step of a CNAME chain."""
        question = name + self.qtype.to_bytes(2, "big") + b"\0\1"
        packet = self.packet[:2] + bytes((self.packet[2] & 1, self.packet[3] & 0x10)) + counts(0) + question
        return msgspec.structs.replace(
            self, packet=packet, question=question, name=name.lower(), edns=False, dnssec_ok=False,
            limit=STREAM_LIMIT, depth=self.depth + 1,
        )  # fmt: skip


class Reply(msgspec.Struct, frozen=True):
    """A whole message without OPT, and the plugin that made it."""

    message: bytes
    plugin: str

    @property
    def rcode(self) -> int:
        """The response code."""
        return self.message[3] & 0x0F


class Span(msgspec.Struct, frozen=True, gc=False):
    """Where one record stands in a message. ``section``: 1 answer, 2 authority, 3 additional."""

    section: int
    start: int
    kind: int
    ttl_at: int
    data_at: int
    end: int


def skip_name(message: bytes, at: int, *, pointers: bool = True) -> int:
    """Return where the name at an offset ends in place; a compression pointer must point backwards."""
    start, limit = at, len(message)
    while at < limit:
        size = message[at]
        if size == 0:
            if at + 1 - start > MAX_WIRE:
                break
            return at + 1
        if size >= 0xC0:
            if not pointers or at + 1 >= limit or (size & 0x3F) << 8 | message[at + 1] >= start:
                break
            return at + 2
        if size > 63:
            break
        at += size + 1
    raise Malformed("bad name")


def question_end(message: bytes) -> int:
    """Return where the one question ends. Raises Malformed when it is cut or has a compressed name."""
    end = skip_name(message, HEADER, pointers=False)
    if end + 4 > len(message):
        raise Malformed("bad question")
    return end + 4


def spans(message: bytes, at: int) -> list[Span]:
    """Return all records after the question. Raises Malformed for a message that ends too early."""
    found = []
    for section in (1, 2, 3):
        number = int.from_bytes(message[4 + 2 * section : 6 + 2 * section], "big")
        for _ in range(number):
            fixed = skip_name(message, at)
            data = fixed + 10
            end = data + int.from_bytes(message[fixed + 8 : data], "big")
            if data > len(message) or end > len(message):
                raise Malformed("record is cut")
            kind = int.from_bytes(message[fixed : fixed + 2], "big")
            found.append(Span(section, at, kind, fixed + 4, data, end))
            at = end
    return found


def read_query(packet: bytes, *, stream: bool, client: tuple[str, int]) -> Query | bytes | None:
    """Check a packet: the query in it, or the error that answers it, or None for what gets no answer."""
    if len(packet) < HEADER or packet[2] & 0x80:
        return None
    if packet[2] >> 3 & 0x0F != _QUERY:
        return error(packet, Rcode.NOTIMP)
    questions, *others = (int.from_bytes(packet[at : at + 2], "big") for at in (4, 6, 8, 10))
    if questions != 1 or others[0] > 1 or others[1] > 1 or others[2] > 2:
        return error(packet, Rcode.FORMERR)
    try:
        end = question_end(packet)
    except Malformed:
        return error(packet, Rcode.FORMERR)
    question = packet[HEADER:end]
    qtype, qclass = (int.from_bytes(packet[at : at + 2], "big") for at in (end - 4, end - 2))
    try:
        options = [span for span in spans(packet, end) if span.kind == Type.OPT]
    except Malformed:
        options = []  # CoreDNS answers such queries as if the records were not there.
    query = Query(
        packet, question, question[:-4].lower(), qtype, qclass,
        stream=stream, client=client, limit=STREAM_LIMIT if stream else UDP_PLAIN_LIMIT,
    )  # fmt: skip
    if not options:
        return query
    if len(options) > 1 or options[0].section != 3 or packet[options[0].start] != 0:
        return error(packet, Rcode.FORMERR)
    return _with_edns(query, options[0])


def _with_edns(query: Query, span: Span) -> Query | bytes:
    size = int.from_bytes(query.packet[span.ttl_at - 2 : span.ttl_at], "big")
    query = msgspec.structs.replace(
        query,
        edns=True,
        dnssec_ok=bool(query.packet[span.ttl_at + 2] & 0x80),
        limit=STREAM_LIMIT if query.stream else max(UDP_PLAIN_LIMIT, size),
    )
    if query.packet[span.ttl_at + 1]:  # a version that we do not speak: BADVERS is an extended code
        opt = OPT[:5] + bytes((Rcode.BADVERS >> 4,)) + OPT[6:]
        return query.packet[:2] + _reply_flags(query.packet, 0) + counts(0, 0, 1) + query.question + opt
    return query


def _reply_flags(packet: bytes, rcode: int, authoritative: bool = False) -> bytes:
    return bytes((0x80 | packet[2] & 0x79 | (0x04 if authoritative else 0), packet[3] & 0x10 | rcode))


def error(packet: bytes, rcode: Rcode) -> bytes:
    """Return the bare header that says what is wrong with a packet that cannot be taken apart."""
    return packet[:2] + _reply_flags(packet, rcode) + b"\0\0\0\0\0\0\0\0"


def empty(query: Query, rcode: Rcode, plugin: str) -> Reply:
    """Return a reply with nothing but the question."""
    return Reply(query.packet[:2] + _reply_flags(query.packet, rcode) + counts(0) + query.question, plugin)


def authoritative(query: Query, rcode: Rcode, answer: Answer, plugin: str) -> Reply:
    """Return an encoded answer as a whole message."""
    flags = _reply_flags(query.packet, rcode, authoritative=True)
    return Reply(query.packet[:2] + flags + answer.counts + query.question + answer.tail, plugin)


def finish(query: Query, reply: Reply) -> bytes:
    """Return what goes on the wire: the query's identity and letters, cut to its limit, OPT if it had one."""
    body = reply.message
    end = HEADER + len(query.question)
    opt = (OPT_DO if query.dnssec_ok else OPT) if query.edns else b""
    high = body[2] & 0xFE | query.packet[2] & 1
    numbers = body[4:12]
    if len(body) + len(opt) > query.limit:
        cut, numbers, complete = _fit(body, end, query.limit - len(opt))
        body = body[:cut]
        high |= 0 if complete else _TC
    if opt:
        numbers = numbers[:6] + (int.from_bytes(numbers[6:], "big") + 1).to_bytes(2, "big")
    return query.packet[:2] + bytes((high,)) + body[3:4] + numbers + query.question + body[end:] + opt


def _fit(message: bytes, end: int, limit: int) -> tuple[int, bytes, bool]:
    """Return (length, counts, whether every answer is in) of what fits: all additionals go before any answer."""
    found = spans(message, end)
    needed = [span for span in found if span.section < 3]
    kept = [span for span in needed if span.end <= limit]
    answers, authorities = (sum(span.section == section for span in kept) for section in (1, 2))
    complete = len(kept) == len(needed)
    return (kept[-1].end if kept else end), counts(answers, authorities), complete


def without_opt(message: bytes) -> bytes:
    """Take the OPT record off an upstream's reply. Raises Malformed for what is no message."""
    end = question_end(message)
    found = spans(message, end)
    trailing = found[-1].end if found else end
    message = message[:trailing]
    options = [span for span in found if span.kind == Type.OPT]
    if not options:
        return message
    if len(options) > 1 or options[0].section != 3:
        raise Malformed("OPT where it does not belong")
    # OPT is the last record of every server we know. Anything behind it goes with it: a name in it could
    # be pointed at from nowhere but there.
    span = options[0]
    before = sum(other.section == 3 and other.start < span.start for other in found)
    return message[:10] + before.to_bytes(2, "big") + message[12 : span.start]
