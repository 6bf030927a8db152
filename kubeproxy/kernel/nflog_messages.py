"""Messages of nfnetlink_log, by which legacy tables' TRACE target speaks. Pure.

Numbers are those of linux/netfilter/nfnetlink_log.h; the prefix is net/ipv4/netfilter/ip_tables.c's:
`TRACE: table:chain:kind:number `.
"""

import contextlib
import re
import struct
from collections.abc import Iterator

import msgspec

from kubeproxy.kernel.netlink_messages import attribute, attributes, decode_text, messages, netfilter_head
from kubeproxy.model.addresses import Family

SUBSYSTEM = 4 << 8
MSG_PACKET, MSG_CONFIG = SUBSYSTEM | 0, SUBSYSTEM | 1
GROUP = 0
"""Where the kernel logs what nobody gave a group."""
COPY_BYTES = 128

_CFG_CMD, _CFG_MODE = 1, 2
_CMD_BIND, _CMD_PF_BIND, _COPY_PACKET = 1, 3, 2
_PAYLOAD, _PREFIX = 9, 10
_TRACE = re.compile(r"TRACE: (?P<table>\S+?):(?P<chain>.+):(?P<kind>rule|return|policy):(?P<number>\d+) ?")


class LegacyTrace(msgspec.Struct, frozen=True, kw_only=True):
    """A packet met a rule, or came to the end of a chain."""

    table: str
    chain: str
    kind: str
    number: int
    """Which rule of the chain, from 1; for the end of a chain, one more than the last."""
    packet: bytes
    """The packet's beginning."""


def encode_binding(family: Family) -> Iterator[bytes]:
    """Yield the bodies that make a socket the listener of the default group."""
    yield _config(family, attribute(_CFG_CMD, bytes([_CMD_PF_BIND])))
    yield _config(None, attribute(_CFG_CMD, bytes([_CMD_BIND])))
    yield _config(None, attribute(_CFG_MODE, struct.pack("!IBB", COPY_BYTES, _COPY_PACKET, 0)))


def _config(family: Family | None, attributes: bytes) -> bytes:
    return netfilter_head(family, GROUP) + attributes


def decode_packets(data: bytes) -> Iterator[LegacyTrace]:
    """Decode a datagram; what no TRACE target logged is passed over."""
    with contextlib.suppress(ValueError):
        for kind, _, _, body in messages(data):
            values = dict(attributes(body[4:]))
            match = _TRACE.fullmatch(decode_text(values.get(_PREFIX, b"")))
            if kind == MSG_PACKET and match is not None:
                yield LegacyTrace(
                    table=match["table"],
                    chain=match["chain"],
                    kind=match["kind"],
                    number=int(match["number"]),
                    packet=values.get(_PAYLOAD, b""),
                )
