"""Messages of generic netlink: what each begins with, and questions to its controller. Pure.

A generic family has no fixed number, so the controller is asked for it first. Numbers are those of
linux/genetlink.h.
"""

import struct

from kubeproxy.kernel.netlink_messages import attributes, text_attribute

NETLINK_GENERIC = 16
CONTROLLER = 16
"""The one family whose number is fixed."""

HEAD_BYTES = 4
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_CONTROLLER_VERSION = 1


def generic_head(command: int, version: int) -> bytes:
    """Encode what the body of every message begins with (struct genlmsghdr)."""
    return struct.pack("=BBH", command, version, 0)


def encode_family(name: str) -> bytes:
    """Encode the question to the controller which number a family has."""
    return generic_head(_GET_FAMILY, _CONTROLLER_VERSION) + text_attribute(_FAMILY_NAME, name)


def decode_family(body: bytes) -> int:
    """Return the number from the controller's answer; 0 when it holds none."""
    found = dict(attributes(body[HEAD_BYTES:])).get(_FAMILY_ID, b"\0\0")
    return int(struct.unpack("=H", found[:2])[0])
