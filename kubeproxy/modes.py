"""Which mode a node runs, and what each is made of: the one place that names more than one of them."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol

from kubeproxy.config.types import Configuration
from kubeproxy.config.validation import AUTO
from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.locate import IptablesLocator
from kubeproxy.dataplane.iptables.machine import iptables_backend, iptables_hints, others_changes
from kubeproxy.dataplane.ipvs import needs
from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.ipvs.machine import Writing, ipvs_backend, ipvs_hints
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.dataplane.leftovers.removal import Kept
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.dataplane.locate import Locator
from kubeproxy.dataplane.nftables import needs as nft_needs
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.locate import NftablesLocator
from kubeproxy.dataplane.nftables.machine import nftables_backend, nftables_hints
from kubeproxy.dataplane.nftables.watch import Commits
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.iptables import Flavour
from kubeproxy.kernel.nf_tables import probing
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.types import AddChain, AddTable, Base, Chain, Hook
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.notices import HintSource
from kubeproxy.kernel.writers import Writers
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER
from kubeproxy.model.objects import Record
from kubeproxy.options import Options, excluded_cidrs, in_mode, settings_of
from kubeproxy.sync.syncer import Intervals

log = logging.getLogger(__name__)

LOOK_SECONDS = 5.0
"""Between looks at what the kernel does not tell of."""
GLANCE_SECONDS, SETS_GLANCE_SECONDS = 0.4, 0.8
"""Between questions for numbers and sizes that nobody tells of: of tables and virtual servers, of sets alone."""
_NAT = Chain("nat", Base("nat", Hook.POSTROUTING, 100))
PREFERENCE = (Mode.NFTABLES, Mode.IPVS, Mode.IPTABLES)
"""What `auto` tries; the last is what every node can run that can run any."""


class ModeUnavailable(KernelError):
    """The mode that was asked for cannot run on this node; the text says why and what to do."""


class PacketCounter(Record, frozen=True):
    """A counter that rules of a mode count in; see `Metrics.count_in_kernel`."""

    name: str
    text: str
    read: Callable[[], int | None]


_INVALID = PacketCounter(
    "iptables_ct_state_invalid_dropped_packets_total",
    "Packets that were dropped because connection tracking calls them INVALID",
    partial(Nfacct().packets, names.CT_INVALID_COUNTER),
)
_ON_LOOPBACK = PacketCounter(
    "iptables_localhost_nodeports_accepted_packets_total",
    "Connections to node ports on loopback addresses",
    partial(Nfacct().packets, names.LOCALHOST_NODEPORTS_COUNTER),
)


class Parts(Record, frozen=True, kw_only=True):
    """What a mode is made of, on this machine's real kernel."""

    mode: Mode
    flavour: Flavour | None
    """Where its iptables' rules are, if it has any."""
    backend: Callable[[Family], Backend]
    locator: Locator
    hints: Callable[[Family], Sequence[HintSource]] = lambda family: ()
    """What tells of others' changes of a family's state."""
    programs: Mapping[Family, Writers] = {}
    """Who tells these our iptables-nft from others'; none where nobody listens for its changes."""
    look_every: float = LOOK_SECONDS
    """Seconds between looks at what nobody tells of; infinite where hints tell of everything."""
    glance_every: float = math.inf
    """Seconds between glances (`Backend.glance`), which are short."""
    counters: tuple[PacketCounter, ...] = ()
    """Upstream's, as far as rules of the mode count in them; the kernel has them where it has nfacct."""

    excluded: tuple[str, ...] = ()
    """See `Kept.excluded`."""

    @property
    def kept(self) -> Kept:
        """What stays on the node when leftovers are removed."""
        return Kept(mode=self.mode, flavour=self.flavour, excluded=self.excluded)

    def __str__(self) -> str:
        """Name it for a log."""
        return f"{self.mode} ({self.glue})"

    @property
    def glue(self) -> str:
        """Name what its rules are written with."""
        return self.flavour or ("netlink" if self.mode is Mode.NFTABLES else "nftables")


class Machine(needs.Machine, Protocol):
    """This node's kernel (`kernel.features.Features`), or a fake."""

    def serves(self, family: Family) -> bool:
        """Return whether IPVS knows a family."""
        ...

    def tables_trouble(self, family: Family, flavour: Flavour) -> str:
        """Return why iptables' tables of a family cannot be used, "" when they can."""
        ...

    def nf_table(self, family: Family, name: str) -> AbstractContextManager[NfTable]:
        """Lend a table of nf_tables, which need not be there."""
        ...


def choose(options: Options, machine: Machine) -> Options:
    """Return options whose mode is one that this node can run. Blocking. Raises ModeUnavailable.

    Tells the log what `auto` became, and why nothing better.
    """
    asked = options.configuration.mode
    if asked != AUTO:
        if why := unavailable(options, Mode(asked), machine):
            raise ModeUnavailable(f"mode {asked} cannot run here: {why}, or choose --mode auto or iptables")
        return options
    for mode in PREFERENCE:
        why = unavailable(options, mode, machine)
        if not why:
            log.info("mode auto: %s", mode)
            return in_mode(options, mode)
        log.info("mode auto: not %s: %s", mode, why)
    raise ModeUnavailable("mode auto: none of the modes can run here")


