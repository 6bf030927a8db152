"""The iptables backend over this machine's real kernel, and what tells it of others' changes."""

from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.edits import MARK, Edits
from kubeproxy.dataplane.iptables.tables import CHAINS, JUMPS, is_ours
from kubeproxy.dataplane.iptables.told import Told
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.notices import LOST_FOR_GOOD, HintSource, TableNotices
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family


def iptables_backend(family: Family, flavour: Flavour, writers: Writers, told: Told) -> IptablesBackend:
    """Return the backend of one family.

    ``writers`` get to know its programs, if anybody listens for others'; ``told``: what is heard of these.
    """
    is_told = flavour is Flavour.NFT
    tables = Iptables(SystemExec(writers if is_told else None), family, flavour)
    return IptablesBackend(tables, Ipset(family), ProcSysctls(), family, Nfacct(), told if is_told else None)


def others_changes() -> Told:
    """Return what notes others' changes of one family, of which nothing was told yet."""
    return Told(_CONCERNS)


def iptables_hints(family: Family, flavour: Flavour, writers: Writers, told: Told) -> tuple[HintSource, ...]:
    """Return what tells of changes by others than ``writers``; iptables-legacy tells of nothing."""
    if flavour is Flavour.LEGACY:
        return ()
    # A look would find a table that was flushed, and no rule that was changed.
    return (TableNotices(family, MARK, _CONCERNS, writers, LOST_FOR_GOOD, told),)


_CONCERNS = Edits(CHAINS, is_ours, JUMPS)
