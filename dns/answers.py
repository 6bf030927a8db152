"""The table that the answering loop reads: question bytes → reply bytes, and nothing else.

This is the hot path and the seam for worker processes: a worker needs an `AnswerTable` and a socket. The
table is filled by `zone`; here a query is one look-up of its lower-cased question and a few concatenations.
What cannot be answered from the table is not decided here: `respond` returns None and the query goes down the
plugin chain (ExternalName targets, pod names, foreign names, odd headers).

What a name-level answer is (RFC 8020): a name that exists, or has anything below it, is NODATA for a type that
it lacks; any other name in the zone is NXDOMAIN for every type.
"""

from dns.rrtypes import Rcode, Type
from dns.wire import OPT, OPT_DO, OPT_SIZE, Answer, counts, question_of, soa_answer

UDP_PLAIN_LIMIT = 512
"""The largest UDP reply to a client that announced nothing (RFC 1035 §4.2.1)."""
STREAM_LIMIT = 65535
MAX_NAME = 255

_ONE_QUESTION = counts(0)
_QUESTION_AND_OPT = counts(0, 0, 1)
_OPT_START = b"\0\0\x29"
_CLASS_IN = b"\0\1"
_TRUNCATED = 0x02
_DEFERRED_TYPES = frozenset(kind.to_bytes(2, "big") for kind in (Type.AXFR, Type.IXFR, Type.OPT, 249, 250))
"""Transfers and meta types: never a look-up in the zone."""


def _plain_flags() -> dict[bytes, tuple[bytes, bytes]]:
    """Header flags of every ordinary query → those of its reply, for NOERROR and NXDOMAIN.

    Ordinary: QR clear, opcode QUERY. The reply is authoritative and copies RD and CD (CoreDNS does so).
    """
    table = {}
    for high in range(8):
        for low in range(256):
            first, second = 0x84 | high & 1, low & 0x10
            table[bytes((high, low))] = (bytes((first, second)), bytes((first, second | Rcode.NXDOMAIN)))
    return table


PLAIN_FLAGS = _plain_flags()


class AnswerTable:
    """Answers of one kubernetes plugin instance. Changed and read on one thread."""

    def __init__(self, zones: tuple[bytes, ...], *, rotate: bool = False) -> None:
        self.zones = tuple(sorted(zones, key=len, reverse=True))
        """Forward zones in wire form, the longest first."""
        self.rotate = rotate
        """Whether address sets start at another record with every query (loadbalance round_robin)."""
        self.answers: dict[bytes, Answer] = {}
        self.names: dict[bytes, int] = {}
        """Owner (wire, lower case) → how many contributions it has; also empty non-terminals."""
        self.deferred: set[bytes] = set()
        """Names and zone suffixes that the plugin chain decides: ExternalName owners, pod zones."""
        self.denies = False
        """Whether an absent name is NXDOMAIN: everything is known and nothing falls through."""
        self._turn = 0
        self._soa: dict[tuple[bytes, int], Answer] = {}
        self._soa_fields = (0, 0)

    def set_soa(self, serial: int, ttl: int) -> None:
        """Say which serial and TTL the zones' SOA has from now on."""
        self._soa_fields = (serial, ttl)
        self._soa.clear()
        for zone in self.zones:
            self.answers[question_of(zone, Type.SOA)] = soa_answer(zone, zone, serial, ttl, authority=False)

    def denial(self, zone: bytes, name: bytes) -> Answer:
        """Return the SOA that says no about a name of a zone."""
        key = (zone, len(name))
        found = self._soa.get(key)
        if found is None:
            serial, ttl = self._soa_fields
            found = self._soa[key] = soa_answer(zone, name, serial, ttl)
        return found

    def respond(self, packet: bytes, stream: bool = False) -> bytes | None:
        """Return the reply to an ordinary query, None when the plugin chain must see it. Never raises."""
        flags = PLAIN_FLAGS.get(packet[2:4])
        if flags is None:
            return None
        head = packet[4:12]
        if head == _ONE_QUESTION:
            question, opt, limit = packet[12:], b"", UDP_PLAIN_LIMIT
        elif (
            head == _QUESTION_AND_OPT
            and packet[-11:-8] == _OPT_START
            and packet[-5] == packet[-2] == packet[-1] == 0
        ):
            question = packet[12:-OPT_SIZE]
            opt = OPT_DO if packet[-4] & 0x80 else OPT
            limit = max(UDP_PLAIN_LIMIT, packet[-8] << 8 | packet[-7])
        else:
            return None
        key = question.lower()
        answer = self.answers.get(key)
        if answer is not None:
            flag = flags[0]
        else:
            decided = self._absent(key)
            if decided is None:
                return None
            answer, exists = decided
            flag = flags[0] if exists else flags[1]
        tail = answer.tail
        if answer.stride and self.rotate:
            self._turn = turn = self._turn + answer.stride
            at = turn % len(tail)
            tail = tail[at:] + tail[:at]
        reply = packet[:2] + flag + (answer.counts_opt if opt else answer.counts) + question + tail + opt
        if len(reply) > limit and (not stream or len(reply) > STREAM_LIMIT):
            room = (STREAM_LIMIT if stream else limit) - 12 - len(question) - len(opt)
            return packet[:2] + _cut(flag, question, answer.ends, answer.counts, tail, room, opt)
        return reply

    def _absent(self, key: bytes) -> tuple[Answer, bool] | None:
        """Decide on a question that has no answer: (proof, whether the name exists), or None: not ours."""
        name = key[:-4]
        for zone in self.zones:
            if name.endswith(zone):
                break
        else:
            return None
        if key[-2:] != _CLASS_IN or key[-4:-2] in _DEFERRED_TYPES or not is_name(name, zone):
            return None
        if name in self.names:
            return None if name in self.deferred else (self.denial(zone, name), True)
        if not self.denies or self._is_deferred(name, len(zone)):
            return None
        return self.denial(zone, name), False

    def _is_deferred(self, name: bytes, zone_size: int) -> bool:
        """Say whether the label right below the zone is one that the plugin chain decides (`pod`)."""
        if not self.deferred:
            return False
        at = 0
        while len(name) - at > zone_size:
            if name[at:] in self.deferred:
                return True
            at += name[at] + 1
        return False


def is_name(name: bytes, zone: bytes) -> bool:
    """Say whether bytes that end with a zone's wire form are one well-formed name in that zone."""
    end = len(name) - len(zone)
    at = 0
    while at < end:
        size = name[at]
        if not 0 < size < 64:
            return False
        at += size + 1
    return at == end and len(name) <= MAX_NAME


def _cut(
    flag: bytes, question: bytes, ends: tuple[int, ...], plain: bytes, tail: bytes, room: int, opt: bytes
) -> bytes:
    """Make a reply fit: first Additional goes, silently; when answers must go too, TC says so."""
    kept = sum(end <= room for end in ends)
    total = int.from_bytes(plain[2:4], "big")
    size = ends[kept - 1] if kept else 0
    if kept < total:
        flag = bytes((flag[0] | _TRUNCATED, flag[1]))
    return flag + counts(kept, 0, 1 if opt else 0) + question + tail[:size] + opt
