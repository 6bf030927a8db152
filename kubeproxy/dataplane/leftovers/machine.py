"""This machine's real kernel, as far as a proxy may have left something in it."""

from functools import partial

from kubeproxy.dataplane.leftovers.removal import Kernel
from kubeproxy.kernel.devices import Devices
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Iptables
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.nftables import Nftables
from kubeproxy.kernel.sysctl import ProcSysctls


def whole_kernel() -> Kernel:
    """Return it; it is that of the network namespace of the thread that uses it."""
    return Kernel(
        tables=partial(Iptables, SystemExec()),
        sets=Ipset,
        nftables=Nftables(),
        devices=Devices(),
        ipvs=Ipvs(),
        counters=Nfacct(),
        sysctls=ProcSysctls(),
    )
