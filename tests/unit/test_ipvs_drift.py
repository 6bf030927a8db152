"""What others do to ours is noticed by the looks of every few seconds, which cost little, and is put right."""

from collections.abc import Callable

import pytest

from kubeproxy.dataplane.ipvs import watch
from kubeproxy.dataplane.ipvs.names import Set, set_name
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.kernel.sets import entry_text
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol, ServiceType, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.ipvs_node import VIP, Node

pytestmark = pytest.mark.unit


def state(node: Node) -> object:
    """Return all that ipvs mode has in the kernel."""
    servers = node.servers.servers(Family.V4)
    weights = {key: node.weights(key) for key in servers}
    sets = {name: set(members) for name, members in node.sets.sets.items()}
    return servers, weights, sets, dict(node.addresses.on.routes), node.tables.tables


Meddling = Callable[[Node], object]
MEDDLING: dict[str, Meddling] = {
    "kube-ipvs0 was deleted": lambda node: node.addresses.on.vanish(),
    "local address 10.96.0.1": lambda node: node.addresses.on.routes.clear(),
    "tcp 10.96.0.1:80 was deleted": lambda node: node.servers.run([Command(Verb.DELETE_SERVER, Server(VIP))]),
    "tcp 10.96.0.1:80 was changed": lambda node: node.servers.run([Command(Verb.SET_SERVER, Server(VIP, "lc"))]),
    "destinations of virtual server tcp 10.96.0.1:80": lambda node: node.servers.run(
        [Command(Verb.ADD_DESTINATION, Server(VIP), Destination("192.0.2.9", 1))]
    ),
    "table nat": lambda node: node.tables.flush("nat"),
    "table mangle": lambda node: node.tables.flush("mangle"),
    "table filter": lambda node: node.tables.flush("filter"),
    "addresses have changed": lambda node: node.local.append("192.168.0.9"),
    **{
        set_name(Family.V4, which): lambda node, which=which: (  # type: ignore[misc]
            node.members(which).clear() if node.members(which) else node.members(which).add(0)
        )
        for which in Set
    },
}


@pytest.mark.parametrize("what", MEDDLING)
def test_what_others_do_to_ours_is_noticed_and_mended(what: str) -> None:
    node = Node(web(node_port=30080, external_policy=TrafficPolicy.LOCAL), web_slice("10.244.1.1@node2"))
    node.full()
    assert node.backend.observe() == ""
    before = state(node)
    MEDDLING[what](node)
    assert what in node.backend.observe()
    assert node.backend.needs_full
    node.full()
    assert node.backend.observe() == ""
    if what != "addresses have changed":
        node.backend.observe()
        assert state(node) == before
    else:
        assert ServerKey(Protocol.TCP, "192.168.0.9", 30080) in node.servers.servers(Family.V4)


EXCHANGEABLE = (
    service(
        "web", "10.96.0.1", node_port=30080, load_balancer_ips=("198.18.0.1",), source_ranges=("192.0.2.0/24",)
    ),
    endpoint_slice("web", "80", ["10.244.1.1@node2"]),
    service("lone", "10.96.0.2"),
    service(
        "here",
        "10.96.0.3",
        external_ips=("198.18.0.3",),
        external_policy=TrafficPolicy.LOCAL,
        load_balancer_ips=("198.18.0.4",),
        type=ServiceType.LOAD_BALANCER,
        health_check_node_port=32000,
    ),
    endpoint_slice("here", "80", ["10.244.0.2@node1", "10.244.1.2@node2"]),
    service("away", "10.96.0.4", external_ips=("198.18.0.5",), external_policy=TrafficPolicy.LOCAL),
    endpoint_slice("away", "80", ["10.244.1.3@node2"]),
)
"""Services with which no set is empty."""


