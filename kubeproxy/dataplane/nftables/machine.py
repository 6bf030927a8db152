"""The nftables backend over this machine's real kernel, and what tells it of others' changes."""

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.sets import DYNAMIC
from kubeproxy.dataplane.nftables.watch import Commits
from kubeproxy.kernel.nf_tables.base import NAME
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.notice_messages import TableNotice
from kubeproxy.kernel.notices import HintSource, TableNotices
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family


def nftables_backend(family: Family, commits: Commits, writers: Writers, journal: Journal) -> NftablesBackend:
    """Return the backend of one family.

    ``commits``: of both, ``writers`` get to know its socket, ``journal``: what is heard of others' changes.
    """
    return NftablesBackend(KernelTable(family, writers=writers), ProcSysctls(), family, commits, journal)


def nftables_hints(family: Family, writers: Writers, journal: Journal) -> tuple[HintSource, ...]:
    """Return what tells of changes by others than ``writers``, and notes them."""
    return (TableNotices(family, NAME.encode(), _in_our_table, writers, journal=journal),)


def _in_our_table(change: TableNotice) -> str:
    if change.table != NAME:
        return ""
    if change.what == "table":
        return f"table {NAME} was {'deleted' if change.is_gone else 'made or altered'}"
    if change.what == "element" and change.name in DYNAMIC:
        return ""  # packets fill it
    verb = "deleted" if change.is_gone else "added"
    where = f"of {change.name}" if change.what in ("rule", "element") else change.name
    return f"{change.what} {where} in table {NAME} was {verb}"
