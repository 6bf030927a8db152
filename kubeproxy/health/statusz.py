"""What `/statusz.json` says and `kubeproxy status` shows: one shape, for the agent that writes and the command."""

from kubeproxy.health.service_health import HealthCheckStatus
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record
from kubeproxy.sync.status import SyncStatus


class InformerStatus(Record, frozen=True, kw_only=True):
    """How well one kind of object is followed."""

    synced: bool
    connected: bool
    objects: int
    failures: int
    away_since: float | None = None
    """Since when (Unix seconds) the API server gives us nothing."""
    trouble: str = ""
    """What the last attempt met."""
    rejected: tuple[str, ...]
    """Objects that could not be decoded, and why."""


class DroppedHere(Record, frozen=True, kw_only=True):
    """One family's Service ports whose traffic is dropped: policy Local, and every endpoint is on another node."""

    family: Family
    cluster_ip: tuple[str, ...] = ()
    """Those whose cluster IP is."""
    external: tuple[str, ...] = ()
    """Those whose traffic from outside is."""


class AgentStatus(Record, frozen=True, kw_only=True):
    """Everything that an agent tells about itself."""

    mode: str
    flavour: str
    node: str
    wall: float
    """The time now, in Unix seconds: what `SyncStatus.last_success` counts in."""
    clock: float
    """The same by Clock.now: what `SyncStatus.queued_since` counts in."""
    informers: dict[str, InformerStatus]
    families: tuple[SyncStatus, ...]
    not_served: tuple[tuple[Family, str], ...] = ()
    """Families that this host cannot do, and why."""
    hints: tuple[str, ...] = ()
    """What is likely to be wrong with the host, and is not ours to change."""
    dropped_here: tuple[DroppedHere, ...] = ()
    health_checks: tuple[HealthCheckStatus, ...] = ()
    leftovers: tuple[str, ...] = ()
    """What another proxy left on the node and could not be removed, and what to do."""
    waiting: tuple[str, ...] = ()
    """What of another mode goes by itself, when nobody needs it any more."""
