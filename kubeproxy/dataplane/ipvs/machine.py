"""The ipvs backend over this machine's real kernel."""

from functools import partial

from kubeproxy.dataplane.iptables.edits import MARK, Edits
from kubeproxy.dataplane.ipvs.backend import IpvsBackend
from kubeproxy.dataplane.ipvs.names import DEVICE, NFT_TABLE
from kubeproxy.dataplane.ipvs.nft_writer import NftRuleWriter
from kubeproxy.dataplane.ipvs.openings import Openings
from kubeproxy.dataplane.ipvs.rule_writer import RuleWriter
from kubeproxy.dataplane.ipvs.rulebook import Rulebook
from kubeproxy.dataplane.ipvs.rules import CHAINS, JUMPS, is_ours
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.kernel.exec import SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.ipvs import Ipvs
from kubeproxy.kernel.local_addresses import local_addresses
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.notice_messages import TableNotice
from kubeproxy.kernel.notices import LOST_FOR_GOOD, AddressNotices, HintSource, TableNotices
from kubeproxy.kernel.sets import Sets
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.kernel.virtual_addresses import VirtualAddresses
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings


class Writing:
    """What one family's backend and who listens to the kernel must know of each other.

    Through which ports it writes, so that these are told from others', and how often listening began.
    """

    def __init__(self) -> None:
        self.programs, self.routes = Writers(), Writers()
        self.openings = Openings()


def ipvs_hints(family: Family, flavour: Flavour | None, writing: Writing) -> tuple[HintSource, ...]:
    """Return what tells of others' changes; IPVS, ipsets and iptables-legacy tell of nothing."""
    addresses = AddressNotices(family, DEVICE, writing.routes)
    match flavour:
        case Flavour.LEGACY:
            return (addresses,)
        case Flavour.NFT:
            # A look would find a table that was flushed, and no rule that was changed.
            edits = Edits(CHAINS, is_ours, JUMPS)
            return (
                addresses,
                TableNotices(family, MARK, edits, writing.programs, LOST_FOR_GOOD, writing.openings),
            )
        case None:
            return (addresses, TableNotices(family, NFT_TABLE.encode(), _in_our_table, writing.programs))


def _in_our_table(change: TableNotice) -> str:
    return f"nftables table {NFT_TABLE} was changed" if change.table == NFT_TABLE else ""


def ipvs_backend(
    family: Family,
    flavour: Flavour | None,
    settings: IpvsSettings,
    replaced: Replaced | None = None,
    writing: Writing | None = None,
) -> IpvsBackend:
    """Return the backend of one family; ``flavour``: where its rules are, None for a table of nftables.

    ``replaced``: see `IpvsBackend`.
    """
    writing = writing or Writing()
    programs = None if flavour is Flavour.LEGACY else writing.programs  # as nobody listens to nf_tables then
    rules: Rulebook
    sets: Sets
    past: Sets | None = None
    if flavour is None:
        table = KernelTable(family, NFT_TABLE, programs)
        rules = NftRuleWriter(table, ProcSysctls())
        sets, past = NftSets(table), Ipset(family)
    else:
        tables = Iptables(SystemExec(programs), family, flavour)
        rules = RuleWriter(tables, ProcSysctls(), Nfacct(), writing.openings if flavour is Flavour.NFT else None)
        sets = Ipset(family)
        past = NftSets(KernelTable(family, NFT_TABLE, programs))
    return IpvsBackend(
        rules,
        sets,
        Ipvs(),
        VirtualAddresses(family, writers=writing.routes),
        ProcSysctls(),
        family,
        settings,
        partial(local_addresses, family),
        past,
        replaced,
    )
