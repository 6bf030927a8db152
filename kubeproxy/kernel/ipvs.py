"""IPVS of the network namespace of the calling thread. Blocking."""

import errno

from kubeproxy.kernel.ipvs_messages import (
    CONTROLLER,
    NAME,
    NETLINK_GENERIC,
    decode_family,
    encode_family,
    encode_flush,
)
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket


def family_number(name: str) -> int:
    """Return a generic netlink family's number, 0 when the kernel has none of the name. Raises NetlinkError."""
    with NetlinkSocket(NETLINK_GENERIC) as netlink:
        try:
            answers = netlink.request(CONTROLLER, 0, encode_family(name), f"generic netlink family {name}")
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            return 0
    return decode_family(answers[0])


class Ipvs:
    """The kernel's load balancer."""

    def flush(self) -> bool:
        """Remove every virtual server; return False when this kernel has no IPVS. Raises NetlinkError, OSError.

        Asking makes a kernel that has IPVS as a module load it, so ask only where it has been in use.
        """
        number = family_number(NAME)
        if not number:
            return False
        with NetlinkSocket(NETLINK_GENERIC) as netlink:
            netlink.request(number, 0, encode_flush(), "IPVS virtual servers")
        return True
