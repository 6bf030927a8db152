"""SyncStatus → metrics and health: what changed between two statuses is what happened."""

from kubeproxy.clock import Clock
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.model.addresses import Family
from kubeproxy.sync.syncer import SyncStatus


class SyncReport:
    """Follows the statuses that syncers publish. Called on the event loop."""

    def __init__(self, metrics: Metrics, health: ProxyHealth, clock: Clock) -> None:
        self._metrics = metrics
        self._health = health
        self._clock = clock
        self._last: dict[Family, SyncStatus] = {}

    def note(self, status: SyncStatus) -> None:
        """Take over a new status."""
        before = self._last.get(status.family, SyncStatus(family=status.family))
        self._last[status.family] = status
        label = status.family.label
        metrics = self._metrics
        synced = status.syncs > before.syncs
        if synced:
            self._synced(status, label)
        # What came while a sync ran has waited since then, and is news to the health.
        if status.queued_since is not None and (synced or before.queued_since is None):
            self._health.queued(status.family, self._clock.wall())
            metrics.last_queued.labels(label).set(self._clock.wall())
        metrics.restore_failures.labels(label).inc(status.failures - before.failures)
        metrics.partial_restore_failures.labels(label).inc(status.partial_failures - before.partial_failures)
        metrics.rejected.labels("object").set(len(status.rejected))
        metrics.rejected.labels("port").set(len(status.quarantined))

    def _synced(self, status: SyncStatus, label: str) -> None:
        metrics = self._metrics
        self._health.updated(status.family, self._clock.wall())
        metrics.sync_duration.labels(label).observe(status.duration)
        kind = metrics.full_sync_duration if status.last_was_full else metrics.partial_sync_duration
        kind.labels(label).observe(status.duration)
        metrics.last_sync.labels(label).set(status.last_success or 0)
        if status.queued_since is None:
            metrics.endpoint_pending.set(0)
            metrics.service_pending.set(0)
