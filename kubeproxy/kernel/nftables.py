"""nftables' tables, through the kernel's own socket: `nft` need not be installed. Blocking."""

import errno

from kubeproxy.kernel.netlink import NetlinkError, NetlinkSocket
from kubeproxy.kernel.netlink_messages import NETLINK_NETFILTER
from kubeproxy.kernel.nftables_messages import encode_delete_table
from kubeproxy.model.addresses import Family

_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP)
"""How the kernel says that there is no such table, or no nf_tables at all."""


class Nftables:
    """The tables of the network namespace of the calling thread."""

    def delete_table(self, family: Family, name: str) -> bool:
        """Delete a table of family `ip` or `ip6`; return whether there was one. Raises NetlinkError, OSError."""
        with NetlinkSocket(NETLINK_NETFILTER) as netlink:
            try:
                netlink.exchange(
                    lambda sequence: encode_delete_table(family, name, sequence), f"nftables table {name}"
                )
            except NetlinkError as error:
                if error.code not in _ABSENT:
                    raise
                return False
        return True
