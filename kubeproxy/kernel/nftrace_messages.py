"""Messages of nf_tables' packet tracing. Pure.

Numbers are those of linux/netfilter/nf_tables.h.
"""

import contextlib
from collections.abc import Iterator

import msgspec

from kubeproxy.kernel.netlink_messages import attributes, decode_text, messages

GROUP_NFTRACE = 9
SUBSYSTEM = 10 << 8
MSG_TRACE = SUBSYSTEM | 17

_TABLE, _CHAIN, _RULE_HANDLE, _TYPE, _VERDICT, _ID = 1, 2, 3, 4, 5, 6
_VERDICT_CODE = 1
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
    with contextlib.suppress(ValueError):
        for kind, _, _, body in messages(data):
            if kind == MSG_TRACE and body:
                yield _event(body)


def _event(body: bytes) -> TraceEvent:
    values = dict(attributes(body[4:]))
    verdict = dict(attributes(values.get(_VERDICT, b"")))
    code = int.from_bytes(verdict.get(_VERDICT_CODE, b""), "big", signed=True) if verdict else None
    return TraceEvent(
        packet=int.from_bytes(values.get(_ID, b""), "big"),
        family=body[0],
        table=decode_text(values.get(_TABLE, b"")),
        chain=decode_text(values.get(_CHAIN, b"")),
        kind=_KINDS.get(int.from_bytes(values.get(_TYPE, b""), "big"), "?"),
        handle=int.from_bytes(values.get(_RULE_HANDLE, b""), "big"),
        verdict="" if code is None else _VERDICTS.get(code, str(code)),
    )
