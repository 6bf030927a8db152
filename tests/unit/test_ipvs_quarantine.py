"""What the kernel will not have is left out, and no more: single endpoints, ports without room, giants."""

from collections.abc import Callable

import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.ipvs import translator
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.kernel.ipvs_types import Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Protocol, Service, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.ipvs_node import NODE_IP, VIP, Node

pytestmark = pytest.mark.unit

BROADCAST = "10.244.0.255"
"""An address of this node's pod network that no pod can have: only the kernel knows."""
CLUSTER_IPS = set_name(Family.V4, Set.CLUSTER_IP)


def node_with_broadcast(*objects: object) -> Node:
    node = Node(*objects)  # type: ignore[arg-type]
    node.servers.no_hosts.add(BROADCAST)
    return node


@pytest.mark.parametrize("policy", TrafficPolicy)
def test_an_endpoint_that_the_kernel_refuses_is_left_out_and_named(policy: TrafficPolicy) -> None:
    node = node_with_broadcast(
        web(node_port=30080, external_policy=policy), web_slice("10.244.0.2@node1", f"{BROADCAST}@node1")
    )
    applied = node.full()
    assert applied.quarantined == {}
    (note,) = applied.notes.values()
    assert f"{BROADCAST}:8080" in note
    assert "Invalid argument" in note
    for key in node.servers.servers(Family.V4):
        assert node.weights(key) == {"10.244.0.2": 1}
    assert not any(BROADCAST in member for member in node.members(Set.LOOP_BACK) if isinstance(member, tuple))
    assert node.backend.observe() == ""


def test_a_change_beside_a_refused_endpoint_costs_one_sync_and_asks_for_it_no_more() -> None:
    node = node_with_broadcast(web(), web_slice("10.244.1.1@node2"))
    node.full()
    applied = node.put(web_slice("10.244.1.1@node2", BROADCAST))
    assert applied is not None
    assert len(applied.notes) == 1
    asked = len(node.servers.log)
    applied = node.put(web_slice("10.244.1.1@node2", "10.244.1.2@node2", BROADCAST))
    assert applied is not None
    assert len(applied.notes) == 1
    assert not node.backend.needs_full
    assert node.weights() == {"10.244.1.1": 1, "10.244.1.2": 1}
    assert [command.verb for command in node.servers.log[asked:]] == [Verb.ADD_DESTINATION]
    # Nor by another Service.
    node.put(service("other", "10.96.0.2"), endpoint_slice("other", "80", [BROADCAST, "10.244.1.3"]))
    assert not node.backend.needs_full
    applied = node.put(web_slice("10.244.1.1@node2"))
    assert applied is not None
    assert [str(name) for name in applied.notes] == ["default/other"]
    assert node.backend.observe() == ""


@pytest.mark.parametrize("node_port", [0, 30080])
def test_who_has_lost_its_places_asks_for_nothing_of_a_refused_endpoint_either(node_port: int) -> None:
    loser = service("z", VIP.address, "80>8080", node_port=node_port)
    winners = web(), service("external", "10.96.0.2", "30080>8080", external_ips=(NODE_IP,))
    slices = [
        endpoint_slice(name, port, [BROADCAST]) for name, port in (("z", "80>8080"), ("external", "30080>8080"))
    ]
    node = node_with_broadcast(*winners, loser, web_slice(BROADCAST), *slices)
    assert node.full().quarantined == {}
    assert node.members(Set.LOOP_BACK) == set()


def test_of_many_refused_endpoints_some_are_named() -> None:
    node = Node(web(), web_slice(*(f"10.244.3.{number}" for number in range(1, 9))))
    node.servers.no_hosts = {f"10.244.3.{number}" for number in range(1, 9)}
    (note,) = node.full().notes.values()
    assert note.startswith("10.244.3.1:8080, 10.244.3.2:8080, ")
    assert "10.244.3.5:8080 and 3 more: left out" in note


def test_who_has_no_endpoint_but_refused_ones_refuses_clients() -> None:
    node = node_with_broadcast(web(), web_slice(f"{BROADCAST}@node2"))
    node.full()
    assert node.weights() == {}
    assert node.members(Set.NO_ENDPOINTS) == {(VIP.address, Protocol.TCP, 80)}
    # The network is another one now: a full sync finds out.
    node.servers.no_hosts.clear()
    node.local.append("192.168.9.1")
    assert "addresses have changed" in node.backend.observe()
    assert node.full().notes == {}
    assert node.weights() == {BROADCAST: 1}
    assert node.members(Set.NO_ENDPOINTS) == set()


@pytest.mark.parametrize("scheduler", ["rr", "dh"])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_what_leaves_with_grace_or_without_is_refused_alike(protocol: Protocol, scheduler: str) -> None:
    port = f"80/{protocol}"
    node = node_with_broadcast(
        service("web", "10.96.0.1", port, scheduler=scheduler),
        endpoint_slice("web", port, [BROADCAST, "10.244.1.1"]),
    )
    node.full()
    node.full()
    assert node.weights(ServerKey(protocol, "10.96.0.1", 80)) == {"10.244.1.1": 1}
    assert node.backend.observe() == ""


def one_of(number: int) -> Service:
    return service(f"s{number}", f"10.96.1.{number}")


def full_node() -> Node:
    """Return a node whose set of cluster IPs has room for two."""
    node = Node(one_of(0), one_of(1))
    node.full()
    node.sets.most_entries[CLUSTER_IPS] = 2
    with pytest.raises(SyncFailed, match="the set is full"):
        node.put(one_of(2))
    applied = node.full()
    assert [str(name) for name in applied.quarantined] == ["default/s2"]
    assert applied.ports == 2
    return node


