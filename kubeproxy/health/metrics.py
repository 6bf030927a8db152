"""Every metric of the node agent, declared once, with kube-proxy's names, types, labels and buckets.

Source: pkg/proxy/metrics of Kubernetes 1.36 (shared/reference/kube-proxy.md §4.5); what upstream has not is in
`_declare_ours`. One registry per agent, made in the composition root and passed in: nothing is registered by
importing this module. Set from the event loop only.
"""

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kubeproxy.model.addresses import Family

BUCKETS = tuple(0.001 * 2**power for power in range(15))
"""1 ms to 16 s, doubling."""

LATENCY_BUCKETS = (0.0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30))
"""Seconds; the first is upstream's slip, and everybody's dashboards have it."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
POLICIES = ("internal", "external")
TABLES = ("nat", "filter")

_FAMILY = ["ip_family"]


class KernelCounter(Collector):
    """A counter that the kernel keeps; left out while there is none."""

    def __init__(self, name: str, text: str, read: Callable[[], int | None]) -> None:
        self._name = name
        self._text = text
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Read it; the kernel is asked at every scrape."""
        packets = self._read()
        return [] if packets is None else [CounterMetricFamily(self._name, self._text, value=packets)]

    def describe(self) -> Iterable[Metric]:
        """Say what `collect` may yield, without asking the kernel."""
        return [CounterMetricFamily(self._name, self._text)]


class Metrics:
    """The agent's metrics, for the families that it serves."""

    def __init__(self, families: Iterable[Family] = (), *, in_nftables: bool = False) -> None:
        """See the class; ``in_nftables``: whether failures have the name that nftables mode gives them."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._declare_syncs()
        self._declare_changes()
        self._declare_failures(in_nftables)
        self._declare_iptables()
        self._declare_conntrack()
        self.healthz = self._counter("proxy_healthz_total", "Answers of /healthz", ["code"])
        self.livez = self._counter("proxy_livez_total", "Answers of /livez", ["code"])
        self._declare_ours()
        for family in families:
            self._begin(family.label)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def count_in_kernel(self, name: str, text: str, read: Callable[[], int | None]) -> None:
        """Add a counter (``name`` without prefix) that is read from the kernel at each scrape, None: left out."""
        self.registry.register(KernelCounter(f"kubeproxy_{name}", text, read))

    def _declare_syncs(self) -> None:
        self.sync_duration = self._histogram("sync_proxy_rules_duration_seconds", "A sync of any kind")
        self.full_sync_duration = self._histogram("sync_full_proxy_rules_duration_seconds", "A full sync")
        self.partial_sync_duration = self._histogram("sync_partial_proxy_rules_duration_seconds", "A partial sync")
        self.last_sync = self._gauge("sync_proxy_rules_last_timestamp_seconds", "Last successful sync", _FAMILY)
        self.last_queued = self._gauge(
            "sync_proxy_rules_last_queued_timestamp_seconds", "Last queued sync", _FAMILY
        )
        self.programming = self._histogram(
            "network_programming_duration_seconds",
            "From the change of a Service's pods to its being in the kernel",
            LATENCY_BUCKETS,
        )
        self.no_local_endpoints = self._gauge(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy whose endpoints are all on other nodes",
            ["traffic_policy", *_FAMILY],
        )

    def _declare_changes(self) -> None:
        self.endpoint_changes = self._counter(
            "sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices", []
        )
        self.endpoint_pending = self._gauge(
            "sync_proxy_rules_endpoint_changes_pending", "Services whose endpoints changed, not yet synced", []
        )
        self.service_changes = self._counter("sync_proxy_rules_service_changes_total", "Changes of Services", [])
        self.service_pending = self._gauge(
            "sync_proxy_rules_service_changes_pending", "Services that changed, not yet synced", []
        )

    def _declare_failures(self, in_nftables: bool) -> None:
        self._partial_failures: Counter | None = None
        if in_nftables:
            self._failures = self._counter(
                "sync_proxy_rules_nftables_sync_failures_total", "Syncs that did not end well"
            )
            return
        self._failures = self._counter(
            "sync_proxy_rules_iptables_restore_failures_total", "Syncs that iptables-restore refused"
        )
        self._partial_failures = self._counter(
            "sync_proxy_rules_iptables_partial_restore_failures_total", "Of those, partial ones"
        )

    def failed(self, family: str, syncs: int, partial: int) -> None:
        """Count syncs that failed, and how many of them were partial ones."""
        self._failures.labels(family).inc(syncs)
        if self._partial_failures is not None:
            self._partial_failures.labels(family).inc(partial)

    def _declare_iptables(self) -> None:
        self.rules = self._gauge("sync_proxy_rules_iptables_total", "iptables rules of ours", ["table", *_FAMILY])
        self.rules_written = self._gauge(
            "sync_proxy_rules_iptables_last", "iptables rules that the last sync wrote", ["table", *_FAMILY]
        )

    def _declare_conntrack(self) -> None:
        self.conntrack_duration = self._histogram(
            "conntrack_reconciler_sync_duration_seconds", "A look for stale conntrack entries"
        )
        self.conntrack_deleted = self._counter(
            "conntrack_reconciler_deleted_entries_total", "Stale conntrack entries that were deleted"
        )
        self.conntrack_failures = self._counter(
            "conntrack_reconciler_failures_total", "Looks for stale conntrack entries that did not end well"
        )

    def _declare_ours(self) -> None:
        self.rejected = self._gauge(
            "rejected_objects", "Objects of the API that are left out because they are unusable", ["kind"]
        )
        self.events = self._counter("events_total", "Events for the API, by what became of them", ["outcome"])
        self.silent_health_checks = self._gauge(
            "service_health_checks_not_listening", "healthCheckNodePorts that could not be opened", _FAMILY
        )

    def _begin(self, family: str) -> None:
        """Show a family's counters from the start, so that the first failure is a rise."""
        self.failed(family, 0, 0)
        for counter in (self.conntrack_deleted, self.conntrack_failures):
            counter.labels(family)
        for policy in POLICIES:
            self.no_local_endpoints.labels(policy, family)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = BUCKETS) -> Histogram:
        return Histogram(f"kubeproxy_{name}", text, _FAMILY, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str]) -> Gauge:
        return Gauge(f"kubeproxy_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: list[str] = _FAMILY) -> Counter:
        return Counter(f"kubeproxy_{name}", text, labels, registry=self.registry)
