"""The backend against the model kernel: what it writes and what it leaves alone."""

import msgspec
import pytest

from kubeproxy.dataplane.base import Change, SyncFailed
from kubeproxy.dataplane.iptables.backend import TCP_BE_LIBERAL
from kubeproxy.dataplane.iptables.clients import ClientSets
from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.dataplane.iptables.localnet import MARK, ROUTE_LOCALNET
from kubeproxy.dataplane.iptables.tables import JUMPS
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.objects import EndpointSlice, Protocol, Service, TrafficPolicy
from kubeproxy.model.settings import Settings
from kubeproxy.testing.build import endpoint_slice, service, world
from tests.backend_node import web, web_slice
from tests.iptables_node import SETTINGS, Node

pytestmark = pytest.mark.unit


def test_the_first_sync_makes_chains_jumps_set_and_canaries() -> None:
    node = Node(web(), web_slice())
    applied = node.full()
    assert (applied.full, applied.ports, applied.endpoints) == (True, 1, 2)
    for jump in JUMPS:
        assert any(rule.endswith(f"-j {jump.target}") for rule in node.rules(jump.chain, jump.table))
    assert all("KUBE-PROXY-CANARY" in node.tables.tables[table] for table in ("nat", "filter", "mangle"))
    assert node.sets.sets == {
        "KUBE-LOOP-BACK": {("10.244.0.2", Protocol.TCP, 8080)},
        "KUBE-CLUSTER-IPS": {"10.96.0.1"},
    }
    assert node.sysctls.values[ROUTE_LOCALNET] == "1"


def test_a_second_full_sync_changes_nothing() -> None:
    node = Node(web(), web_slice())
    node.full()
    before = node.tables.save("nat"), node.tables.save("filter"), node.tables.save("mangle")
    node.full()
    assert before == (node.tables.save("nat"), node.tables.save("filter"), node.tables.save("mangle"))


def test_a_change_writes_only_what_changed() -> None:
    others = [service(f"s{i}", f"10.96.1.{i}") for i in range(20)]
    slices = [endpoint_slice(f"s{i}", "80", [f"10.244.5.{i}"]) for i in range(20)]
    node = Node(web(), web_slice(), *others, *slices)
    node.full()
    node.put(web_slice("10.244.0.2@node1"))
    text = node.tables.restored[-1]
    assert text.count("\n") == 5  # *nat, one chain with its two rules, COMMIT
    assert text.startswith("*nat\n:KUBE-SVC-")
    assert "*filter" not in text


def test_one_endpoint_of_many_in_place_of_another_writes_the_chains_that_differ() -> None:
    many = [f"10.244.{i // 200}.{i % 200 + 1}" for i in range(1000)]
    node = Node(web(), web_slice(*many))
    node.full()
    stood = set(node.service_chains())
    many[450] = "10.244.2.250"
    applied = node.put(web_slice(*many))
    assert applied is not None
    text = node.tables.restored[-1]
    assert 0 < text.count("\n-A ") < 200
    assert {count.written for count in applied.rules if count.table == "nat"} == {text.count("\n-A ")}
    assert node.service_chains() == stood
    fresh = Node(web(), web_slice(*many))
    fresh.full()
    assert node.tables.tables == fresh.tables.tables


def test_a_touched_service_that_is_as_before_costs_no_restore() -> None:
    node = Node(web(), web_slice())
    node.full()
    restores = len(node.tables.restored)
    assert node.partial({("default", "web")}) is None
    assert len(node.tables.restored) == restores


def test_services_come_and_go_one_rule_at_a_time() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.put(service("api", "10.96.0.2"), endpoint_slice("api", "80", ["10.244.0.9"]))
    assert node.tables.restored[-1].count("KUBE-SERVICES") == 1
    assert len(node.rules("KUBE-SERVICES")) == 3
    assert "nodeports" in node.rules("KUBE-SERVICES")[-1]
    node.remove("api")
    assert node.tables.restored[-1].count("KUBE-SERVICES") == 1
    assert len(node.rules("KUBE-SERVICES")) == 2
    assert len(node.service_chains()) == 2  # KUBE-SERVICES and web's


