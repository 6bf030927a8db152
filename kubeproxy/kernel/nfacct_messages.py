"""Messages about nfacct objects, packet counters that rules of both families and flavours may share. Pure.

Numbers are those of linux/netfilter/nfnetlink_acct.h.
"""

from kubeproxy.kernel.netlink_messages import attributes, netfilter_head, text_attribute

SUBSYSTEM = 7 << 8
CMD_NEW, CMD_GET, CMD_DELETE = 0, 1, 3
ATTR_NAME, ATTR_PACKETS = 1, 2

NAME_MAX = 31
"""Bytes that a name may have."""


def encode_name(name: str) -> bytes:
    """Encode the body of a message that makes or asks for a counter."""
    if not 0 < len(name.encode()) <= NAME_MAX:
        raise ValueError(f"{name!r}: a counter's name has 1 to {NAME_MAX} bytes")
    return netfilter_head(None) + text_attribute(ATTR_NAME, name)


def decode_packets(body: bytes) -> int:
    """Decode the answer to a question for a counter: how many packets it has seen."""
    return int.from_bytes(dict(attributes(body[4:]))[ATTR_PACKETS], "big")
