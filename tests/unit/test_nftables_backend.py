"""The nftables backend when all goes well: what a change costs, what a restart finds, what is removed."""

import msgspec
import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.nftables import numbers
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Base,
    Chain,
    DeleteElements,
    DeleteTable,
    Field,
    Hook,
    SetSpec,
)
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import EndpointSlice, Service, ServiceType, TrafficPolicy
from kubeproxy.testing.build import service
from tests.nftables_node import Node, sizes, web, web_slice

pytestmark = pytest.mark.unit

HTTP = "10.96.0.1 . tcp . 80"


def test_an_endpoint_that_is_replaced_moves_one_element_and_nothing_else() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    node.put(web_slice("10.244.1.1@node2", "10.244.1.3@node2"))
    assert sizes(node.table.commits[-1]) == {"-endpoints": 1, "endpoints": 1}
    assert len(node.table.commits[-1]) == 2


def _many(*numbers: int) -> EndpointSlice:
    return web_slice(*(f"10.244.1.{number}@node2" for number in numbers))


def test_endpoints_that_stay_keep_their_slots() -> None:
    node = Node(web(node_port=30080), _many(*range(10, 20)))
    node.full()
    node.put(_many(1, *range(11, 20)))
    assert sizes(node.table.commits[-1]) == {
        "-endpoints": 1,
        "endpoints": 1,
        "-nodeport-endpoints": 1,
        "nodeport-endpoints": 1,
    }
    node.put(_many(1, *range(12, 20)))
    assert sizes(node.table.commits[-1])["-endpoints"] == 2
    assert sizes(node.table.commits[-1])["endpoints"] == 1
    node.put(_many(1, 5, *range(12, 20)))
    assert sizes(node.table.commits[-1])["endpoints"] == 1
    before = node.held("endpoints")
    assert {each.split(" . ")[0] for each in before.values()} == {f"10.244.1.{n}" for n in (1, 5, *range(12, 20))}
    assert node.backend.observe() == ""
    node.restart()
    node.full()
    assert sizes(node.table.commits[-1]) == {}
    assert node.held("endpoints") == before
    assert node.backend.observe() == ""
    node.put(_many(1, 5, *range(13, 20)))
    assert sizes(node.table.commits[-1])["endpoints"] <= 1


_BALANCED = web(node_port=30080, type=ServiceType.LOAD_BALANCER, external_policy=TrafficPolicy.LOCAL)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (web(node_port=30080), service("web", "10.96.0.1", "http=81>8080", node_port=30080)),
        (_BALANCED, msgspec.structs.replace(_BALANCED, load_balancer_ips=("203.0.113.1",))),
    ],
    ids=["another port, the same node port", "an address of a load balancer"],
)
def test_a_place_that_a_restart_adds_has_the_endpoints_that_the_others_have(
    before: Service, after: Service
) -> None:
    def endpoints(*numbers: int) -> EndpointSlice:
        return web_slice(*(f"10.244.1.{number}@node1" for number in numbers))

    node = Node(before, endpoints(2, 3, 4))
    node.full()
    node.put(endpoints(3, 4))  # the last comes into the first slot
    node.world.apply_services({("default", "web"): after})
    node.restart()
    node.full()
    assert node.backend.observe() == ""
    node.put(endpoints(3, 5))
    for name in ("endpoints", "local-endpoints", "nodeport-endpoints", "nodeport-local-endpoints"):
        found: dict[str, set[str]] = {}
        for where, endpoint in node.held(name).items():
            found.setdefault(where.rpartition(" . ")[0], set()).add(endpoint)
        assert all(each == {"10.244.1.3 . 8080", "10.244.1.5 . 8080"} for each in found.values())
    node.restart()
    node.full()
    assert sizes(node.table.commits[-1]) == {}


def test_endpoints_under_affinity_keep_their_slots_too() -> None:
    sticky = web(session_affinity=True, affinity_seconds=60)
    node = Node(sticky, _many(*range(10, 20)))
    node.full()
    node.put(_many(*range(11, 21)))
    assert sizes(node.table.commits[-1]) == {
        "-sticky-slots": 1,
        "sticky-slots": 1,
        "-sticky-endpoints": 1,
        "sticky-endpoints": 1,
    }
    node.restart()
    node.full()
    assert sizes(node.table.commits[-1]) == {}


def test_an_endpoint_gets_another_number_when_one_comes_or_goes_that_wants_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(numbers, "_digest", lambda text: 0)
    node = Node(web(session_affinity=True, affinity_seconds=60), _many(2))
    node.full()
    numbered = {"10.244.1.1 . 8080": "6b80:0", "10.244.1.2 . 8080": "6b80:1"}
    for endpoints, expected in (
        (_many(1, 2), numbered),
        (_many(2), {"10.244.1.2 . 8080": "6b80:0"}),
        (_many(1, 2), numbered),
    ):
        node.put(endpoints)
        held = {data: where.rpartition(" . ")[2] for where, data in node.held("sticky-endpoints").items()}
        assert held == expected
        assert set(node.held("sticky-slots").values()) == set(expected.values())


