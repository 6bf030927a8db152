"""The addresses of this machine, asked of the kernel in microseconds: the agent loads no pyroute2 for it."""

import struct
from ipaddress import ip_address

from kubeproxy.kernel.netlink import NetlinkSocket
from kubeproxy.kernel.netlink_messages import AF, NETLINK_ROUTE, NLM_F_DUMP, attributes
from kubeproxy.model.addresses import Family

_RTM_GETADDR = 22
_IFADDRMSG = struct.Struct("=BBBBI")
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def local_addresses(family: Family) -> tuple[str, ...]:
    """Return the addresses that one may bind to without naming an interface. Raises KernelError, OSError."""
    with NetlinkSocket(NETLINK_ROUTE) as netlink:
        answers = netlink.request(_RTM_GETADDR, NLM_F_DUMP, _IFADDRMSG.pack(AF[family], 0, 0, 0, 0), "addresses")
    found = []
    for answer in answers:
        kind = _IFADDRMSG.unpack_from(answer)[0]
        values = dict(attributes(answer[_IFADDRMSG.size :]))
        packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
        if kind != AF[family] or packed is None:
            continue
        address = ip_address(packed)
        if not (family is Family.V6 and address.is_link_local):
            found.append(str(address))
    return tuple(found)
