"""Every metric of the node agent, declared once, with kube-proxy's names, labels and buckets.

Source: pkg/proxy/metrics of Kubernetes 1.36 (shared/reference/kube-proxy.md §4.5). One registry per agent,
made in the composition root and passed in: nothing is registered by importing this module.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

BUCKETS = tuple(0.001 * 2**power for power in range(15))
"""1 ms to 16 s, doubling."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_FAMILY = ["ip_family"]


class Metrics:
    """The agent's metrics. Set from the event loop only."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.sync_duration = self._histogram("sync_proxy_rules_duration_seconds", "A sync of any kind")
        self.full_sync_duration = self._histogram("sync_full_proxy_rules_duration_seconds", "A full sync")
        self.partial_sync_duration = self._histogram("sync_partial_proxy_rules_duration_seconds", "A partial sync")
        self.last_sync = self._gauge("sync_proxy_rules_last_timestamp_seconds", "Last successful sync", _FAMILY)
        self.last_queued = self._gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds", "Last queued sync", _FAMILY
        )
        self.restore_failures = self._counter(
            "sync_proxy_rules_iptables_restore_failures_total", "Syncs that iptables-restore refused"
        )
        self.partial_restore_failures = self._counter(
            "sync_proxy_rules_iptables_partial_restore_failures_total", "Of those, partial ones"
        )
        self.endpoint_changes = self._gauge("sync_proxy_rules_endpoint_changes_total", "Changes of endpoints", [])
        self.endpoint_pending = self._gauge("sync_proxy_rules_endpoint_changes_pending", "Not yet synced", [])
        self.service_changes = self._gauge("sync_proxy_rules_service_changes_total", "Changes of Services", [])
        self.service_pending = self._gauge("sync_proxy_rules_service_changes_pending", "Not yet synced", [])
        self.healthz = self._counter("proxy_healthz_total", "Answers of /healthz", ["code"])
        self.livez = self._counter("proxy_livez_total", "Answers of /livez", ["code"])
        self.rejected = self._gauge(
            "rejected_objects", "Objects of the API that are left out because they are unusable", ["kind"]
        )
        self.events = self._counter("events_total", "Events for the API, by what became of them", ["outcome"])

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"kubeproxy_{name}", text, _FAMILY, buckets=BUCKETS, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"kubeproxy_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str] = _FAMILY) -> Counter:
        return Counter(f"kubeproxy_{name}", text, labels, registry=self.registry)
