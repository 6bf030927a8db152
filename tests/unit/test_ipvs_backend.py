"""The ipvs backend when all goes well: what a change costs, what a restart finds, what is removed."""

import msgspec
import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import Protocol, ServiceType, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.ipvs_node import NODE_IP, VIP, Node

pytestmark = pytest.mark.unit

HTTP = ("10.96.0.1", Protocol.TCP, 80)


def connected(node: Node, address: str, active: int, inactive: int = 0, key: ServerKey = VIP) -> None:
    node.servers.set_connections(key, address, 8080, active=active, inactive=inactive)


def test_a_change_of_endpoints_is_one_run_of_commands_and_nothing_else() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    runs, restored = len(node.servers.runs), len(node.tables.restored)
    applied, calls = len(node.sets.applied), len(node.addresses.calls)
    node.put(web_slice("10.244.1.1@node2", "10.244.1.3@node2"))
    (run,) = node.servers.runs[runs:]
    assert [(each.verb, each.destination) for each in run] == [
        (Verb.ADD_DESTINATION, Destination("10.244.1.3", 8080)),
        (Verb.SET_DESTINATION, Destination("10.244.1.2", 8080, weight=0)),
    ]
    assert len(node.tables.restored) == restored
    assert (len(node.sets.applied), len(node.addresses.calls)) == (applied, calls)


def test_a_service_comes_and_goes_in_an_order_without_gaps() -> None:
    node = Node()
    node.full()
    seen: list[tuple[bool, bool, bool]] = []

    def look() -> None:
        named = HTTP in node.members(Set.SERVERS)
        seen.append((named, node.weights() is not None, "10.96.0.1" in node.addresses.local()))

    node.addresses.after_call = look
    run = node.servers.run

    def watched(commands: object) -> list[int]:
        look()
        codes = run(commands)  # type: ignore[arg-type]
        look()
        return codes

    node.servers.run = watched  # type: ignore[method-assign, assignment]
    node.put(web(), web_slice())
    assert seen == [(True, False, False), (True, True, False), (True, True, True)]
    seen.clear()
    node.remove("web")
    assert seen == [(True, True, False), (True, True, False), (True, False, False)]
    assert HTTP not in node.members(Set.SERVERS)


def test_connections_of_an_endpoint_that_leaves_go_on_until_they_end() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    connected(node, "10.244.1.2", 1)
    node.put(web_slice("10.244.1.1@node2"))
    assert node.backend.observe() == ""
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.2": 0}
    connected(node, "10.244.1.2", 0, 1)  # one that is closing, or being opened
    node.backend.observe()
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.2": 0}
    connected(node, "10.244.1.2", 0)
    node.backend.observe()
    assert node.weights() == {"10.244.1.1": 1}


