"""Messages of nf_tables' packet tracing, and of the rules that they name. Pure.

Numbers are those of linux/netfilter/nf_tables.h.
"""

import struct
from collections.abc import Iterator

import msgspec

from kubeproxy.kernel.netlink_messages import AF, HEADER, attribute, attributes
from kubeproxy.model.addresses import Family

GROUP_NFTRACE = 9
SUBSYSTEM = 10 << 8
MSG_GET_RULE, MSG_TRACE = SUBSYSTEM | 7, SUBSYSTEM | 17

_TABLE, _CHAIN, _RULE_HANDLE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6
_RULE_TABLE, _RULE_CHAIN, _HANDLE = 1, 2, 3
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_KINDS = {1: "policy", 2: "return", 3: "rule"}
_VERDICTS = {0: "drop", 1: "accept", -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"}


class TraceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A packet met a rule, or came to the end of a chain."""

    packet: int
    """The kernel's number of the packet: all events of one have the same."""
    family: int
    table: str
    chain: str
    kind: str
    """rule, return or policy."""
    handle: int = 0
    verdict: str = ""


def decode_events(data: bytes) -> Iterator[TraceEvent]:
    """Decode a datagram of the trace group; what is not about tracing is passed over."""
    offset = 0
    while offset + HEADER.size + 4 <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, offset)
        if length < HEADER.size + 4:
            return
        body = data[offset + HEADER.size : offset + length]
        offset += length + (-length % 4)
        if kind == MSG_TRACE:
            yield _event(body)


def _event(body: bytes) -> TraceEvent:
    values = dict(attributes(body[4:]))
    verdict = dict(attributes(values.get(_VERDICT, b"")))
    code = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big", signed=True) if verdict else None
    return TraceEvent(
        packet=int.from_bytes(values.get(_ID, b""), "big"),
        family=body[0],
        table=_text(values.get(_TABLE, b"")),
        chain=_text(values.get(_CHAIN, b"")),
        kind=_KINDS.get(int.from_bytes(values.get(_TYPE, b""), "big"), "?"),
        handle=int.from_bytes(values.get(_RULE_HANDLE, b""), "big"),
        verdict="" if code is None else _VERDICTS.get(code, str(code)),
    )


def encode_rules(family: Family, table: str, chain: str) -> bytes:
    """Encode the body of a dump of one chain's rules."""
    head = struct.pack("=BBH", AF[family], 0, 0)
    names = attribute(_RULE_TABLE, table.encode() + b"\0") + attribute(_RULE_CHAIN, chain.encode() + b"\0")
    return head + names


def decode_rule(body: bytes) -> tuple[str, str, int]:
    """Return table, chain and handle of a rule in a dump."""
    values = dict(attributes(body[4:]))
    handle = int.from_bytes(values.get(_HANDLE, b""), "big")
    return _text(values.get(_RULE_TABLE, b"")), _text(values.get(_RULE_CHAIN, b"")), handle


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="backslashreplace")
