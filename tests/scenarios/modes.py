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
    close: Callable[[Family], None]
    """Lets nothing into or through the node but answers, and what a later rule in the same place accepts."""


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


MODES = {
    f"iptables-{flavour}": Mode(word="iptables", backend=_iptables(flavour), close=_closed(flavour))
    for flavour in Flavour
}
