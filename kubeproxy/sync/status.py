"""How one family's syncs stand, as a value for whoever shows or exports it, and what is kept to tell it cheaply.

What a status says of many ports is made anew only where it differs from the last: a status follows every change.
"""

from collections.abc import Mapping

from kubeproxy.dataplane.base import Applied, RuleCount
from kubeproxy.model.addresses import Family
from kubeproxy.model.admission import Rejection
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Record
from kubeproxy.sync.flows import FlowStatus


class SyncStatus(Record, frozen=True, kw_only=True):
    """How things stand; replaced as a whole after every sync, so any thread may read it."""

    family: Family
    synced: bool = False
    """Whether the kernel has held the whole World at least once."""
    queued_since: float | None = None
    """When (Clock.now) the oldest change that is not in the kernel yet came; None when all are in."""
    last_success: float | None = None
    """Clock.wall of the last sync that succeeded."""
    duration: float = 0.0
    """Seconds that the last sync took, successful or not."""
    last_was_full: bool = False
    changed: int = 0
    """Service ports that the last successful sync wrote or removed."""
    syncs: int = 0
    full_syncs: int = 0
    failures: int = 0
    partial_failures: int = 0
    drifts: int = 0
    """How often our state was found removed from the kernel."""
    last_error: str = ""
    ports: int = 0
    endpoints: int = 0
    rejected: tuple[Rejection, ...] = ()
    quarantined: tuple[tuple[str, str], ...] = ()
    """Service ports that are left out, and why."""
    notes: tuple[tuple[str, str], ...] = ()
    """Service ports that are served otherwise than was asked, and why."""
    no_local: tuple[int, int] = (0, 0)
    """Of how many Service ports the cluster IP, and traffic from outside, is dropped here: policy Local, and every
    endpoint is on another node. Which they are, `Syncer.without_local` knows."""
    rules: tuple[RuleCount, ...] = ()
    """After the last sync that wrote any."""
    flows: FlowStatus = FlowStatus()
    """How the flows that syncs made stale are ended."""


class WithoutLocal:
    """The ports that drop what comes to the cluster IP, and from outside, for want of an endpoint here."""

    def __init__(self) -> None:
        self._ports: tuple[set[ServicePortName], set[ServicePortName]] = (set(), set())

    def take(self, applied: Applied) -> None:
        """Take in what a sync has changed."""
        for which, ports in enumerate(self._ports):
            if applied.full:
                ports.clear()
            for name, lacks in applied.lacks_local.items():
                (ports.add if lacks[which] else ports.discard)(name)

    @property
    def count(self) -> tuple[int, int]:
        """How many they are: of cluster IPs, and from outside."""
        internal, external = self._ports
        return len(internal), len(external)

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return them by name, sorted."""
        internal, external = (tuple(sorted(f"{n}/{n.protocol}" for n in ports)) for ports in self._ports)
        return internal, external


class Listing:
    """Remarks as a status has them; written anew only for another object (`Applied.notes`)."""

    def __init__(self) -> None:
        self._source: Mapping[ServicePortName, str] = {}
        self._listed: tuple[tuple[str, str], ...] = ()

    def of(self, ports: Mapping[ServicePortName, str]) -> tuple[tuple[str, str], ...]:
        """Return the remarks on ports, sorted by name."""
        if ports is not self._source:
            self._source = ports
            self._listed = tuple(sorted((f"{name}/{name.protocol}", why) for name, why in ports.items()))
        return self._listed