def served(node: Node) -> list[str]:
    return sorted(key.address for key in node.servers.servers(Family.V4))


def remove_one(node: Node) -> None:
    applied = node.remove("s0")
    assert applied is not None
    assert applied.quarantined == {}


def give_one_away(node: Node) -> None:
    applied = node.put(service("s0", "10.96.1.0", proxy_name="somebody"))
    assert applied is not None
    assert applied.quarantined == {}


def larger_set(node: Node) -> None:
    node.sets.most_entries.clear()
    assert node.full().quarantined == {}


@pytest.mark.parametrize("make_room", [remove_one, give_one_away, larger_set])
def test_a_port_that_a_set_had_no_room_for_is_served_once_there_is(make_room: Callable[[Node], None]) -> None:
    node = full_node()
    assert served(node) == ["10.96.1.0", "10.96.1.1"]
    make_room(node)
    assert "10.96.1.2" in served(node)
    assert not node.backend.needs_full
    assert node.backend.observe() == ""


def test_room_that_the_end_of_a_connection_makes_is_found_by_the_next_look() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    name = set_name(Family.V4, Set.SERVERS)
    node.sets.most_entries[name] = 1
    node.full()
    node.servers.set_connections(VIP, "10.244.1.1", 8080, active=1)
    node.remove("web")
    with pytest.raises(SyncFailed, match=name):
        node.put(one_of(2))
    assert len(node.full().quarantined) == 1
    assert node.backend.observe() == ""
    node.servers.set_connections(VIP, "10.244.1.1", 8080)
    assert "room again" in node.backend.observe()
    assert node.full().quarantined == {}
    assert served(node) == ["10.96.1.2"]


def test_who_comes_while_a_set_is_full_waits_without_a_failed_sync() -> None:
    node = full_node()
    for number in (3, 4):
        applied = node.put(one_of(number))
        assert applied is not None
        assert CLUSTER_IPS in applied.quarantined[next(n for n in applied.quarantined if n.name == f"s{number}")]
    # What needs no room goes on meanwhile.
    applied = node.put(endpoint_slice("s1", "80", ["10.244.1.1@node2"]))
    assert applied is not None
    assert node.weights(ServerKey(Protocol.TCP, "10.96.1.1", 80)) == {"10.244.1.1": 1}
    applied = node.remove("s0")
    assert applied is not None
    assert sorted(str(name) for name in applied.quarantined) == ["default/s3", "default/s4"]
    assert served(node) == ["10.96.1.1", "10.96.1.2"]
    node.remove("s3")
    applied = node.remove("s1")
    assert applied is not None
    assert applied.quarantined == {}
    assert served(node) == ["10.96.1.2", "10.96.1.4"]


def test_what_takes_the_place_of_another_in_a_full_set_gets_in() -> None:
    node = full_node()
    node.remove("s2")
    node.world.apply_services({("default", "s0"): None, ("default", "s5"): one_of(5)})
    touched = {("default", "s0"), ("default", "s5")}
    applied = node.partial(touched)
    assert applied is not None
    assert applied.quarantined == {}
    assert served(node) == ["10.96.1.1", "10.96.1.5"]


def few_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Service have ten destinations, and count them from the first."""
    monkeypatch.setattr(translator, "MOST_DESTINATIONS", 10)
    monkeypatch.setattr(translator, "FEW_DESTINATIONS", 0)


def test_a_port_has_the_room_that_another_of_its_service_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_most(monkeypatch)

    def pods(port: str, count: int) -> EndpointSlice:
        addresses = [f"10.244.1.{number}" for number in range(1, count + 1)]
        return endpoint_slice("giant", port, addresses, suffix=port[0])

    node = Node(giant(1), pods("a=80", 4), pods("b=81", 2))
    assert [str(name) for name in node.full().quarantined] == ["default/giant:b"]
    applied = node.put(pods("a=80", 3))
    assert applied is not None
    assert applied.quarantined == {}
    assert len(node.servers.servers(Family.V4)) == 4
    applied = node.put(pods("a=80", 6))
    assert applied is not None
    assert [str(name) for name in applied.quarantined] == ["default/giant:a"]


def giant(addresses: int) -> Service:
    ips = tuple(f"198.18.0.{each}" for each in range(addresses))
    return service("giant", "10.96.6.6", "a=80,b=81", external_ips=ips)


def test_a_service_has_so_many_destinations_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    few_at_most(monkeypatch)
    pods = endpoint_slice("giant", "a=80,b=81", ["10.244.1.1", "10.244.1.2"])
    node = Node(web(), web_slice(), giant(4), pods)
    applied = node.full()
    assert [str(name) for name in applied.quarantined] == ["default/giant:b"]
    (why,) = applied.quarantined.values()
    assert "10 a Service" in why
    assert (applied.ports, applied.endpoints) == (2, 4)
    assert not node.backend.needs_full
    assert node.weights() is not None
    # The next change finds that there is enough for both.
    applied = node.put(giant(1))
    assert applied is not None
    assert applied.quarantined == {}
    applied = node.put(giant(5))
    assert applied is not None
    assert len(applied.quarantined) == 2
    assert node.servers.servers(Family.V4) == {VIP: Server(VIP)}
    assert node.remove("giant") is not None
    assert node.full().quarantined == {}
