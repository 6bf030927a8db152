"""The agent's metrics: kube-proxy's table (reference/kube-proxy.md §4.5), read back from what /metrics says."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kubeproxy.health.metrics import Metrics
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.unit

DOUBLING = [0.001 * 2**power for power in range(15)]
LATENCY = [0, 0.25, 0.5, *range(1, 60), *range(60, 120, 5), 120, 150, 180, 210, 240, 270, 300]

# Name, type, labels, buckets.
TABLE = [
    ("sync_proxy_rules_duration_seconds", "histogram", {"ip_family"}, DOUBLING),
    ("sync_full_proxy_rules_duration_seconds", "histogram", {"ip_family"}, DOUBLING),
    ("sync_partial_proxy_rules_duration_seconds", "histogram", {"ip_family"}, DOUBLING),
    ("sync_proxy_rules_last_timestamp_seconds", "gauge", {"ip_family"}, None),
    ("sync_proxy_rules_last_queued_timestamp_seconds", "gauge", {"ip_family"}, None),
    ("sync_proxy_rules_endpoint_changes_pending", "gauge", set(), None),
    ("sync_proxy_rules_endpoint_changes_total", "counter", set(), None),
    ("sync_proxy_rules_service_changes_pending", "gauge", set(), None),
    ("sync_proxy_rules_service_changes_total", "counter", set(), None),
    ("network_programming_duration_seconds", "histogram", {"ip_family"}, LATENCY),
    ("sync_proxy_rules_no_local_endpoints_total", "gauge", {"traffic_policy", "ip_family"}, None),
    ("proxy_healthz_total", "counter", {"code"}, None),
    ("proxy_livez_total", "counter", {"code"}, None),
    ("sync_proxy_rules_iptables_restore_failures_total", "counter", {"ip_family"}, None),
    ("sync_proxy_rules_iptables_partial_restore_failures_total", "counter", {"ip_family"}, None),
    ("sync_proxy_rules_iptables_total", "gauge", {"table", "ip_family"}, None),
    ("sync_proxy_rules_iptables_last", "gauge", {"table", "ip_family"}, None),
    ("conntrack_reconciler_sync_duration_seconds", "histogram", {"ip_family"}, DOUBLING),
    ("conntrack_reconciler_deleted_entries_total", "counter", {"ip_family"}, None),
    ("iptables_ct_state_invalid_dropped_packets_total", "counter", set(), None),
    ("iptables_localhost_nodeports_accepted_packets_total", "counter", set(), None),
]

OURS = {
    "kubeproxy_rejected_objects",
    "kubeproxy_events_total",
    "kubeproxy_service_health_checks_not_listening",
    "kubeproxy_conntrack_reconciler_failures_total",
}


def filled() -> Metrics:
    """Return metrics in which everything has a value."""
    metrics = Metrics()
    for histogram in (
        metrics.sync_duration,
        metrics.full_sync_duration,
        metrics.partial_sync_duration,
        metrics.programming,
        metrics.conntrack_duration,
    ):
        histogram.labels("IPv4").observe(1)
    for gauge in (metrics.last_sync, metrics.last_queued, metrics.silent_health_checks):
        gauge.labels("IPv4").set(1)
    metrics.failed("IPv4", 1, 1)
    metrics.conntrack_deleted.labels("IPv4").inc()
    metrics.no_local_endpoints.labels(traffic_policy="internal", ip_family="IPv4").set(1)
    metrics.rules.labels(table="nat", ip_family="IPv4").set(1)
    metrics.rules_written.labels(table="nat", ip_family="IPv4").set(1)
    metrics.healthz.labels(code="200").inc()
    metrics.livez.labels(code="200").inc()
    metrics.rejected.labels("object").set(1)
    metrics.events.labels("told").inc()
    for name in ("iptables_ct_state_invalid_dropped", "iptables_localhost_nodeports_accepted"):
        metrics.count_in_kernel(f"{name}_packets_total", "", lambda: 7)
    return metrics


def families(metrics: Metrics) -> dict[str, object]:
    """Return what is exposed, by the name that stands in the text's TYPE lines."""
    text = metrics.text().decode()
    named = {line.split()[2]: line.split()[3] for line in text.splitlines() if line.startswith("# TYPE ")}
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name if family.name in named else f"{family.name}_total"
        found[name] = (named[name], family.samples)
    return found


@pytest.mark.parametrize(("name", "kind", "labels", "buckets"), TABLE, ids=[row[0] for row in TABLE])
def test_name_type_labels_and_buckets(name: str, kind: str, labels: set[str], buckets: list[float] | None) -> None:
    found, samples = families(filled())[f"kubeproxy_{name}"]
    assert found == kind
    assert {label for sample in samples for label in sample.labels} - {"le"} == labels
    bounds = [float(sample.labels["le"]) for sample in samples if "le" in sample.labels]
    assert bounds == ([] if buckets is None else pytest.approx([*buckets, math.inf]))


def test_there_is_nothing_else_but_ours_and_the_process() -> None:
    rest = set(families(filled())) - {f"kubeproxy_{name}" for name, *_ in TABLE} - OURS
    assert rest == {name for name in rest if name.startswith("process_")}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= rest


def test_a_counter_that_the_kernel_does_not_have_is_left_out() -> None:
    metrics = Metrics()
    metrics.count_in_kernel("x_total", "", lambda: None)
    assert "kubeproxy_x" not in metrics.text().decode()


def test_a_familys_counters_are_there_before_anything_happens() -> None:
    text = Metrics([Family.V4, Family.V6]).text().decode()
    for family in ("IPv4", "IPv6"):
        assert f'kubeproxy_sync_proxy_rules_iptables_restore_failures_total{{ip_family="{family}"}} 0.0' in text
        assert (
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total"
            f'{{ip_family="{family}",traffic_policy="external"}} 0.0'
        ) in text


def test_in_nftables_mode_failures_have_upstreams_name_for_them() -> None:
    metrics = Metrics([Family.V4], in_nftables=True)
    metrics.failed("IPv4", 2, 1)
    text = metrics.text().decode()
    assert 'kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 2.0' in text
    assert "restore_failures" not in text