def test_a_service_that_comes_moves_its_elements_and_makes_no_chain_that_is_there() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.put(web("api", "10.96.0.2"), web_slice("10.244.1.5@node2", "10.244.1.6@node2", name="api"))
    assert sizes(node.table.commits[-1]) == {"service-classes": 1, "endpoints": 2, "cluster-ips": 1}
    node.remove("api")
    assert sizes(node.table.commits[-1]) == {"-service-classes": 1, "-endpoints": 2, "-cluster-ips": 1}


def test_what_two_services_share_stays_until_both_are_gone() -> None:
    shared = ("10.244.1.1@node1",)
    node = Node(web(), web_slice(*shared), web("api", "10.96.0.2"), web_slice(*shared, name="api"))
    node.full()
    hairpin = node.held("hairpin-connections")
    assert len(hairpin) == 1
    node.remove("api")
    assert node.held("hairpin-connections") == hairpin
    node.remove("web")
    assert node.held("hairpin-connections") == {}
    assert node.held("cluster-ips") == {}


def test_what_was_shared_and_went_comes_again() -> None:
    node = Node(web(), web_slice())
    node.full()
    there = node.held("cluster-ips"), node.held("hairpin-connections")
    for _ in range(2):
        node.remove("web")
        assert (node.held("cluster-ips"), node.held("hairpin-connections")) == ({}, {})
        node.put(web())
        assert (node.held("cluster-ips"), node.held("hairpin-connections")) == there


def test_a_place_goes_from_one_service_to_another_in_one_transaction() -> None:
    node = Node(web(), web_slice(), web("api", "10.96.0.2"), web_slice("10.244.2.9@node2", name="api"))
    node.full()
    commits = len(node.table.commits)
    node.put(web(ip="10.96.0.3"), web("api", "10.96.0.1"))
    assert len(node.table.commits) == commits + 1
    assert node.held("service-classes") == {HTTP: "cluster-1", "10.96.0.3 . tcp . 80": "cluster-2"}
    assert node.held("endpoints")[f"{HTTP} . 0"] == "10.244.2.9 . 8080"


def test_a_restart_finds_everything_and_moves_no_element() -> None:
    node = Node(
        web(node_port=30080), web_slice(), web("api", "10.96.0.2", session_affinity=True, affinity_seconds=9)
    )
    node.full()
    before = {name: node.held(name) for name in ("service-classes", "picks", "endpoints")}
    node.restart()
    node.full()
    assert sizes(node.table.commits[-1]) == {}
    assert before == {name: node.held(name) for name in before}
    assert not any(isinstance(step, DeleteTable | AddSet) for step in node.table.commits[-1])


def test_a_restart_corrects_what_changed_meanwhile_in_one_transaction() -> None:
    node = Node(web(), web_slice(), web("api", "10.96.0.2"))
    node.full()
    node.restart()
    commits = len(node.table.commits)
    node.world.apply_services({("default", "api"): None})
    gone = web_slice()
    node.world.apply_slices({(gone.namespace, gone.name): None})
    node.full()
    assert len(node.table.commits) == commits + 1
    assert node.held("service-classes") == {HTTP: "untranslated"}
    assert set(node.held("rejected-services")) == {HTTP}


def test_clients_that_affinity_remembers_survive_a_restart() -> None:
    node = Node(web(session_affinity=True, affinity_seconds=60), web_slice())
    node.full()
    remembered = node.element("sticky-endpoints", next(iter(node.held("sticky-endpoints"))))
    client = bytes((198, 51, 100, 7)) + remembered.key[:12]
    node.table.learn("affinity", msgspec.structs.replace(remembered, key=client, data=remembered.key[12:]))
    node.restart()
    node.full()
    assert node.table.contents is not None
    assert [each.key for each in node.table.contents.elements["affinity"].values()] == [client]


def test_a_table_of_kube_proxys_own_is_replaced_in_the_same_transaction() -> None:
    node = Node(web(), web_slice())
    node.table.commit(
        [
            AddTable("rules for kube-proxy"),
            AddChain(Chain("service-ULMVA6XW-ns1/svc1/tcp/p80")),
            AddSet(SetSpec(name="service-ips", key=(Field.ADDRESS, Field.PROTOCOL, Field.PORT), data="verdict")),
        ]
    )
    node.full()
    assert len(node.table.commits) == 2
    assert isinstance(node.table.commits[-1][0], DeleteTable)
    assert node.held("service-classes") == {HTTP: "cluster-2"}


