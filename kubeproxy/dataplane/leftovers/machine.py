"""This machine's real kernel, as far as a proxy may have left something in it."""

from collections.abc import Mapping
from functools import cache

from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.dataplane.leftovers.removal import Kernel
from kubeproxy.kernel.conntrack import KernelConntrack
from kubeproxy.kernel.devices import Devices
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.nftables import Nftables
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.virtual_addresses import VirtualAddresses
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family


def whole_kernel(programs: Mapping[Family, Writers] | None = None) -> Kernel:
    """Return it; it is that of the network namespace of the thread that uses it.

    ``programs`` get to know its iptables-nft: who listens for others' changes of a family knows ours by them.
    """
    writers = programs or {}

    def tables(family: Family, flavour: Flavour) -> Iptables:
        return Iptables(SystemExec(writers.get(family) if flavour is Flavour.NFT else None), family, flavour)

    return Kernel(
        tables=tables,
        sets=Ipset,
        nftables=Nftables(),
        devices=Devices(),
        servers=Ipvs(),
        addresses=cache(VirtualAddresses),
        conntrack=KernelConntrack,
        counters=Nfacct(),
        sysctls=ProcSysctls(),
        local_addresses=local_addresses,
        nft_table=_nft_table,
    )


def _nft_table(family: Family) -> NfTable:
    return KernelTable(family, NFT_TABLE)
