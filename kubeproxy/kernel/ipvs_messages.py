"""Messages to IPVS by generic netlink, packed by hand. Pure.

A generic family has no fixed number: the controller is asked for it first. Numbers are those of
linux/genetlink.h and linux/ip_vs.h.
"""

import struct

from kubeproxy.kernel.netlink_messages import attributes, text_attribute

NETLINK_GENERIC = 16
CONTROLLER = 16
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_CONTROLLER_VERSION = 1
_FLUSH, _IPVS_VERSION = 17, 1
NAME = "IPVS"


def encode_family(name: str) -> bytes:
    """Encode the question to the controller which number a family has."""
    return struct.pack("=BBH", _GET_FAMILY, _CONTROLLER_VERSION, 0) + text_attribute(_FAMILY_NAME, name)


def decode_family(body: bytes) -> int:
    """Return the number from the controller's answer; 0 when it holds none."""
    found = dict(attributes(body[4:])).get(_FAMILY_ID, b"\0\0")
    return int(struct.unpack("=H", found[:2])[0])


def encode_flush() -> bytes:
    """Encode the body of the message that removes every virtual server with its destinations."""
    return struct.pack("=BBH", _FLUSH, _IPVS_VERSION, 0)
