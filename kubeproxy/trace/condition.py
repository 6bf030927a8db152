"""SyncStatus → what a reader must know before believing that the kernel does as the model says. Pure."""

from kubeproxy.sync.status import SyncStatus
from kubeproxy.trace.explainer import Condition


def condition_of(status: SyncStatus, now: float) -> Condition:
    """Return how a family stands; ``now`` is Clock.now."""
    warnings = []
    if not status.synced:
        warnings.append("the agent has not written anything yet: what the kernel holds is of its predecessor")
    if status.last_error:
        warnings.append(f"the last sync failed: {status.last_error}")
    if status.queued_since is not None:
        waited = max(now - status.queued_since, 0.0)
        warnings.append(f"not in sync: a change has waited {waited:.1f} s for the kernel")
    return Condition(warnings=tuple(warnings), quarantined=status.quarantined, notes=status.notes)
