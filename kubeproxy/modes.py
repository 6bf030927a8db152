"""Which mode a node runs, and what each is made of: the one place that names more than one of them."""

import logging
from collections.abc import Callable
from functools import partial

from kubeproxy.config.types import Configuration
from kubeproxy.config.validation import AUTO
from kubeproxy.dataplane.base import Backend
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.locate import IptablesLocator
from kubeproxy.dataplane.ipvs import needs
from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.ipvs.machine import ipvs_backend
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.dataplane.leftovers.removal import Kept
from kubeproxy.dataplane.leftovers.upstream import Mode
from kubeproxy.dataplane.locate import Locator
from kubeproxy.kernel.exec import KernelError, SystemExec
from kubeproxy.kernel.ipset import Ipset
from kubeproxy.kernel.iptables import Flavour, Iptables
from kubeproxy.kernel.nfacct import Nfacct
from kubeproxy.kernel.sysctl import ProcSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import DEFAULT_SCHEDULER
from kubeproxy.model.objects import Record
from kubeproxy.options import BUILT_MODES, Options, excluded_cidrs, in_mode, settings_of
from kubeproxy.sync.syncer import Intervals

log = logging.getLogger(__name__)

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
    """Where its iptables rules are, if it has any."""
    backend: Callable[[Family], Backend]
    locator: Locator
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
        return self.flavour or "nftables"


def choose(options: Options, machine: needs.Machine) -> Options:
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


def unavailable(options: Options, mode: Mode, machine: needs.Machine) -> str:
    """Return why a mode cannot run on this node, "" when nothing is known against it. Blocking."""
    if mode not in BUILT_MODES:
        return "it is not built yet"
    if mode is not Mode.IPVS:
        return ""
    try:
        return needs.verdict(machine, options.configuration.ipvs.scheduler or DEFAULT_SCHEDULER).trouble
    except (KernelError, OSError) as refused:
        return f"the kernel does not tell whether it can: {refused}"


def flavour_of(options: Options, machine: needs.Machine, detect: Callable[[], Flavour]) -> Flavour | None:
    """Return where rules of the chosen mode go; None: into a table of nftables, as ipvs mode can. Blocking.

    ``detect`` finds iptables' flavour; whatever it raises is raised where iptables is needed.
    """
    if options.configuration.mode == Mode.IPVS:
        scheduler = options.configuration.ipvs.scheduler or DEFAULT_SCHEDULER
        if not needs.verdict(machine, scheduler).by_iptables:
            log.info("ipvs mode: rules by nftables, as iptables' cannot do it here")
            return None
    return detect()


def parts_of(options: Options, flavour: Flavour | None) -> Parts:
    """Return what the mode that was chosen is made of; ``flavour`` as `flavour_of` has it."""
    settings = settings_of(options)
    if settings.ipvs is not None:
        replaced = Replaced()  # the backends tell the locator
        return Parts(
            mode=Mode.IPVS,
            flavour=flavour,
            backend=partial(ipvs_backend, flavour=flavour, settings=settings.ipvs, replaced=replaced),
            locator=IpvsLocator(settings.ipvs, replaced, by_iptables=flavour is not None),
            counters=(_INVALID,) if flavour else (),
            excluded=settings.ipvs.exclude_cidrs,
        )
    assert flavour is not None, "iptables mode without iptables"
    return Parts(
        mode=Mode.IPTABLES,
        flavour=flavour,
        backend=partial(_iptables_backend, flavour),
        locator=IptablesLocator(),
        counters=(_INVALID, _ON_LOOPBACK),
        excluded=excluded_cidrs(options),
    )


def intervals_of(configuration: Configuration) -> Intervals:
    """Return how often the chosen mode syncs, by its own block of the configuration.

    Upstream's ipvs mode writes everything anew each syncPeriod, since nobody tells when somebody else changes a
    virtual server. Here the backend looks for that itself, every few seconds (`Backend.observe`).
    """
    return Intervals(min_sync=configuration.min_sync_period, retry=configuration.sync_period)


def _iptables_backend(flavour: Flavour, family: Family) -> Backend:
    return IptablesBackend(Iptables(SystemExec(), family, flavour), Ipset(family), ProcSysctls(), family, Nfacct())
