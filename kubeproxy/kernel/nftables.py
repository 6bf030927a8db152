"""nftables' tables, through the kernel's own socket: `nft` need not be installed. Blocking."""

import contextlib
import errno

from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import DeleteTable
from kubeproxy.model.addresses import Family

_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP)
"""How the kernel says that there is no such table, or no nf_tables at all."""


class Nftables:
    """The tables of the network namespace of the calling thread."""

    def delete_table(self, family: Family, name: str) -> bool:
        """Delete a table of family `ip` or `ip6`; return whether there was one. Raises Refused, OSError."""
        with contextlib.closing(KernelTable(family, name)) as table:
            try:
                table.commit([DeleteTable()])
            except Refused as error:
                if error.code not in _ABSENT:
                    raise
                return False
        return True