@pytest.mark.parametrize("which", Set)
def test_an_entry_that_was_exchanged_for_another_is_found_when_its_set_has_its_turn(which: Set) -> None:
    node = Node(*EXCHANGEABLE)
    node.full()
    for _ in Set:
        assert node.backend.observe() == ""
    members = node.members(which)
    theirs: Member
    match next(iter(members)):
        case int():
            theirs = 1
        case str():
            theirs = "192.0.2.77"
        case (_, *place):
            theirs = ("192.0.2.77", *place)  # type: ignore[assignment]
    members.pop()
    members.add(theirs)
    looks = [node.backend.observe() for _ in Set]
    (drift,) = filter(None, looks)
    assert f"set {set_name(Family.V4, which)} has somebody's entry {entry_text(theirs)}" in drift
    node.full()
    assert theirs not in node.members(which)


@pytest.mark.parametrize("what", ["tcp 10.96.0.1:80 was deleted", "table nat", "table filter"])
def test_a_glance_sees_that_there_is_something_to_look_for(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LISTED_A_LOOK", 1)
    node = Node(web(), web_slice("10.244.1.1@node2"), service("api", "10.96.0.2"))
    node.full()
    for _ in range(4):  # a listing has just been, and the next is some looks away
        assert node.backend.observe() == ""
    assert node.backend.glance() == ""
    MEDDLING[what](node)
    assert node.backend.glance()
    assert what in node.backend.observe()
    node.full()
    assert node.backend.observe() == ""
    assert node.backend.glance() == ""


def test_what_we_change_and_what_others_have_besides_is_nothing_to_look_for() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    assert node.backend.observe() == ""
    node.put(service("api", "10.96.0.2"), endpoint_slice("api", "80", ["10.244.1.9"]))
    assert node.backend.glance() == ""
    theirs = Server(ServerKey(Protocol.TCP, "192.0.2.1", 80))
    node.servers.run([Command(Verb.ADD_SERVER, theirs)])
    assert node.backend.glance() == ""
    node.servers.tells_all = False
    node.servers.run([Command(Verb.DELETE_SERVER, theirs)])
    assert node.backend.glance() == "there are 2 virtual servers instead of 3"
    assert node.backend.observe() == ""
    assert node.backend.glance() == ""


@pytest.mark.parametrize("is_told", [True, False])
def test_a_look_at_many_services_looks_at_a_few(is_told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LISTED_A_LOOK", 5)
    monkeypatch.setattr(watch, "DESTINATIONS_A_LOOK", 4)
    crowd = [service(f"s{i}", f"10.96.1.{i}") for i in range(20)]
    slices = [endpoint_slice(f"s{i}", "80", [f"10.244.5.{i}"]) for i in range(20)]
    node = Node(*crowd, *slices)
    node.servers.tells_all = is_told
    node.full()
    node.backend.observe()
    asked: list[ServerKey] = []
    destinations, servers = node.servers.destinations, node.servers.servers
    listings: list[Family] = []

    def ask(key: ServerKey) -> object:
        asked.append(key)
        return destinations(key)

    def list_all(family: Family) -> object:
        listings.append(family)
        return servers(family)

    node.servers.destinations = ask  # type: ignore[method-assign, assignment]
    node.servers.servers = list_all  # type: ignore[method-assign, assignment]
    for _ in range(5):
        assert node.backend.observe() == ""
    assert len(asked) == len(set(asked)) == 20
    assert len(listings) == (0 if is_told else 1)


def test_an_entry_that_ours_never_are_goes_with_the_next_full_sync() -> None:
    node = Node(web(), web_slice())
    node.full()
    before = state(node)
    node.sets.strange[set_name(Family.V4, Set.LOOP_BACK)] = 1
    assert "KUBE-LOOP-BACK has 2 entries instead of 1" in node.backend.observe()
    node.full()
    assert node.backend.observe() == ""
    assert state(node) == before


def test_large_sets_are_looked_into_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ENTRIES_A_LOOK", 5)
    node = Node(*(service(f"s{i}", f"10.96.1.{i}") for i in range(20)))
    node.full()
    read: list[str] = []
    members = node.sets.members

    def look(name: str) -> set[Member]:
        read.append(name)
        return members(name)

    node.sets.members = look  # type: ignore[method-assign]
    large = [which for which in Set if node.members(which)]
    assert {len(node.members(which)) for which in large} == {20}
    for _ in range(len(Set) + 4 * len(large)):
        assert node.backend.observe() == ""
    assert read == [set_name(Family.V4, which) for which in Set]
