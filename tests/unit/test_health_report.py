"""From changes and syncs to metrics, health and health check ports (reference/kube-proxy.md §1.9, §4.5, §6.2)."""

import msgspec
import pytest

from kubeproxy.clock import ManualClock
from kubeproxy.dataplane.base import Change, LacksLocal
from kubeproxy.dataplane.ledger import Ledger
from kubeproxy.health.changes import Changes
from kubeproxy.health.metrics import Metrics
from kubeproxy.health.proxy import ProxyHealth
from kubeproxy.health.report import SyncReport
from kubeproxy.health.service_health import HealthCheckStatus, ServiceHealth
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import EndpointSlice, Service, ServiceType, TrafficPolicy
from kubeproxy.model.settings import Settings
from kubeproxy.model.timestamps import micro_timestamp
from kubeproxy.model.world import World
from kubeproxy.sync.flows import FlowStatus
from kubeproxy.sync.status import SyncStatus
from kubeproxy.sync.syncer import Synced
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.scraping import Scrape

pytestmark = pytest.mark.unit

FAMILY = {"ip_family": "IPv4"}
SETTINGS = Settings(node_name="node1", nodeport_addresses=("192.0.2.0/24",))
LOCAL = TrafficPolicy.LOCAL


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.metrics = Metrics([Family.V4])
        self.health = ProxyHealth([Family.V4], sync_period=30)
        self.checks = ServiceHealth(Family.V4, self.clock, lambda: True, lambda *trouble: None)
        changes = Changes([Family.V4], self.clock.wall())
        self.report = SyncReport(self.metrics, self.health, changes, {Family.V4: self.checks}, self.clock)
        self.status = SyncStatus(family=Family.V4)

    def publish(self, **fields: object) -> None:
        self.status = msgspec.structs.replace(self.status, **fields)
        self.report.note(self.status)

    def synced(self, built: World | None = None, scope: set[tuple[str, str]] | None = None) -> None:
        built = built or World()
        node = node_state(built, SETTINGS, Family.V4)
        self.report.synced(Synced(world=built, scope=scope, node=node, started=self.clock.now()))

    def value(self, name: str, **labels: str) -> float | None:
        found: float | None = Scrape(self.metrics.text().decode()).value(f"kubeproxy_{name}", **labels)
        return found


async def test_a_change_that_came_during_a_sync_counts_from_its_end() -> None:
    it = Rig()
    it.publish(queued_since=it.clock.now())
    await it.clock.step(50)
    it.publish(queued_since=it.clock.now(), syncs=1)
    await it.clock.step(59)
    assert it.health.healthz(it.clock.wall())[0] == 200
    await it.clock.step(1)
    assert it.health.healthz(it.clock.wall())[0] == 503
    it.publish(queued_since=None, syncs=2)
    assert it.health.healthz(it.clock.wall())[0] == 200


async def test_changes_are_counted_and_wait_until_a_sync_brought_them_in() -> None:
    it = Rig()
    before, after = endpoint_slice("web", "80", ["10.0.0.1"]), endpoint_slice("web", "80", ["10.0.0.2"])
    it.report.services_changed(seen=3, differing=2)
    it.report.slices_changed([(None, before), (after, after)])
    names = ("service_changes", "endpoint_changes")
    assert [it.value(f"sync_proxy_rules_{name}_total") for name in names] == [3, 2]
    assert [it.value(f"sync_proxy_rules_{name}_pending") for name in names] == [2, 1]
    it.synced()
    await it.clock.step(1)
    it.report.slices_changed([(before, after)])
    assert [it.value(f"sync_proxy_rules_{name}_pending") for name in names] == [0, 1]
    assert [it.value(f"sync_proxy_rules_{name}_total") for name in names] == [3, 3]


async def test_the_newest_change_is_when_a_sync_was_last_queued() -> None:
    it = Rig()
    name = "sync_proxy_rules_last_queued_timestamp_seconds"
    it.publish(queued_since=it.clock.now())
    assert it.value(name, **FAMILY) == it.clock.wall()
    await it.clock.step(5)
    piece = endpoint_slice("web", "80", ["10.0.0.1"])
    it.report.slices_changed([(piece, piece)])
    it.report.services_changed(seen=1, differing=0)
    assert it.value(name, **FAMILY) == it.clock.wall() - 5
    for change in (lambda: it.report.services_changed(1, 1), lambda: it.report.slices_changed([(piece, None)])):
        await it.clock.step(5)
        change()
        assert it.value(name, **FAMILY) == it.clock.wall()


def test_ports_that_the_kernel_refuses_are_counted_over_both_families() -> None:
    it = Rig()
    it.publish(syncs=1, quarantined=(("a", "x"),))
    it.report.note(SyncStatus(family=Family.V6, syncs=1, quarantined=(("a", "x"), ("b", "x"))))
    assert it.value("rejected_objects", kind="port") == 3


async def test_how_long_a_change_took_is_observed_when_it_is_in() -> None:
    it = Rig()
    await it.clock.step(1)
    piece = endpoint_slice("web", "80", ["10.0.0.1"])
    stamped = msgspec.structs.replace(piece, last_change_trigger_time=micro_timestamp(it.clock.wall()))
    it.report.slices_changed([(None, stamped)])
    await it.clock.step(2.5)
    name = "network_programming_duration_seconds"
    assert it.value(f"{name}_count", **FAMILY) is None
    it.synced()
    it.synced()
    assert it.value(f"{name}_count", **FAMILY) == 1
    assert it.value(f"{name}_sum", **FAMILY) == pytest.approx(2.5)
    buckets = {le: it.value(f"{name}_bucket", le=le, **FAMILY) for le in ("2.0", "3.0")}
    assert buckets == {"2.0": 0, "3.0": 1}


