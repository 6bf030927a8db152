"""The table depends on what the cluster is, not on how it came to be; and a change touches its Service only."""

import pytest
from dnslib import DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from dns.cluster import Cluster
from dns.zone import ClusterZone, Settings
from kubeproxy.model.objects import EndpointSlice, Service
from tests.dns_bed import Bed, endpoint, piece, service

pytestmark = pytest.mark.unit

ADDRESSES = ("10.0.0.1", "10.0.0.2", "fd00::1", "fd00::")
NAMES = ("a", "b", "c")

endpoints = st.builds(
    endpoint, st.sampled_from(ADDRESSES), st.sampled_from(("", "pod-0", "pod-1")), st.booleans(), st.just("")
)
slices = st.builds(
    lambda owner, found, name: piece(owner, *found, name=name),
    st.sampled_from((*NAMES, "nobody")),
    st.lists(endpoints, max_size=3),
    st.sampled_from(("s1", "s2", "s3")),
)
PORTS = st.sampled_from(
    ((("http", "TCP", 80),), (("", "TCP", 80),), (("dns", "UDP", 53), ("dns-tcp", "TCP", 53)), ())
)  # fmt: skip
services = st.one_of(
    st.builds(lambda name, ips, ports: service(name, *ips, ports=ports), st.sampled_from(NAMES),
              st.lists(st.sampled_from(("10.96.0.1", "10.96.0.2", "fd01::1")), max_size=2, unique=True), PORTS),
    st.builds(lambda name: service(name, headless=True), st.sampled_from(NAMES)),
    st.builds(lambda name, target: service(name, external=target), st.sampled_from(NAMES),
              st.sampled_from(("example.org", "10.0.0.1", "a..b", "x" * 64, "b.testns.svc.cluster.local."))),
)  # fmt: skip
Change = tuple[str, str, Service | EndpointSlice | None]
changes = st.one_of(
    services.map(lambda one: ("service", one.name, one)),
    st.sampled_from(NAMES).map(lambda name: ("service", name, None)),
    slices.map(lambda one: ("slice", one.name, one)),
    st.sampled_from(("s1", "s2", "s3")).map(lambda name: ("slice", name, None)),
)
SETTINGS = Settings(zones=("cluster.local.", "other.test."), reverse_zones=("in-addr.arpa.", "ip6.arpa."))


def apply(zone: ClusterZone, cluster: Cluster, change: Change) -> set[tuple[str, str]]:
    kind, name, value = change
    if kind == "service":
        touched = cluster.apply_services({("testns", name): value})  # type: ignore[dict-item]
    else:
        touched = cluster.apply_slices({("testns", name): value})  # type: ignore[dict-item]
    for key in touched:
        zone.set_service(key, *cluster.of(key))
    zone.touch(1)
    return touched


@settings(max_examples=150, deadline=None)
@given(st.lists(changes, max_size=14))
def test_any_history_ends_in_the_table_of_its_end(history: list[Change]) -> None:
    zone, cluster = ClusterZone(SETTINGS), Cluster()
    for change in history:
        apply(zone, cluster, change)
    zone.touch(1)
    fresh = ClusterZone(SETTINGS)
    for name in (*NAMES, "nobody"):
        fresh.set_service(("testns", name), *cluster.of(("testns", name)))
    fresh.touch(1)
    assert zone.table.answers == fresh.table.answers
    assert zone.table.names == fresh.table.names
    assert zone.table.deferred == fresh.table.deferred
    for name in (*NAMES, "nobody"):
        zone.set_service(("testns", name), None, ())
    zone.touch(1)
    empty = ClusterZone(SETTINGS)
    empty.touch(1)
    assert zone.table.answers == empty.table.answers
    assert zone.table.names == empty.table.names


@settings(max_examples=50, deadline=None)
@given(services, slices)
def test_every_answer_decodes(one: Service, found: EndpointSlice) -> None:
    bed = Bed("ttl 5")
    bed.add(one, found if found.service == one.name else piece(one.name))
    bed.sync()
    for key, answer in bed.zone.table.answers.items():
        parsed = DNSRecord.parse(b"\0\1\x84\0" + answer.counts + key + answer.tail)
        assert len(parsed.rr) + len(parsed.auth) >= 1


def test_a_change_writes_only_what_changed() -> None:
    zone, cluster = ClusterZone(SETTINGS), Cluster()
    apply(zone, cluster, ("service", "a", service("a", "10.96.0.1")))
    apply(zone, cluster, ("service", "b", service("b", "10.96.0.2")))
    apply(zone, cluster, ("slice", "s1", piece("a", "10.0.0.1", "10.0.0.2", name="s1")))
    before = dict(zone.table.answers)
    apply(zone, cluster, ("slice", "s1", piece("a", "10.0.0.1", "10.0.0.3", name="s1")))
    written = {key for key, answer in zone.table.answers.items() if before.get(key) is not answer}
    kept = {
        key for key in written if b"\1b\6testns" in key or b"10-0-0-1" in key or b"\x011\x010\x010\x0210" in key
    }
    assert kept == set()
    assert any(b"10-0-0-3" in key for key in written)


def test_a_name_that_does_not_fit_is_left_out_and_counted() -> None:
    long = ClusterZone(Settings(zones=(".".join(["z" * 50] * 4) + ".",)))
    assert long.set_service(("testns", "a" * 60), service("a" * 60, "10.96.0.1"), ())
    assert long.skipped > 0