def test_a_base_chain_with_another_priority_is_replaced() -> None:
    node = Node(web(), web_slice())
    node.table.commit([AddTable(), AddChain(Chain("nat-prerouting", Base("nat", Hook.PREROUTING, -100)))])
    node.full()
    found = node.table.chains()["nat-prerouting"].base
    assert found is not None
    assert found.priority == -101


def test_a_partial_plan_needs_a_full_one_before_it() -> None:
    node = Node(web())
    with pytest.raises(SyncFailed, match="full sync"):
        node.put(web_slice())


def test_nothing_to_do_is_no_plan() -> None:
    node = Node(web(), web_slice())
    node.full()
    scope = {("default", "web")}
    assert node.backend.diff(wanted(node.world, node.settings, Family.V4, scope), scope) is None


def test_cleanup_leaves_nothing_and_may_come_twice() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.backend.cleanup()
    assert not node.table.exists()
    node.backend.cleanup()
    assert node.backend.needs_full


def test_no_packet_is_called_invalid_where_connection_tracking_is_liberal() -> None:
    strict, liberal = Node(), Node()
    liberal.sysctls.values["net/netfilter/nf_conntrack_tcp_be_liberal"] = "1"
    strict.full()
    liberal.full()
    assert len(strict.table.rules("filter-forward")) == len(liberal.table.rules("filter-forward")) + 1


def test_applied_counts_ports_and_endpoints() -> None:
    node = Node(web(), web_slice())
    applied = node.full()
    assert (applied.full, applied.ports, applied.endpoints, applied.changed) == (True, 1, 2, 1)
    applied = node.put(web("api", "10.96.0.2"))
    assert (applied.full, applied.ports, applied.endpoints, applied.changed) == (False, 2, 2, 1)


def test_only_changed_elements_are_in_a_transaction_that_many_services_share() -> None:
    node = Node(*(web(f"web{i}", f"10.96.1.{i}") for i in range(50)))
    node.full()
    node.put(web_slice("10.244.1.1@node2", name="web7"))
    moved = sizes(node.table.commits[-1])
    assert moved == {
        "picks": 1,
        "-service-classes": 1,
        "service-classes": 1,
        "endpoints": 1,
        "-rejected-services": 1,
    }
    kinds = {type(step) for step in node.table.commits[-1]}
    assert {AddElements, DeleteElements, AddRule, AddChain} <= kinds


def _guarded(*ranges: str) -> Service:
    return web(type=ServiceType.LOAD_BALANCER, load_balancer_ips=("203.0.113.1",), source_ranges=ranges)


def test_a_prefix_length_has_a_set_as_long_as_some_range_has_it() -> None:
    node = Node(_guarded("198.51.100.0/24"), web_slice())
    node.full()
    rules = len(node.table.rules("firewall-sources"))
    node.put(_guarded("198.51.100.0/24", "10.0.0.0/8", "10.0.0.0/8"))
    assert node.held("firewall-sources-8") == {"203.0.113.1 . tcp . 80 . 10.0.0.0": ""}
    assert len(node.table.rules("firewall-sources")) == rules + 1
    node.put(_guarded("10.0.0.0/8"))
    assert node.held("firewall-sources-24") == {}
    assert node.backend.observe() == ""
    assert "firewall-sources-24" not in node.table.sets()
    assert len(node.table.rules("firewall-sources")) == rules
    node.put(_guarded("10.0.0.0/8", "198.51.0.0/16"))
    assert sizes(node.table.commits[-1]) == {"firewall-sources-16": 1}


def test_a_restart_takes_away_what_ranges_had_that_are_gone() -> None:
    node = Node(_guarded("198.51.100.0/24", "10.0.0.0/8"), web_slice())
    node.full()
    node.world.apply_services({("default", "web"): _guarded("10.0.0.0/8")})
    node.restart()
    node.full()
    assert "firewall-sources-24" not in node.table.sets()
    assert node.backend.observe() == ""


def test_chains_that_we_write_anew_ourselves_are_no_drift() -> None:
    node = Node(_guarded("198.51.100.0/24"), web_slice("10.244.1.1@node2"))
    node.full()
    assert node.backend.observe() == ""
    node.put(_guarded("198.51.100.0/24", "10.0.0.0/8"))
    node.put(web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.table.kernel.disturbed()
    assert node.backend.observe() == ""
    node.put(web_slice("10.244.1.1@node2"))
    node.table.kernel.disturbed()
    assert node.backend.observe() == ""


def test_rules_of_another_node_state_in_a_new_table_are_no_drift() -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.backend.observe() == ""
    node.tamper(DeleteTable())
    node.settings = msgspec.structs.replace(node.settings, masquerade_bit=5)
    node.full()
    node.table.kernel.disturbed()
    assert node.backend.observe() == ""