def test_losing_the_last_endpoint_turns_to_refusal_and_back() -> None:
    node = Node(web(node_port=30080), web_slice())
    node.full()
    fixed = node.rules("KUBE-SERVICES", "filter")
    node.put(endpoint_slice("web", "80>8080", ()))
    assert node.rules("KUBE-SERVICES", "filter") == fixed  # they refuse for all
    assert len(node.rules("KUBE-EXTERNAL-SERVICES", "filter")) == 1
    assert node.service_chains() == {"KUBE-SERVICES"}
    assert node.sets.sets["KUBE-LOOP-BACK"] == set()
    node.put(web_slice())
    assert node.rules("KUBE-SERVICES", "filter") == fixed
    assert node.rules("KUBE-EXTERNAL-SERVICES", "filter") == []
    assert len(node.service_chains()) == 3


def test_a_service_without_endpoints_is_refused_without_a_restore() -> None:
    """So that a new Service, whose endpoints come a moment later, costs one table replacement and not two."""
    node = Node(web(), web_slice())
    node.full()
    restores = len(node.tables.restored)
    node.put(service("new", "10.96.0.9"))
    assert "10.96.0.9" in node.sets.sets["KUBE-CLUSTER-IPS"]  # which filter KUBE-SERVICES refuses
    assert len(node.tables.restored) == restores
    node.put(endpoint_slice("new", "80", ["10.244.0.7"]))
    assert len(node.tables.restored) == restores + 1
    assert "*filter" not in node.tables.restored[-1]
    node.put(endpoint_slice("new", "80", []))
    node.remove("new")
    assert len(node.tables.restored) == restores + 2
    assert "10.96.0.9" not in node.sets.sets["KUBE-CLUSTER-IPS"]


def test_a_refusal_that_needs_a_rule_leaves_the_large_table_alone() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.put(service("new", "10.96.0.9", node_port=30090))
    assert "--dport 30090" in node.tables.restored[-1]
    assert "*nat" not in node.tables.restored[-1]


