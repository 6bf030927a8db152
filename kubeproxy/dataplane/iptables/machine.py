"""The iptables backend over this machine's real kernel, and what tells it of others' changes."""

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.edits import MARK, Edits
from kubeproxy.dataplane.iptables.tables import CHAINS, JUMPS, is_ours
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.notices import LOST_FOR_GOOD, HintSource, TableNotices
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family


def iptables_backend(family: Family, flavour: Flavour, writers: Writers) -> IptablesBackend:
    """Return the backend of one family; ``writers`` get to know its programs, if anybody listens for others'."""
    tables = Iptables(SystemExec(None if flavour is Flavour.LEGACY else writers), family, flavour)
    is_told = flavour is Flavour.NFT
    return IptablesBackend(tables, Ipset(family), ProcSysctls(), family, Nfacct(), is_told=is_told)


def iptables_hints(family: Family, flavour: Flavour, writers: Writers) -> tuple[HintSource, ...]:
    """Return what tells of changes by others than ``writers``; iptables-legacy tells of nothing."""
    if flavour is Flavour.LEGACY:
        return ()
    # A look would find a table that was flushed, and no rule that was changed.
    return (TableNotices(family, MARK, Edits(CHAINS, is_ours, JUMPS), writers, LOST_FOR_GOOD),)
