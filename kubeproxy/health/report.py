"""What informers deliver and syncs achieve → metrics, health and health check node ports. On the event loop."""

from collections.abc import Iterable, Mapping

from kubeproxy.clock import Clock
from kubeproxy.health.changes import Changes, SliceChange
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.service_health import ServiceHealth
from kubeproxy.model.addresses import Family
from kubeproxy.model.healthchecks import health_checks
from kubeproxy.sync.status import SyncStatus
from kubeproxy.sync.syncer import Synced


class SyncReport:
    """Follows changes on their way, and syncers' statuses: what differs between two of them has happened."""

    def __init__(
        self,
        metrics: Metrics,
        health: ProxyHealth,
        changes: Changes,
        checks: Mapping[Family, ServiceHealth],
        clock: Clock,
    ) -> None:
        self._metrics = metrics
        self._health = health
        self._changes = changes
        self._checks = checks
        self._clock = clock
        self._last: dict[Family, SyncStatus] = {}
        # To find a metric by its labels is dear, and each change sets these.
        self._last_queued = {family: metrics.last_queued.labels(family.label) for family in checks}

    def services_changed(self, seen: int, differing: int) -> None:
        """Note that so many Services were delivered, of which some differ."""
        self._metrics.service_changes.inc(seen)
        self._changes.services_changed(differing, self._clock.now())
        self._show_waiting(something_new=differing > 0)

    def slices_changed(self, changes: Iterable[SliceChange]) -> None:
        """Note EndpointSlices that were delivered, each before and after."""
        delivered = list(changes)
        self._metrics.endpoint_changes.inc(len(delivered))
        differing = self._changes.slices_changed(delivered, self._clock.now())
        self._show_waiting(something_new=differing > 0)

    def note(self, status: SyncStatus) -> None:
        """Take over a new status."""
        before = self._last.get(status.family, SyncStatus(family=status.family))
        self._last[status.family] = status
        label = status.family.label
        metrics = self._metrics
        synced = status.syncs > before.syncs
        if synced:
            self._synced(status, before, label)
            self._took(status.duration, label, full=status.last_was_full)
        elif status.failures > before.failures:
            full = status.partial_failures == before.partial_failures
            self._took(status.duration, label, full=full)
        # What came while a sync ran has waited since then, and is news to the health.
        if status.queued_since is not None and (synced or before.queued_since is None):
            self._health.queued(status.family, self._clock.wall())
            self._last_queued[status.family].set(self._clock.wall())
        # Only what differs: finding a metric by its labels is dear, and there are two statuses for each change.
        if status.failures > before.failures:
            partial = status.partial_failures - before.partial_failures
            metrics.failed(label, status.failures - before.failures, partial)
        if status.flows.runs > before.flows.runs:
            metrics.conntrack_duration.labels(label).observe(status.flows.duration)
            metrics.conntrack_deleted.labels(label).inc(status.flows.deleted - before.flows.deleted)
            metrics.conntrack_failures.labels(label).inc(status.flows.failures - before.flows.failures)
        if status.rejected is not before.rejected or not before.syncs:
            metrics.rejected.labels("object").set(len(status.rejected))
        if status.quarantined is not before.quarantined or not before.syncs:
            metrics.rejected.labels("port").set(sum(len(each.quarantined) for each in self._last.values()))

    def synced(self, synced: Synced) -> None:
        """Take over what a successful sync has brought in."""
        family = synced.node.family
        for seconds in self._changes.synced(family, synced.started, self._clock.wall()):
            self._metrics.programming.labels(family.label).observe(seconds)
        self._show_waiting()
        checks = health_checks(synced.world, synced.node.name, family, synced.scope)
        self._checks[family].take(checks, synced.node.nodeport_cidrs, full=synced.scope is None)

    def _synced(self, status: SyncStatus, before: SyncStatus, label: str) -> None:
        metrics = self._metrics
        self._health.updated(status.family, self._clock.wall())
        metrics.last_sync.labels(label).set(status.last_success or 0)
        if status.no_local != before.no_local:
            for policy, ports in zip(("internal", "external"), status.no_local, strict=True):
                metrics.no_local_endpoints.labels(policy, label).set(ports)
        for count in status.rules if status.rules is not before.rules else ():
            metrics.rules.labels(count.table, label).set(count.standing)
            metrics.rules_written.labels(count.table, label).set(count.written)

    def _took(self, seconds: float, label: str, *, full: bool) -> None:
        """Count a sync, successful or not."""
        kind = self._metrics.full_sync_duration if full else self._metrics.partial_sync_duration
        for histogram in (self._metrics.sync_duration, kind):
            histogram.labels(label).observe(seconds)

    def _show_waiting(self, *, something_new: bool = False) -> None:
        for queued in self._last_queued.values() if something_new else ():
            queued.set(self._clock.wall())
        self._metrics.service_pending.set(self._changes.pending_services)
        self._metrics.endpoint_pending.set(self._changes.pending_slices)
