"""Steps of a transaction, to the messages of one batch, or of several where the caller allows it. Pure.

A batch is one datagram: a message that opens it, the changes, and one that closes it. The kernel does all of it or
nothing, and says of each message that it refuses which one that was, by the sequence number.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kubeproxy.kernel.netlink_messages import (
    HEADER,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    message,
    netfilter_head,
)
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.attributes import u32
from kubeproxy.kernel.nf_tables.element_messages import encode_elements
from kubeproxy.kernel.nf_tables.numbers import BATCH_BEGIN, BATCH_END, BATCH_GENERATION, SUBSYSTEM, Message
from kubeproxy.kernel.nf_tables.object_messages import (
    encode_chain,
    encode_chain_name,
    encode_elements_of,
    encode_rule,
    encode_rules_of,
    encode_set,
    encode_set_name,
    encode_table,
    encode_table_name,
)
from kubeproxy.model.addresses import Family

_APPEND = 0x800
_EDGE = netfilter_head(None, SUBSYSTEM >> 8)
_EDGES_BYTES = 2 * (HEADER.size + len(_EDGE)) + 8
"""Of what opens and closes a batch."""


class Part(NamedTuple):
    """One message of a batch."""

    change: int
    """Index of the step that it is of."""
    first: int
    """Index of the first of the step's elements that are in it."""
    kind: int
    flags: int
    body: bytes


class TooLarge(Exception):
    """A transaction that must not be split does not fit into one datagram."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size:,} bytes")
        self.size = size


def encode(family: Family, table: str, changes: Iterable[t.Change]) -> Iterator[Part | None]:
    """Yield the messages of steps; None where one transaction may end and the next begin."""
    for index, change in enumerate(changes):
        if isinstance(change, t.Split):
            yield None
            continue
        for first, kind, flags, body in _encoded(family, table, change, index):
            yield Part(index, first, kind, flags, body)


_Encoded = tuple[int, int, int, bytes]


def _encoded(family: Family, table: str, change: t.Change, index: int) -> Iterator[_Encoded]:
    match change:
        case t.AddElements(name, elements):
            for first, body in encode_elements(family, table, name, elements):
                yield first, Message.NEW_ELEMENTS, NLM_F_CREATE, body
        case t.DeleteElements(name, elements):
            for first, body in encode_elements(family, table, name, elements, keys_only=True):
                yield first, Message.DELETE_ELEMENTS, 0, body
        case _:
            kind, flags, body = _one(family, table, change, index)
            yield 0, kind, flags, body


def _one(family: Family, table: str, change: t.Change, index: int) -> tuple[int, int, bytes]:
    match change:
        case t.AddTable(comment, dormant):
            return Message.NEW_TABLE, NLM_F_CREATE, encode_table(family, table, comment, dormant=dormant)
        case t.DeleteTable():
            return Message.DELETE_TABLE, 0, encode_table_name(family, table)
        case t.AddChain(chain):
            return Message.NEW_CHAIN, NLM_F_CREATE, encode_chain(family, table, chain)
        case t.FlushChain(name):
            return Message.DELETE_RULE, 0, encode_rules_of(family, table, name)
        case t.DeleteChain(name):
            return Message.DELETE_CHAIN, 0, encode_chain_name(family, table, name)
        case t.AddRule(rule):
            return Message.NEW_RULE, NLM_F_CREATE | _APPEND, encode_rule(family, table, rule)
        case t.AddSet(spec):
            return Message.NEW_SET, NLM_F_CREATE, encode_set(family, table, spec, index + 1)
        case t.FlushSet(name):
            return Message.DELETE_ELEMENTS, 0, encode_elements_of(family, table, name)
        case t.DeleteSet(name):
            return Message.DELETE_SET, 0, encode_set_name(family, table, name)
        case _:
            raise TypeError(f"{type(change).__name__} is no step of a transaction")


def transactions(parts: Iterable[Part | None], most_bytes: int) -> Iterator[list[Part]]:
    """Put messages together to as few transactions of at most so many bytes as they fit into. Raises TooLarge."""
    gathered: list[Part] = []
    size = 0
    for group in _groups(parts):
        group_bytes = sum(_bytes(part) for part in group)
        if group_bytes + _EDGES_BYTES > most_bytes:
            raise TooLarge(group_bytes)
        if gathered and size + group_bytes + _EDGES_BYTES > most_bytes:
            yield gathered
            gathered, size = [], 0
        gathered += group
        size += group_bytes
    if gathered:
        yield gathered


def _groups(parts: Iterable[Part | None]) -> Iterator[list[Part]]:
    group: list[Part] = []
    for part in parts:
        if part is not None:
            group.append(part)
        elif group:
            yield group
            group = []
    if group:
        yield group


def _bytes(part: Part) -> int:
    return HEADER.size + (len(part.body) + 3) & ~3


def datagram(parts: Sequence[Part], first: int, generation: int | None = None) -> bytes:
    """Encode a batch; its messages are numbered from ``first``, which opens it, to ``first + len(parts) + 1``.

    The last of the changes is answered whatever becomes of it. With ``generation`` the kernel refuses all of it
    (ERESTART) unless that is the number of the last transaction.
    """
    only_after = u32(BATCH_GENERATION, generation) if generation is not None else b""
    found = [message(BATCH_BEGIN, NLM_F_REQUEST, first, _EDGE + only_after)]
    last = len(parts)
    for number, part in enumerate(parts, 1):
        flags = part.flags | NLM_F_REQUEST | (NLM_F_ACK if number == last else 0)
        found.append(message(part.kind, flags, first + number, part.body))
    found.append(message(BATCH_END, NLM_F_REQUEST, first + last + 1, _EDGE))
    return b"".join(found)
