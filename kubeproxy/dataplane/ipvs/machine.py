"""The ipvs backend over this machine's real kernel."""

from functools import partial

from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.dataplane.ipvs.names import NFT_TABLE
from kubeproxy.dataplane.ipvs.nft_writer import NftRuleWriter
from kubeproxy.dataplane.ipvs.rule_writer import RuleWriter
from kubeproxy.dataplane.ipvs.rulebook import Rulebook
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.nft_sets import NftProgram, NftSets
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.virtual_addresses import VirtualAddresses
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings


def ipvs_backend(
    family: Family, flavour: Flavour | None, settings: IpvsSettings, replaced: Replaced | None = None
) -> IpvsBackend:
    """Return the backend of one family; ``flavour``: where its rules are, None for a table of nftables.

    ``replaced``: see `IpvsBackend`.
    """
    rules: Rulebook
    sets: Sets
    past: Sets | None = None
    if flavour is None:
        rules = NftRuleWriter(NftProgram(SystemExec()), family, ProcSysctls())
        sets, past = NftSets(SystemExec(), family, NFT_TABLE), Ipset(family)
    else:
        rules = RuleWriter(Iptables(SystemExec(), family, flavour), ProcSysctls(), Nfacct())
        sets = Ipset(family)
        if NftProgram(SystemExec()).is_installed():
            past = NftSets(SystemExec(), family, NFT_TABLE)
    return IpvsBackend(
        rules,
        sets,
        Ipvs(),
        VirtualAddresses(family),
        ProcSysctls(),
        family,
        settings,
        partial(local_addresses, family),
        past,
        replaced,
    )
