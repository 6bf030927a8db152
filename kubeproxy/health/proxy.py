"""Is the proxy keeping up? The state behind /healthz and /livez, with kube-proxy's meaning.

A family is healthy while no update has waited for the kernel longer than twice the sync period. /healthz is
also about eligibility: load balancers must not send new traffic to a Node that is going away. /livez is not,
so that a doomed Node's proxy is not restarted for nothing. Pure: time is passed in.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Node

GOING_AWAY_TAINT = "ToBeDeletedByClusterAutoscaler"
_NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, as upstream writes what has not happened yet."""


class ProxyHealth:
    """Follows, per family, what was queued and what reached the kernel. Times are Unix seconds."""

    def __init__(self, families: Iterable[Family], sync_period: float) -> None:
        self._timeout = 2 * sync_period
        self._queued: dict[Family, float | None] = dict.fromkeys(families)
        self._updated: dict[Family, float] = {}
        self._node_eligible = True
        self.away_since: Callable[[], float | None] = lambda: None
        """Since when (Unix seconds) the API server gives us nothing; what we serve is as old as that."""

    def queued(self, family: Family, now: float) -> None:
        """Note that a change waits; the oldest one counts."""
        if self._queued[family] is None:
            self._queued[family] = now

    def updated(self, family: Family, now: float) -> None:
        """Note that everything queued so far is in the kernel."""
        self._queued[family] = None
        self._updated[family] = now

    def node_changed(self, node: Node | None) -> None:
        """Take the own Node's state; None is a Node that does not exist."""
        self._node_eligible = node is not None and not node.deleted and GOING_AWAY_TAINT not in node.taint_keys

    def is_healthy(self, now: float) -> bool:
        """Return whether every family keeps up, whatever becomes of the Node."""
        return all(self._keeps_up(family, now) for family in self._queued)

    def healthz(self, now: float) -> tuple[int, dict[str, Any]]:
        """Return the status code and body of /healthz.

        ``apiServer`` is ours: an old state is told and is no ill health, or an outage of the API server would take
        every node out of every load balancer.
        """
        since = self.away_since()
        age = 0.0 if since is None else max(now - since, 0.0)
        code, body = self._answer(now, self._node_eligible, nodeEligible=self._node_eligible)
        body["apiServer"] = {"connected": since is None, "stateAgeSeconds": round(age, 1)}
        return code, body

    def livez(self, now: float) -> tuple[int, dict[str, Any]]:
        """Return the status code and body of /livez."""
        return self._answer(now, True)

    def _keeps_up(self, family: Family, now: float) -> bool:
        queued = self._queued[family]
        return queued is None or now - queued < self._timeout

    def _answer(self, now: float, eligible: bool, **more: bool) -> tuple[int, dict[str, Any]]:
        healthy = self.is_healthy(now)
        code = 200 if healthy and eligible else 503
        # A good answer has always been as fresh as a look at it; of a bad one the time says how bad.
        updated = now if code == 200 else max(self._updated.values(), default=None)
        return code, {
            "lastUpdated": _rfc3339(updated),
            "currentTime": _rfc3339(now),
            **more,
            "healthy": healthy,
            "status": {
                family.label: {
                    "lastUpdated": _rfc3339(self._updated.get(family)),
                    "healthy": self._keeps_up(family, now),
                }
                for family in self._queued
            },
        }


def _rfc3339(seconds: float | None) -> str:
    if seconds is None:
        return _NEVER
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
