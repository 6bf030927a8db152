"""Which way the kernel would send a packet: one question of rtnetlink, both families, no pyroute2."""

import socket
import struct
from ipaddress import ip_address

import msgspec

from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import AF, NETLINK_ROUTE, attribute, attributes
from kubeproxy.model.addresses import family_of

_RTM_GETROUTE = 26
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTA_DST, _RTA_OIF, _RTA_PREFSRC = 1, 4, 7
_RTN_LOCAL = 2


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What the routing table says of one destination."""

    interface: str
    source: str
    """The address that a process of this node speaks from; "" when the kernel names none."""
    local: bool
    """Whether the destination is this node."""


def way_to(address: str) -> Way | None:
    """Return how to reach a canonical address, None when there is no route. Raises OSError."""
    family = family_of(address)
    packed = ip_address(address).packed
    head = _RTMSG.pack(AF[family], family.host_bits, 0, 0, 0, 0, 0, 0, 0)
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        try:
            answers = netlink.request(_RTM_GETROUTE, 0, head + attribute(_RTA_DST, packed), "route")
        except NetlinkError:
            return None
    for answer in answers:
        kind = _RTMSG.unpack_from(answer)[7]
        values = dict(attributes(answer[_RTMSG.size :]))
        if _RTA_OIF in values:
            source = values.get(_RTA_PREFSRC)
            return Way(
                interface=socket.if_indextoname(struct.unpack("=I", values[_RTA_OIF])[0]),
                source=str(ip_address(source)) if source else "",
                local=kind == _RTN_LOCAL,
            )
    return None
