"""The ipvs backend over this machine's real kernel."""

from functools import partial

from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.virtual_addresses import VirtualAddresses
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings


def ipvs_backend(family: Family, flavour: Flavour, settings: IpvsSettings) -> IpvsBackend:
    """Return the backend of one family; ``flavour`` says where its rules are."""
    return IpvsBackend(
        Iptables(SystemExec(), family, flavour),
        Ipset(family),
        Ipvs(),
        VirtualAddresses(family),
        ProcSysctls(),
        family,
        settings,
        partial(local_addresses, family),
        Nfacct(),
    )
