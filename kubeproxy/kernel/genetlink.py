"""The controller of generic netlink, in the network namespace of the calling thread. Blocking."""

import errno

from kubeproxy.kernel.genetlink_messages import CONTROLLER, decode_family, encode_family
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket


def family_number(netlink: NetlinkSocket, name: str) -> int:
    """Return a generic netlink family's number, 0 when the kernel has none of the name.

    Asking makes the kernel load the module that has the family, where there is one. The number changes when the
    module is loaded anew. Raises NetlinkError, OSError.
    """
    try:
        answers = netlink.request(CONTROLLER, 0, encode_family(name), f"generic netlink family {name}")
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        return 0
    return decode_family(answers[0])
