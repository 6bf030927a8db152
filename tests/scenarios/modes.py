"""The modes that the table runs in, and how each makes its backend; the words are those of a probe's line."""

import errno
from collections.abc import Callable
from functools import partial

from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.ipvs.machine import ipvs_backend
from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.netlink import NetlinkError
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.xtables import has_nft, nft_has_match
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import Record


class Mode(Record, frozen=True, kw_only=True):
    """One way of programming the kernel."""

    word: str
    """What a probe's line calls it."""
    backend: Callable[[Family], Backend]
    """Makes a backend; called, as all of its methods, on a thread in the node's namespace."""
    close: Callable[[Family], None]
    """Lets nothing into or through the node but answers, and what a later rule in the same place accepts."""
    exists: Callable[[], bool]
    """Whether the kernel of this machine has it."""


def _iptables(flavour: Flavour) -> Callable[[Family], Backend]:
    return lambda family: IptablesBackend(
        Iptables(SystemExec(), family, flavour), Ipset(family), ProcSysctls(), family, Nfacct()
    )


def _closed(flavour: Flavour) -> Callable[[Family], None]:
    def close(family: Family) -> None:
        icmp = "icmp" if family is Family.V4 else "ipv6-icmp"
        answers = "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        rules = (f"-A INPUT -p {icmp} -j ACCEPT", "-A INPUT -i lo -j ACCEPT", f"-A INPUT {answers}")
        text = "\n".join(
            ("*filter", ":INPUT DROP [0:0]", ":FORWARD DROP [0:0]", *rules, f"-A FORWARD {answers}", "COMMIT\n")
        )
        Iptables(SystemExec(), family, flavour).restore(text)

    return close


def _ipvs(flavour: Flavour | None) -> Callable[[Family], Backend]:
    return lambda family: ipvs_backend(family, flavour, IpvsSettings())


def _has(flavour: Flavour) -> bool:
    try:
        return flavour is Flavour.LEGACY or (has_nft() and nft_has_match(Family.V4, "comment"))
    except NetlinkError:
        return True  # who may not ask may not run it either, and is told so then


IPTABLES = {
    f"iptables-{flavour}": Mode(
        word="iptables", backend=_iptables(flavour), close=_closed(flavour), exists=partial(_has, flavour)
    )
    for flavour in Flavour
}


def _nftables(family: Family) -> Backend:
    return NftablesBackend(KernelTable(family), ProcSysctls(), family)


def _has_nf_tables() -> bool:
    try:
        KernelTable(Family.V4).exists()
    except Refused as refused:
        return refused.code == errno.EPERM  # who may not ask may not run it either, and is told so then
    return True


def _has_both() -> bool:
    return Ipvs().available() and _has_nf_tables()


IPVS = Mode(
    word="ipvs", backend=_ipvs(Flavour.LEGACY), close=_closed(Flavour.LEGACY), exists=lambda: Ipvs().available()
)
NFTABLES = Mode(word="nftables", backend=_nftables, close=_closed(Flavour.LEGACY), exists=_has_nf_tables)
MODES = IPTABLES | {"ipvs": IPVS, "nftables": NFTABLES}
ON_BOTH = {
    "ipvs-nft": Mode(word="ipvs", backend=_ipvs(Flavour.NFT), close=_closed(Flavour.NFT), exists=_has_both),
    "ipvs-without-iptables": Mode(
        word="ipvs", backend=_ipvs(None), close=_closed(Flavour.LEGACY), exists=_has_both
    ),
}
"""Ways of ipvs mode that a kernel with nftables has too."""
ALL = MODES | ON_BOTH