async def test_every_sync_is_timed_and_failures_are_counted_by_kind() -> None:
    it = Rig()
    it.publish(syncs=1, last_was_full=True, duration=0.5, last_success=77.0)
    it.publish(syncs=2, last_was_full=False, duration=0.1)
    it.publish(failures=1, partial_failures=1, duration=0.2)
    it.publish(failures=2, duration=4)
    kinds = ("sync_proxy_rules", "sync_full_proxy_rules", "sync_partial_proxy_rules")
    assert [it.value(f"{kind}_duration_seconds_count", **FAMILY) for kind in kinds] == [4, 2, 2]
    assert it.value("sync_full_proxy_rules_duration_seconds_sum", **FAMILY) == 4.5
    assert it.value("sync_proxy_rules_last_timestamp_seconds", **FAMILY) == 77
    assert it.value("sync_proxy_rules_iptables_restore_failures_total", **FAMILY) == 2
    assert it.value("sync_proxy_rules_iptables_partial_restore_failures_total", **FAMILY) == 1


def balanced(name: str, ip: str, port: int) -> Service:
    kind = ServiceType.LOAD_BALANCER
    return service(name, ip, type=kind, external_policy=LOCAL, health_check_node_port=port, node_port=30080)


async def test_health_checks_are_of_what_a_sync_brought_in() -> None:
    it = Rig()
    web, api = balanced("web", "10.96.0.1", 31000), balanced("api", "10.96.0.2", 31001)
    slices = [endpoint_slice(name, "80", ["10.0.0.1@node1"]) for name in ("web", "api")]
    it.synced(world(web, api, *slices))
    expected = [
        HealthCheckStatus(family=Family.V4, service=f"default/{name}", port=port, endpoints=1)
        for name, port in (("api", 31001), ("web", 31000))
    ]
    assert list(it.checks.status()) == expected
    it.synced(World(), scope={("default", "api")})
    assert list(it.checks.status()) == expected[1:]
    it.synced(World())
    assert it.checks.status() == ()


REMOTE, HERE = "10.0.0.2@node2", "10.0.0.1@node1"


@pytest.mark.parametrize(
    ("internal", "external", "endpoints", "lacking"),
    [
        (LOCAL, LOCAL, [], (False, False)),  # refused, not dropped: nobody has any
        (LOCAL, LOCAL, [REMOTE], (True, True)),
        (LOCAL, LOCAL, [REMOTE, HERE], (False, False)),
        (LOCAL, TrafficPolicy.CLUSTER, [REMOTE], (True, False)),
        (TrafficPolicy.CLUSTER, LOCAL, [REMOTE], (False, True)),
        (TrafficPolicy.CLUSTER, TrafficPolicy.CLUSTER, [REMOTE], (False, False)),
    ],
)
def test_ports_without_a_local_endpoint_while_others_have_some(
    internal: TrafficPolicy, external: TrafficPolicy, endpoints: list[str], lacking: tuple[bool, bool]
) -> None:
    web = service("web", "10.96.0.1", node_port=30080, internal_policy=internal, external_policy=external)
    found = no_local(web, *([endpoint_slice("web", "80", endpoints)] if endpoints else []))
    assert found == ([lacking] if any(lacking) else [])


def no_local(*objects: Service | EndpointSlice) -> list[LacksLocal]:
    ledger = Ledger()
    for name, state in desired(world(*objects), SETTINGS, Family.V4).items():
        ledger.enter(Change(name, None, state))
    return list(ledger.turned().values())


def test_an_external_policy_without_external_addresses_lacks_nothing() -> None:
    web = service("web", "10.96.0.1", external_policy=LOCAL)
    assert no_local(web, endpoint_slice("web", "80", [REMOTE])) == []


def test_the_ports_that_lack_local_endpoints_follow_every_change() -> None:
    ledger = Ledger()
    web = service("web", "10.96.0.1", internal_policy=LOCAL)
    built = world(web, endpoint_slice("web", "80", [REMOTE]))
    ((name, lacking),) = desired(built, SETTINGS, Family.V4).items()
    built.apply_slices({("default", "web-abcde"): endpoint_slice("web", "80", [HERE])})
    ((_, served),) = desired(built, SETTINGS, Family.V4).items()
    seen = []
    for before, after in ((None, lacking), (lacking, served), (served, lacking), (lacking, None)):
        ledger.enter(Change(name, before, after))
        seen.append(dict(ledger.turned()))
    assert seen == [{name: (True, False)}, {name: (False, False)}] * 2
    ledger.enter(Change(name, None, served))
    assert ledger.turned() == {}
    ledger.enter(Change(name, served, lacking))
    ledger.clear()
    assert ledger.turned() == {}


def test_they_are_gauges_by_policy() -> None:
    it = Rig()
    it.publish(syncs=1, no_local=(2, 1))
    name = "sync_proxy_rules_no_local_endpoints_total"
    assert it.value(name, traffic_policy="internal", **FAMILY) == 2
    assert it.value(name, traffic_policy="external", **FAMILY) == 1
    it.publish(syncs=2, no_local=(0, 0))
    assert it.value(name, traffic_policy="internal", **FAMILY) == 0


def test_ended_flows_are_counted() -> None:
    it = Rig()
    for flows in (FlowStatus(runs=1, deleted=3), FlowStatus(runs=2, deleted=5, failures=1, error="no")):
        for _ in range(2):  # a status may be published again for another reason
            it.publish(flows=flows)
    text = it.metrics.text().decode()
    for what, value in (("sync_duration_seconds_count", 2), ("deleted_entries_total", 5), ("failures_total", 1)):
        assert f'kubeproxy_conntrack_reconciler_{what}{{ip_family="IPv4"}} {value}.0' in text