def test_tables_that_nobody_has_made_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is started for each, and with legacy would make it."""
    node = Node(web(), web_slice())
    read: list[str] = []
    saved = node.tables.save

    def save(table: str) -> str:
        read.append(table)
        return saved(table)

    monkeypatch.setattr(node.tables, "save", save)
    monkeypatch.setattr(node.tables, "in_use", lambda: frozenset(("filter",)))
    node.full()
    assert read == ["filter"]
    assert node.rules("PREROUTING") == node.rules("OUTPUT")  # the jump is in both


def test_not_to_learn_which_tables_there_are_fails_the_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    node = Node(web(), web_slice())

    def in_use() -> frozenset[str]:
        raise PermissionError("/proc")

    with monkeypatch.context() as patched:
        patched.setattr(node.tables, "in_use", in_use)
        with pytest.raises(SyncFailed, match="/proc"):
            node.full()
        assert node.backend.needs_full
        assert node.tables.restored == []
    node.full()
    assert node.rules("KUBE-SERVICES")


@pytest.mark.parametrize("first", ["port", "address"])
def test_an_address_of_this_node_is_refused_before_node_ports_are(first: str) -> None:
    """One packet can be to both, and what becomes of it must not depend on who came first."""
    node = Node()
    node.full()
    pair = {
        "port": [service("port", "10.96.0.1", node_port=30001)],
        "address": [
            service(
                "address",
                "10.96.0.2",
                "30001",
                external_ips=("192.168.56.11",),
                external_policy=TrafficPolicy.LOCAL,
            ),
            endpoint_slice("address", "30001>80", ["10.244.1.2@elsewhere"]),
        ],
    }
    node.put(*pair.pop(first))
    node.put(*pair.popitem()[1])
    rules = node.rules("KUBE-EXTERNAL-SERVICES", "filter")
    assert [rule.rpartition(" ")[2] for rule in rules] == ["DROP", "REJECT"]


def test_an_endpoint_of_two_services_stays_in_the_set_until_both_are_gone() -> None:
    both = [service("a", "10.96.0.1"), service("b", "10.96.0.2")]
    slices = [endpoint_slice(name, "80", ["10.244.0.2@node1"]) for name in ("a", "b")]
    node = Node(*both, *slices)
    node.full()
    node.remove("a")
    assert len(node.sets.sets["KUBE-LOOP-BACK"]) == 1
    node.remove("b")
    assert len(node.sets.sets["KUBE-LOOP-BACK"]) == 0


def test_a_restart_adopts_what_is_there_and_deletes_what_is_stale() -> None:
    node = Node(web(), web_slice(), service("old", "10.96.0.9"), endpoint_slice("old", "80", ["10.244.0.7"]))
    node.full()
    node.world.apply_services({("default", "old"): None})
    node.tables.tables["nat"]["KUBE-SEP-AAAAAAAAAAAAAAAA"] = ["-j DNAT --to-destination 10.0.0.1:80"]
    node.tables.tables["nat"]["KUBE-SVC-AAAAAAAAAAAAAAAA"] = ["-j KUBE-SEP-AAAAAAAAAAAAAAAA"]
    node.tables.tables["nat"]["KUBE-SERVICES"].append("-d 10.96.7.7/32 -j KUBE-SVC-AAAAAAAAAAAAAAAA")
    fresh = Node(web(), web_slice())
    fresh.full()
    node.restart()
    node.full()
    assert node.tables.tables == fresh.tables.tables
    assert node.sets.sets == fresh.sets.sets
    assert node.tables.restored[-1].count("*nat") == 1  # one transaction: nobody sees it half done


def test_a_stale_chain_that_a_foreign_rule_needs_is_emptied_and_blocks_nobody() -> None:
    node = Node(web(), web_slice())
    node.tables.tables["nat"]["KUBE-SVC-AAAAAAAAAAAAAAAA"] = ["-j DNAT --to-destination 10.0.0.1:80"]
    node.tables.tables["nat"]["THEIRS"] = ["-d 10.9.9.9/32 -j KUBE-SVC-AAAAAAAAAAAAAAAA"]
    assert node.full().ports == 1
    assert node.rules("THEIRS") == ["-d 10.9.9.9/32 -j KUBE-SVC-AAAAAAAAAAAAAAAA"]
    assert node.rules("KUBE-SVC-AAAAAAAAAAAAAAAA") == []


FOREIGN = {
    "nat": {"DOCKER": ["-j RETURN"], "POSTROUTING": ["-s 172.17.0.0/16 -j MASQUERADE"]},
    "filter": {"DOCKER-USER": ["-j RETURN"], "INPUT": ["-s 10.9.9.9/32 -j DROP"], "KUBE-FIREWALL": ["-j DROP"]},
    "mangle": {"KUBE-KUBELET-CANARY": []},
}


def add_foreign(tables: FakeTables) -> None:
    for table, chains in FOREIGN.items():
        for chain, rules in chains.items():
            tables.tables[table].setdefault(chain, []).extend(rules)


def test_foreign_rules_survive_syncs_and_cleanup() -> None:
    node = Node(web(), web_slice())
    add_foreign(node.tables)
    untouched = {table: {c: list(r) for c, r in chains.items()} for table, chains in node.tables.tables.items()}
    node.sets.create("docker-set", SetType.ADDRESSES)
    node.full()
    for table, chains in FOREIGN.items():
        for chain, rules in chains.items():
            assert set(rules) <= set(node.rules(chain, table))
    node.backend.cleanup()
    assert node.tables.tables == untouched
    assert node.sets.sets == {"docker-set": set()}


def test_cleanup_leaves_a_chain_that_a_foreign_rule_needs() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.tables.tables["nat"]["CNI-HOSTPORT"] = ["-j KUBE-MARK-MASQ"]
    node.backend.cleanup()
    assert node.rules("CNI-HOSTPORT") == ["-j KUBE-MARK-MASQ"]
    assert node.tables.tables["nat"]["KUBE-MARK-MASQ"] == []
    assert "KUBE-SERVICES" not in node.tables.tables["nat"]


def test_cleanup_of_a_clean_kernel_writes_nothing() -> None:
    node = Node()
    node.backend.cleanup()
    assert node.tables.restored == []


def test_endpoints_with_affinity_have_sets_for_as_long_as_they_are_there() -> None:
    def clients() -> set[str]:
        return node.sets.named("KUBE-SEP-")

    node = Node(web(), web_slice(), service("api", "10.96.0.2"), endpoint_slice("api", "80", ["10.244.0.9"]))
    node.full()
    assert clients() == set()
    node.put(web(session_affinity=True))
    both = clients()
    assert len(both) == 2
    node.put(web_slice("10.244.0.2@node1"))
    (left,) = clients()
    assert left in both
    node.sets.add(left, ["192.168.0.7"])
    node.restart()
    node.sets.create("KUBE-SEP-AAAAAAAAAAAAAAAA", SetType.CLIENTS)  # a predecessor's
    node.full()
    assert clients() == {left}
    assert node.sets.members(left) == {"192.168.0.7"}
    node.put(web())
    assert clients() == set()


def sticky(name: str, address: str, *endpoints: str) -> tuple[Service, EndpointSlice]:
    return service(name, address, session_affinity=True), endpoint_slice(name, "80", endpoints)


def test_a_sticky_service_without_room_for_its_sets_is_left_out_and_the_others_are_served() -> None:
    node = Node(*sticky("a", "10.96.0.1", "10.244.0.2", "10.244.0.3"))
    node.full()
    node.sets.most = len(node.sets.sets)
    others = service("c", "10.96.0.3"), endpoint_slice("c", "80", ["10.244.0.5"])
    applied = node.put(*sticky("b", "10.96.0.2", "10.244.0.4"), *others)
    assert applied is not None
    ((late, why),) = applied.quarantined.items()
    assert late.name == "b"
    assert "no room for the 1 ipsets" in why
    assert any("10.96.0.3/32" in rule for rule in node.rules("KUBE-SERVICES"))
    assert not any("10.96.0.2/32" in rule for rule in node.rules("KUBE-SERVICES"))
    # Whoever was there first stays, also when all is written anew, and when its endpoints are others.
    assert [each.name for each in node.full().quarantined] == ["b"]
    node.sets.most += 1
    node.put(endpoint_slice("a", "80", ["10.244.0.2", "10.244.0.5"]))
    assert any("10.96.0.1/32" in rule for rule in node.rules("KUBE-SERVICES"))
    assert node.full().quarantined == {}


def test_sets_of_clients_are_counted() -> None:
    made = FakeSets()
    sets = ClientSets(made, most=3)
    states = {
        name.name: state
        for name, state in wanted(
            world(
                *sticky("a", "10.96.0.1", "10.244.0.2", "10.244.0.3"),
                *sticky("b", "10.96.0.2", "10.244.0.2", "10.244.0.3"),
            ),
            SETTINGS,
            Family.V4,
        ).ports
    }
    a, b = (Change(state.name, None, state) for state in (states["a"], states["b"]))
    assert sets.make(a) == "" == sets.make(a)
    assert "others have 2 of this node's 3" in sets.make(b)
    assert len(made.sets) == 2
    sets.change(Change(a.name, states["a"], None))
    assert sets.make(b) == ""
    sets.sweep()
    # After a restart whoever had sets has them, whatever the order.
    sets = ClientSets(made, most=3)
    sets.adopt()
    assert "others have 2" in sets.make(a)
    assert sets.make(b) == ""
    assert not sets.sweep()
    # A predecessor's that nobody wants make room for the next full plan.
    sets.adopt()
    assert sets.make(a) != ""
    assert sets.sweep()
    sets.adopt()
    assert sets.make(a) == ""


@pytest.mark.parametrize(
    ("cidrs", "written", "route_localnet"),
    [
        (("192.168.0.0/24", "fd00::/8"), ["-d 192.168.0.0/24"], False),
        (("192.168.0.0/24", "127.0.0.0/8"), ["-d 192.168.0.0/24", "-d 127.0.0.0/8"], True),
        (("96.0.0.0/3",), ["-d 96.0.0.0/3"], True),
        (("192.168.0.0/24", "0.0.0.0/0"), [""], True),
        (("fd00::/8",), [""], True),  # a family that is not named is not restricted
        ((), [""], True),
    ],
)
def test_node_ports_answer_on_chosen_addresses(
    cidrs: tuple[str, ...], written: list[str], route_localnet: bool
) -> None:
    node = Node(web(node_port=30080), web_slice(), settings=Settings(node_name="n", nodeport_addresses=cidrs))
    node.full()
    ends = [rule for rule in node.rules("KUBE-SERVICES") if rule.endswith("-j KUBE-NODEPORTS")]
    assert [rule.partition("-m")[0].strip() for rule in ends] == written
    assert (ROUTE_LOCALNET in node.sysctls.values) is route_localnet


def test_node_ports_on_loopback_can_be_left_out() -> None:
    chosen = Settings(node_name="n", localhost_nodeports=False, nodeport_addresses=("127.0.0.0/8",))
    node = Node(web(node_port=30080), web_slice(), settings=chosen)
    node.full()
    assert not any("KUBE-NODEPORTS" in rule for rule in node.rules("KUBE-SERVICES"))
    settings = Settings(node_name="n", localhost_nodeports=False)
    node = Node(web(node_port=30080), web_slice(), settings=settings)
    node.full()
    assert node.rules("KUBE-SERVICES")[-1].startswith("! -d 127.0.0.0/8 ")
    assert node.rules("KUBE-NODEPORTS", "filter") == []
    assert ROUTE_LOCALNET not in node.sysctls.values


@pytest.mark.parametrize(("value", "dropped"), [("", True), ("0", True), ("1", False)])
def test_invalid_packets_are_dropped_unless_conntrack_is_liberal(value: str, dropped: bool) -> None:
    node = Node(web(), web_slice())
    node.sysctls.values[TCP_BE_LIBERAL] = value
    node.full()
    assert any("INVALID" in rule for rule in node.rules("KUBE-FORWARD", "filter")) is dropped


@pytest.mark.parametrize(("services", "endpoints"), [(1, 1), (1, 10), (10, 1), (10, 2)])
def test_the_layout_stays_lean(services: int, endpoints: int) -> None:
    """Upstream writes 5 + S(2 + 3n) rules into nat; ours are one rule an endpoint, and no chain of its own."""
    node = Node()
    for i in range(services):
        addresses = [f"10.244.{i}.{j}" for j in range(endpoints)]
        one = service(f"s{i}", f"10.96.1.{i}")
        node.world.apply_services({(one.namespace, one.name): one})
        piece = endpoint_slice(one.name, "80", addresses)
        node.world.apply_slices({(piece.namespace, piece.name): piece})
    node.full()
    ours = [rule for chain, rules in node.tables.tables["nat"].items() if "KUBE" in chain for rule in rules]
    assert len(ours) == 7 + services * (2 + endpoints)
    assert len(node.service_chains()) == 1 + services
    assert sum("--comment" in rule for rule in ours) == 2 + services


def test_route_localnet_is_set_back_by_whoever_set_it() -> None:
    node = Node(web(), web_slice())
    node.sysctls.values[ROUTE_LOCALNET] = "0"
    node.full()
    node.restart()
    node.tables.flush("nat")
    node.full()  # a new agent that finds 1, and no mark: it cannot know
    assert MARK not in node.tables.tables["nat"]
    node.sysctls.values[ROUTE_LOCALNET] = "0"
    node.full()
    node.tables.flush("nat")
    node.full()  # the same agent remembers
    node.restart()
    node.full()
    node.backend.cleanup()
    assert node.sysctls.values[ROUTE_LOCALNET] == "0"
    assert MARK not in node.tables.tables["nat"]


def test_route_localnet_of_somebody_else_stays() -> None:
    node = Node(web(), web_slice())
    node.sysctls.values[ROUTE_LOCALNET] = "1"
    node.full()
    node.backend.cleanup()
    assert node.sysctls.values[ROUTE_LOCALNET] == "1"


def test_route_localnet_is_set_back_when_node_ports_leave_127_0_0_1() -> None:
    node = Node(web(), web_slice())
    node.sysctls.values[ROUTE_LOCALNET] = "0"
    node.full()
    node.settings = msgspec.structs.replace(SETTINGS, localhost_nodeports=False)
    node.restart()
    node.full()
    assert node.sysctls.values[ROUTE_LOCALNET] == "0"
    assert MARK not in node.tables.tables["nat"]


def test_a_jump_between_the_same_chains_on_other_conditions_is_not_ours() -> None:
    """kube-proxy's ipvs mode has one, and it is removed with that mode."""
    node = Node(web(), web_slice())
    theirs = '-m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL'
    node.tables.restore(f"*filter\n:KUBE-PROXY-FIREWALL - [0:0]\n-I FORWARD {theirs}\nCOMMIT\n")
    node.full()
    ours = [rule for rule in node.rules("FORWARD", "filter") if rule.endswith("-j KUBE-PROXY-FIREWALL")]
    assert len(ours) == 2
    assert "--ctstate NEW" in ours[0]
