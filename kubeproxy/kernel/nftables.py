"""nftables' tables, through the kernel's own socket: `nft` need not be installed. Blocking."""

import contextlib
import errno

from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nf_tables.types import Change, DeleteTable, FlushChain
from kubeproxy.model.addresses import Family

_ABSENT = (errno.ENOENT, errno.EOPNOTSUPP)
"""How the kernel says that there is no such table, or no nf_tables at all."""


class Nftables:
    """The tables of the network namespace of the calling thread."""

    def delete_table(self, family: Family, name: str) -> bool:
        """Delete a table of family `ip` or `ip6`; return whether there was one. Raises Refused, OSError."""
        return _change(family, name, DeleteTable())

    def flush_chain(self, family: Family, table: str, chain: str) -> bool:
        """Delete a chain's rules; return whether there was such a chain. Raises Refused, OSError."""
        return _change(family, table, FlushChain(chain))


def _change(family: Family, name: str, change: Change) -> bool:
    with contextlib.closing(KernelTable(family, name)) as table:
        try:
            table.commit([change])
        except Refused as error:
            if error.code not in _ABSENT:
                raise
            return False
    return True
