"""nfacct counters: made for rules to count in (`-m nfacct --nfacct-name NAME`), read when somebody asks.

A counter lives in the network namespace, has no owner and outlasts the rules; a cleanup deletes it.
"""

import errno

from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER, NLM_F_CREATE, NLM_F_EXCL
from kubeproxy.kernel.nfacct_messages import CMD_DELETE, CMD_GET, CMD_NEW, SUBSYSTEM, decode_packets, encode_name


class Nfacct:
    """The counters of the network namespace of the calling thread. Blocking, microseconds."""

    def ensure(self, name: str) -> None:
        """Make a counter unless it is there. Raises KernelError, OSError: a kernel may have none of them."""
        try:
            self._request(CMD_NEW, NLM_F_CREATE | NLM_F_EXCL, name)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise

    def packets(self, name: str) -> int | None:
        """Return how many packets a counter has seen, None when there is none of this name."""
        try:
            (answer,) = self._request(CMD_GET, 0, name)
        except (KernelError, OSError):
            return None
        return decode_packets(answer)

    def delete(self, name: str) -> bool:
        """Delete a counter unless a rule counts in it; return whether it is gone. Raises KernelError, OSError."""
        try:
            self._request(CMD_DELETE, 0, name)
        except NetlinkError as error:
            if error.code == errno.EBUSY:
                return False
            if error.code not in (errno.ENOENT, errno.EINVAL):  # no such counter; a kernel without any
                raise
        return True

    def _request(self, command: int, flags: int, name: str) -> list[bytes]:
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            return netlink.request(SUBSYSTEM | command, flags, encode_name(name), f"nfacct {name}")