def unavailable(options: Options, mode: Mode, machine: Machine) -> str:
    """Return why a mode cannot run on this node, "" when nothing is known against it. Blocking."""
    if mode is Mode.IPTABLES:
        return ""
    if mode is Mode.NFTABLES:
        return _nf_tables_trouble(machine, Family.V4)
    try:
        return needs.verdict(machine, options.configuration.ipvs.scheduler or DEFAULT_SCHEDULER).trouble
    except (KernelError, OSError) as refused:
        return f"the kernel does not tell whether it can: {refused}"


def flavour_of(options: Options, machine: Machine, detect: Callable[[], Flavour]) -> Flavour | None:
    """Return where rules of the chosen mode go; None: into a table of nftables, as ipvs mode's can too. Blocking.

    ``detect`` finds iptables' flavour; whatever it raises is raised where iptables is needed.
    """
    if options.configuration.mode == Mode.NFTABLES:
        return None
    if options.configuration.mode == Mode.IPVS:
        scheduler = options.configuration.ipvs.scheduler or DEFAULT_SCHEDULER
        if not needs.verdict(machine, scheduler).by_iptables:
            log.info("ipvs mode: rules by nftables, as iptables' cannot do it here")
            return None
    return detect()


def family_trouble(options: Options, machine: Machine, flavour: Flavour | None, family: Family) -> str:
    """Return why the chosen mode cannot serve a family here, "" when it can; ``flavour`` as `flavour_of` has it.

    Blocking. Raises KernelError and OSError when IPVS does not answer.
    """
    mode = Mode(options.configuration.mode)
    if mode is Mode.NFTABLES:
        return _nf_tables_trouble(machine, family)
    if mode is Mode.IPVS and not machine.serves(family):
        return f"this kernel's IPVS does not know {family.label} (CONFIG_IP_VS_IPV6)"
    if flavour is not None:
        return machine.tables_trouble(family, flavour)
    with machine.nf_table(family, needs.PROBE_TABLE) as table:
        return probing.trouble(table, (AddTable(), AddChain(_NAT)))


def _nf_tables_trouble(machine: Machine, family: Family) -> str:
    with machine.nf_table(family, nft_needs.PROBE_TABLE) as table:
        return nft_needs.trouble(table)


def parts_of(options: Options, flavour: Flavour | None) -> Parts:
    """Return what the mode that was chosen is made of; ``flavour`` as `flavour_of` has it."""
    settings = settings_of(options)
    if (ipvs := settings.ipvs) is not None:
        replaced = Replaced()  # the backends tell the locator
        writing = {family: Writing() for family in Family}
        return Parts(
            mode=Mode.IPVS,
            flavour=flavour,
            backend=lambda family: ipvs_backend(family, flavour, ipvs, replaced, writing[family]),
            hints=lambda family: ipvs_hints(family, flavour, writing[family]),
            programs={family: each.programs for family, each in writing.items()} if flavour is Flavour.NFT else {},
            locator=IpvsLocator(ipvs, replaced, by_iptables=flavour is not None),
            glance_every=GLANCE_SECONDS,
            counters=(_INVALID,) if flavour else (),
            excluded=ipvs.exclude_cidrs,
        )
    writers = {family: Writers() for family in Family}
    if options.configuration.mode == Mode.NFTABLES:
        commits, journals = Commits(), {family: Journal() for family in Family}
        return Parts(
            mode=Mode.NFTABLES,
            flavour=None,
            backend=lambda family: nftables_backend(family, commits, writers[family], journals[family]),
            hints=lambda family: nftables_hints(family, writers[family], journals[family]),
            locator=NftablesLocator(),
            excluded=excluded_cidrs(options),
        )
    assert flavour is not None, "iptables mode without iptables"
    told = {family: others_changes() for family in Family}
    return Parts(
        mode=Mode.IPTABLES,
        flavour=flavour,
        backend=lambda family: iptables_backend(family, flavour, writers[family], told[family]),
        hints=lambda family: iptables_hints(family, flavour, writers[family], told[family]),
        programs=writers if flavour is Flavour.NFT else {},
        glance_every=GLANCE_SECONDS if flavour is Flavour.LEGACY else SETS_GLANCE_SECONDS,
        locator=IptablesLocator(),
        counters=(_INVALID, _ON_LOOPBACK),
        excluded=excluded_cidrs(options),
    )


def intervals_of(
    configuration: Configuration, look_every: float = LOOK_SECONDS, glance_every: float = math.inf
) -> Intervals:
    """Return how often the chosen mode syncs and looks after itself, by its own block of the configuration.

    Upstream's ipvs mode writes everything anew each syncPeriod, since nobody tells when somebody else changes a
    virtual server. Here the backend looks for that itself, every few seconds (`Backend.observe`).
    """
    return Intervals(
        min_sync=configuration.min_sync_period,
        retry=configuration.sync_period,
        check=look_every,
        glance=glance_every,
    )