def test_an_endpoint_that_returns_while_it_drains_is_served_again() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    connected(node, "10.244.1.2", 1)
    node.put(web_slice("10.244.1.1@node2"))
    node.put(web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.2": 1}
    connected(node, "10.244.1.2", 0)
    node.backend.observe()
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.2": 1}


def test_what_drains_is_found_again_after_a_restart() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    connected(node, "10.244.1.2", 1)
    node.put(web_slice("10.244.1.1@node2"))
    node.restart()
    node.full()
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.2": 0}
    connected(node, "10.244.1.2", 0)
    node.backend.observe()
    assert node.weights() == {"10.244.1.1": 1}


def test_udp_has_no_connections_to_wait_for() -> None:
    dns = service("dns", "10.96.0.10", "53/UDP")
    node = Node(dns, endpoint_slice("dns", "53/UDP", ["10.244.1.1@node2", "10.244.1.2@node2"]))
    node.full()
    key = ServerKey(Protocol.UDP, "10.96.0.10", 53)
    node.servers.set_connections(key, "10.244.1.2", 53, inactive=9)
    node.put(endpoint_slice("dns", "53/UDP", ["10.244.1.1@node2"]))
    assert node.weights(key) == {"10.244.1.1": 1}
    node.remove("dns")
    assert node.weights(key) is None


def test_a_deleted_service_keeps_its_connections_and_refuses_new_ones() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.full()
    connected(node, "10.244.1.2", 1)
    node.remove("web")
    assert node.weights() == {"10.244.1.1": 0, "10.244.1.2": 0}
    assert "10.96.0.1" in node.addresses.on.routes
    assert HTTP in node.members(Set.SERVERS)
    assert HTTP not in node.members(Set.CLUSTER_IP)
    node.restart()
    node.full()
    assert node.weights() == {"10.244.1.1": 0, "10.244.1.2": 0}
    connected(node, "10.244.1.2", 0, 1)
    assert node.backend.observe() == ""
    assert node.weights() is None
    assert node.addresses.on.routes == {}
    assert node.members(Set.SERVERS) == node.members(Set.ADDRESSES) == set()
    assert node.backend.observe() == ""


def test_a_service_that_returns_takes_its_virtual_server_back() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    connected(node, "10.244.1.1", 1)
    node.remove("web")
    node.put(web(session_affinity=True, affinity_seconds=60))
    assert node.weights() == {"10.244.1.1": 1}
    assert node.servers.servers(Family.V4)[VIP].affinity_seconds == 60
    connected(node, "10.244.1.1", 0)
    node.backend.observe()
    assert node.weights() == {"10.244.1.1": 1}
    node.remove("web")
    assert (node.weights(), node.addresses.on.routes) == (None, {})


def test_a_restart_changes_nothing() -> None:
    node = Node(web(node_port=30080, external_policy=TrafficPolicy.LOCAL), web_slice())
    node.full()
    before = dict(node.servers.servers(Family.V4))
    runs = len(node.servers.runs)
    members = {which: set(node.members(which)) for which in Set}
    node.restart()
    node.full()
    assert node.servers.runs[runs:] == []
    assert node.servers.servers(Family.V4) == before
    assert {which: node.members(which) for which in Set} == members


def test_an_address_beats_a_node_port() -> None:
    node = Node(web(node_port=30080), web_slice("10.244.1.1@node2"))
    node.full()
    key = ServerKey(Protocol.TCP, NODE_IP, 30080)
    assert node.weights(key) == {"10.244.1.1": 1}
    other = service("other", "10.96.0.2", "30080", external_ips=(NODE_IP,))
    node.put(other, endpoint_slice("other", "30080", ["10.244.1.9@node2"]))
    assert node.weights(key) == {"10.244.1.9": 1, "10.244.1.1": 0}
    assert NODE_IP not in node.addresses.on.routes
    node.remove("other")
    node.backend.observe()
    assert node.weights(key) == {"10.244.1.1": 1}


def test_a_short_circuit_keeps_its_mark() -> None:
    local = web(external_ips=("203.0.113.1",), external_policy=TrafficPolicy.LOCAL)
    node = Node(local, web_slice())
    node.full()
    (entry,) = node.members(Set.SHORT_CIRCUIT)
    assert isinstance(entry, tuple)
    marks = {key.mark for key in node.servers.servers(Family.V4) if key.mark}
    assert marks == {entry[3], entry[3] | 1 << 14}  # type: ignore[misc, operator]
    # Another port that sorts first would get the first mark, were the kernel not asked.
    first = service("a", "10.96.0.9", external_ips=("203.0.113.9",), external_policy=TrafficPolicy.LOCAL)
    node.world.apply_services({("default", "a"): first})
    node.world.apply_slices({("default", "a"): endpoint_slice("a", "80", ["10.244.1.1@node2"])})
    node.restart()
    node.full()
    assert entry in node.members(Set.SHORT_CIRCUIT)
    node.put(web(external_ips=("203.0.113.1",)))
    assert entry not in node.members(Set.SHORT_CIRCUIT)
    assert len({key.mark for key in node.servers.servers(Family.V4) if key.mark}) == 2


def test_no_short_circuit_is_forgotten_when_the_masquerade_bit_becomes_another() -> None:
    local = web(external_ips=("203.0.113.1",), external_policy=TrafficPolicy.LOCAL)
    node = Node(local, web_slice("10.244.1.1@node2"))
    ordinary = node.settings
    node.settings = msgspec.structs.replace(ordinary, masquerade_bit=31)
    node.full()
    marked = [key for key in node.servers.servers(Family.V4) if key.mark]
    assert {key.mark >> 31 for key in marked} == {0, 1}
    for key in marked:
        connected(node, "10.244.1.1", 1, key=key)
    node.remove("web")
    node.settings = ordinary
    node.restart()
    node.full()
    for key in marked:
        connected(node, "10.244.1.1", 0, key=key)
    node.backend.observe()
    assert node.servers.servers(Family.V4) == {}


def test_an_address_that_another_device_has_is_left_to_it() -> None:
    node = Node(web(external_ips=("203.0.113.1", "203.0.113.2")), web_slice())
    node.local.append("203.0.113.1")
    node.full()
    assert node.addresses.on.routes == {"10.96.0.1": NODE_IP, "203.0.113.2": NODE_IP}
    assert node.members(Set.ADDRESSES) == {"10.96.0.1", "203.0.113.2"}
    node.local.remove("203.0.113.1")
    assert "addresses have changed" in node.backend.observe()
    node.full()
    assert "203.0.113.1" in node.addresses.on.routes


def test_the_source_of_the_routes_follows_the_node() -> None:
    node = Node(web(), web_slice())
    node.local.remove(NODE_IP)  # named, but not there yet
    node.full()
    assert node.addresses.on.routes == {"10.96.0.1": ""}
    node.local.append(NODE_IP)
    node.full()
    assert node.addresses.on.routes == {"10.96.0.1": NODE_IP}


def test_a_node_that_nobody_knows_does_not_speak_from_loopback() -> None:
    node = Node(web(), web_slice())
    node.settings = msgspec.structs.replace(node.settings, bind_address="")
    node.full()
    assert node.addresses.on.routes == {"10.96.0.1": ""}


def test_sysctls_are_set() -> None:
    node = Node(ipvs=IpvsSettings(strict_arp=True))
    node.full()
    assert node.sysctls.read("net/ipv4/vs/conntrack") == "1"
    assert node.sysctls.read("net/ipv4/conf/all/arp_ignore") == "1"


def test_what_is_applied_is_told() -> None:
    lonely = service("lonely", "10.96.0.3", internal_policy=TrafficPolicy.LOCAL)
    node = Node(web(), web_slice(), lonely, endpoint_slice("lonely", "80", ["10.244.1.5@node2"]))
    applied = node.full()
    assert (applied.full, applied.ports, applied.endpoints) == (True, 2, 2)
    assert {str(name): lacks for name, lacks in applied.lacks_local.items()} == {"default/lonely": (True, False)}
    assert {each.table for each in applied.rules} == {"mangle", "filter", "nat"}
    assert all(each.standing == each.written > 3 for each in applied.rules)
    changed = node.put(web_slice("10.244.1.1@node2"))
    assert changed is not None
    assert (changed.full, changed.changed, changed.endpoints) == (False, 1, 1)
    assert node.put(web_slice("10.244.1.1@node2")) is None


FOREIGN = Server(ServerKey(Protocol.TCP, "192.0.2.1", 443), "lc")


def foreign(node: Node, server: Server = FOREIGN) -> None:
    node.servers.run(
        [Command(Verb.ADD_SERVER, server), Command(Verb.ADD_DESTINATION, server, Destination("192.0.2.9", 1))]
    )


def test_cleanup_removes_all_of_ours_and_nothing_of_others() -> None:
    node = Node(web(node_port=30080, external_policy=TrafficPolicy.LOCAL), web_slice())
    foreign(node)
    node.full()
    node.restart()
    node.backend.cleanup()
    assert node.servers.servers(Family.V4) == {FOREIGN.key: FOREIGN}
    assert node.weights(FOREIGN.key) == {"192.0.2.9": 1}
    assert node.sets.sets == {}
    assert not any(rules for chains in node.tables.tables.values() for rules in chains.values())
    assert node.addresses.on.kind is None
    assert node.backend.needs_full
    node.backend.cleanup()  # once more does no harm


def test_nobody_elses_virtual_server_is_touched() -> None:
    node = Node(web(), web_slice())
    foreign(node)
    node.full()
    node.remove("web")
    node.restart()
    node.full()
    assert node.weights(FOREIGN.key) == {"192.0.2.9": 1}


def test_kube_proxys_ipvs_mode_is_taken_over() -> None:
    gone = ServerKey(Protocol.TCP, NODE_IP, 31111)
    node = Node(web(), web_slice("10.244.1.1@node2"))
    foreign(node)
    for server, address in ((Server(VIP), "10.244.1.1"), (Server(gone), "10.244.1.7")):
        node.servers.run(
            [Command(Verb.ADD_SERVER, server), Command(Verb.ADD_DESTINATION, server, Destination(address, 8080))]
        )
    connected(node, "10.244.1.7", 1, key=gone)
    fill(node.sets, "KUBE-CLUSTER-IP", SetType.PORTS, HTTP)
    fill(node.sets, "KUBE-NODE-PORT-TCP", SetType.PORT_NUMBERS, 31111)
    node.addresses.ensure_device()
    node.addresses.on.foreign = {"10.96.0.1", "10.96.0.250"}
    runs = len(node.servers.runs)
    node.full()
    commands = [command for run in node.servers.runs[runs:] for command in run]
    assert [(each.verb, each.server.key) for each in commands] == [(Verb.SET_DESTINATION, gone)]
    assert (node.weights(), node.weights(gone)) == ({"10.244.1.1": 1}, {"10.244.1.7": 0})
    assert node.addresses.on.foreign == set()
    assert node.addresses.on.routes == {"10.96.0.1": NODE_IP}
    assert node.weights(FOREIGN.key) == {"192.0.2.9": 1}
    connected(node, "10.244.1.7", 0, key=gone)
    node.backend.observe()
    assert node.weights(gone) is None


def test_a_node_ports_number_elsewhere_is_not_taken_over() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    elsewhere = Server(ServerKey(Protocol.TCP, "192.0.2.77", 31111))
    foreign(node, elsewhere)
    fill(node.sets, "KUBE-NODE-PORT-TCP", SetType.PORT_NUMBERS, 31111)
    node.full()
    node.backend.cleanup()
    assert node.weights(elsewhere.key) == {"192.0.2.9": 1}


def test_what_is_in_an_excluded_cidr_is_not_taken_over() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"), ipvs=IpvsSettings(exclude_cidrs=("10.96.0.0/28",)))
    near = ServerKey(Protocol.TCP, "10.96.0.5", 80)
    for key in (VIP, near):
        foreign(node, Server(key))
    fill(node.sets, "KUBE-CLUSTER-IP", SetType.PORTS, HTTP, ("10.96.0.5", Protocol.TCP, 80))
    fill(node.sets, "KUBE-NODE-PORT-TCP", SetType.PORT_NUMBERS)
    node.addresses.ensure_device()
    node.addresses.on.foreign = {"10.96.0.5", "10.96.1.5"}
    applied = node.full()
    assert len(applied.notes) == 1
    assert node.weights() == node.weights(near) == {"192.0.2.9": 1}
    assert node.addresses.on.foreign == {"10.96.0.5"}
    assert node.backend.observe() == ""
    # What we make there ourselves is ours.
    node.put(service("dns", "10.96.0.10", "53"))
    key = ServerKey(Protocol.TCP, "10.96.0.10", 53)
    assert node.weights(key) == {}
    node.restart()
    node.full()
    node.remove("dns")
    assert node.weights(key) is None


def fill(sets: FakeSets, name: str, kind: SetType, *members: object) -> None:
    sets.create(name, kind)
    sets.add(name, members)  # type: ignore[arg-type]


def test_a_partial_plan_needs_a_full_one_before_it() -> None:
    node = Node(web())
    with pytest.raises(SyncFailed, match="full sync must come first"):
        node.put(web_slice())


def test_types_of_service_do_not_matter() -> None:
    balanced = web(
        type=ServiceType.LOAD_BALANCER, load_balancer_ips=("203.0.113.7",), source_ranges=("10.0.0.0/8",)
    )
    node = Node(balanced, web_slice())
    node.full()
    assert node.members(Set.GUARDED) == {("203.0.113.7", Protocol.TCP, 80)}
    assert node.members(Set.ADMITTED) == {("203.0.113.7", Protocol.TCP, 80, "10.0.0.0/8")}
    node.put(web())
    assert node.members(Set.GUARDED) == node.members(Set.ADMITTED) == set()
