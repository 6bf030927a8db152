"""What nftables mode makes of a Service port: places, classes, endpoints. Packets are the scenario table's."""

import pytest

from kubeproxy.dataplane.nftables.stays import kept_seconds
from kubeproxy.model.objects import ServiceType, TrafficPolicy
from tests.nftables_node import Node, web, web_slice

pytestmark = pytest.mark.unit

HTTP = "10.96.0.1 . tcp . 80"
EXTERNAL = "203.0.113.1 . tcp . 80"
ENDPOINTS = ("10.244.1.1@node1", "10.244.2.1@node2", "10.244.2.2@node2")


def sticky(seconds: int) -> dict[str, object]:
    """Return what a Service with affinity has."""
    return {"session_affinity": True, "affinity_seconds": seconds}


def test_a_place_has_a_class_and_its_endpoints_have_slots() -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-2"}
    assert node.held("endpoints") == {
        f"{HTTP} . 0": "10.244.1.1 . 8080",
        f"{HTTP} . 1": "10.244.2.1 . 8080",
    }
    assert node.held("cluster-ips") == {"10.96.0.1": ""}
    assert node.held("hairpin-connections") == {"10.244.1.1 . 10.244.1.1 . tcp . 8080": ""}
    assert node.element("service-classes", HTTP).comment == "default/web:http"


def test_the_number_of_chains_is_that_of_classes_not_of_services() -> None:
    many = [web(f"web{i}", f"10.96.1.{i}") for i in range(100)]
    slices = [web_slice(name=f"web{i}") for i in range(100)]
    one, all_of_them = Node(many[0], slices[0]), Node(*many, *slices)
    one.full()
    all_of_them.full()
    assert one.chains() == all_of_them.chains()


def test_affinity_has_a_chain_for_each_time_and_one_for_each_count_however_they_go_together() -> None:
    times = range(10000, 11000, 10)
    services = [
        web(f"web{seconds}-{count}", f"10.96.{count}.{seconds % 1000 // 10}", **sticky(seconds))
        for seconds in times
        for count in (1, 2, 3)
    ]
    slices = [web_slice(*ENDPOINTS[: int(each.name[-1])], name=each.name) for each in services]
    node = Node(*services, *slices)
    bare = node.chains()
    node.full()
    fresh = node.chains() - bare
    assert {name for name in fresh if name.startswith("choose")} == {"choose-1", "choose-2", "choose-3"}
    kept = {f"cluster-sticky-{kept_seconds(seconds)}" for seconds in times}
    assert len(kept) < 10
    assert {name for name in fresh if "sticky" in name} == kept
    # When a class comes, the kernel goes from each of these to all of those.
    assert len(node.held("picks")) == len(kept)
    assert len(node.held("choosers")) == 3


@pytest.mark.parametrize(
    "seconds", [1, 10, 60, 99, 120, 300, 600, 900, 1800, 2700, 3600, 5400, 7200, 10800, 43200, 86400]
)
def test_affinity_times_that_people_choose_are_kept_exactly(seconds: int) -> None:
    assert kept_seconds(seconds) == seconds


def test_affinity_times_are_never_cut_and_stretched_by_a_twentieth_at_most() -> None:
    kept = {seconds: kept_seconds(seconds) for seconds in range(1, 86401)}
    assert all(seconds <= longer <= 1.05 * seconds for seconds, longer in kept.items())
    assert len(set(kept.values())) < 350


def test_under_policy_local_a_place_has_two_lists() -> None:
    node = Node(
        web(node_port=30080, external_ips=("203.0.113.1",), external_policy=TrafficPolicy.LOCAL), web_slice()
    )
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-2", EXTERNAL: "local-1"}
    assert node.held("nodeport-classes") == {"tcp . 30080": "nodeport-local-1"}
    assert node.held("short-circuit-ips") == {EXTERNAL: "pick-2"}
    assert node.held("short-circuit-nodeports") == {"tcp . 30080": "nodeport-pick-2"}
    assert node.held("local-endpoints") == {f"{EXTERNAL} . 0": "10.244.1.1 . 8080"}
    assert len(node.held("nodeport-endpoints")) == 2


def test_nobody_there_is_refused_and_no_node_port_of_that_number_has_it() -> None:
    node = Node(web(node_port=30080, external_ips=("203.0.113.1",)))
    node.full()
    assert node.held("service-classes") == {HTTP: "untranslated", EXTERNAL: "untranslated"}
    assert set(node.held("rejected-services")) == {HTTP, EXTERNAL}
    assert set(node.held("rejected-nodeports")) == {"tcp . 30080"}
    assert node.held("nodeport-classes") == {}


def test_nobody_here_is_dropped_from_outside() -> None:
    service = web(external_ips=("203.0.113.1",), external_policy=TrafficPolicy.LOCAL)
    node = Node(service, web_slice("10.244.2.1@node2"))
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-1", EXTERNAL: "local-0"}
    assert node.held("short-circuit-ips") == {EXTERNAL: "pick-1"}
    assert set(node.held("dropped-services")) == {EXTERNAL}
    assert node.held("rejected-services") == {}


def test_endpoints_under_affinity_keep_their_numbers_when_others_go() -> None:
    node = Node(web(**sticky(60)), web_slice(*ENDPOINTS))
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-sticky-60"}
    assert node.held("sticky-sizes") == {HTTP: "choose-3"}
    before = set(node.held("sticky-endpoints").items())
    assert len(before) == 3
    node.put(web_slice("10.244.2.1@node2", "10.244.2.2@node2"))
    after = set(node.held("sticky-endpoints").items())
    assert after < before
    assert node.held("endpoints") == {}


def test_source_ranges_guard_a_load_balancers_address() -> None:
    service = web(
        type=ServiceType.LOAD_BALANCER,
        load_balancer_ips=("203.0.113.1",),
        source_ranges=("198.51.100.0/24", "198.51.100.128/25", "192.168.0.0/24"),
    )
    node = Node(service, web_slice())
    node.full()
    assert set(node.held("guarded-ips")) == {EXTERNAL}
    assert set(node.held("firewall-sources-24")) == {f"{EXTERNAL} . 198.51.100.0", f"{EXTERNAL} . 192.168.0.0"}
    assert set(node.held("firewall-sources-25")) == {f"{EXTERNAL} . 198.51.100.128"}
    assert set(node.held("firewall-sources-32")) == {f"{EXTERNAL} . 203.0.113.1"}


def test_an_address_that_a_service_names_twice_is_one_place() -> None:
    node = Node(web(external_ips=("10.96.0.1", "203.0.113.1"), load_balancer_ips=("203.0.113.1",)), web_slice())
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-2", EXTERNAL: "masquerade-2"}


def test_a_name_too_long_for_a_comment_is_cut() -> None:
    name = f"{'n' * 63}/{'s' * 63}"
    node = Node(web(name), web_slice(name=name))
    node.full()
    comment = node.element("service-classes", HTTP).comment
    assert len(comment) == 128
    assert comment.startswith("n" * 63 + "/" + "s" * 40)
