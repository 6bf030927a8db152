"""The modes that the table runs in, and how each makes its backend; the words are those of a probe's line."""

from collections.abc import Callable

from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record


class Mode(Record, frozen=True, kw_only=True):
    """One way of programming the kernel."""

    word: str
    """What a probe's line calls it."""
    backend: Callable[[Family], Backend]
    """Makes a backend; called, as all of its methods, on a thread in the node's namespace."""


def _iptables(flavour: Flavour) -> Callable[[Family], Backend]:
    return lambda family: IptablesBackend(
        Iptables(SystemExec(), family, flavour), Ipset(family), ProcSysctls(), family, Nfacct()
    )


MODES = {
    "iptables-legacy": Mode(word="iptables", backend=_iptables(Flavour.LEGACY)),
    "iptables-nft": Mode(word="iptables", backend=_iptables(Flavour.NFT)),
}
