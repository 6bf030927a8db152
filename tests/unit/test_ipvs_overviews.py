"""What one question about all virtual servers shows: whom others have changed, who alone is then put right."""

import logging

import pytest

from kubeproxy.dataplane.ipvs import overviews, watch
from kubeproxy.dataplane.ipvs.overviews import Overviews
from kubeproxy.kernel.exec import KernelError
from kubeproxy.kernel.ipvs_types import Command, Destination, Server, ServerKey, Verb
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.ipvs_node import VIP, Node

pytestmark = pytest.mark.unit

API = ServerKey(Protocol.TCP, "10.96.0.2", 80)
STRANGER = Destination("192.0.2.9", 1)
POD = Destination("10.244.1.2", 8080)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every glance ask."""
    monkeypatch.setattr(overviews, "REST_AFTER_OVERVIEW", 0)


@pytest.fixture
def node() -> Node:
    """Return a node that is in sync and was looked at."""
    made = Node(web(), web_slice(), service("api", API.address), endpoint_slice("api", "80", ["10.244.1.9"]))
    made.full()
    assert made.backend.observe() == ""
    made.servers.runs.clear()
    return made


def edit(node: Node, verb: Verb, key: ServerKey, destination: Destination | None = None) -> None:
    assert node.servers.run([Command(verb, Server(key), destination)]) == [0]


def mended(node: Node) -> str:
    """Glance, look and repair as the syncer does; return what was amiss."""
    assert node.backend.glance()
    drift = node.backend.observe()
    node.servers.runs.clear()
    assert node.backend.repairer is not None
    assert node.backend.repair(whole=False)
    assert node.backend.repairer is None
    assert not node.backend.needs_full
    assert STRANGER.address not in (node.weights(API) or ()), "nobody uses it"
    assert node.backend.glance() == node.backend.observe() == ""
    return drift


def test_one_deleted_and_another_added_are_told_apart(node: Node) -> None:
    edit(node, Verb.DELETE_DESTINATION, VIP, POD)
    edit(node, Verb.ADD_DESTINATION, API, STRANGER)
    drift = mended(node)
    assert "destinations of virtual server tcp 10.96.0.1:80 were changed by somebody" in drift
    assert "destinations of virtual server tcp 10.96.0.2:80 were changed by somebody" in drift
    assert node.weights() == {"10.244.0.2": 1, POD.address: 1}
    assert node.weights(API) == {"10.244.1.9": 1}
    assert {command.server.key for run in node.servers.runs for command in run} == {VIP, API}


def test_a_deleted_server_comes_back_without_what_drained_there(node: Node) -> None:
    node.servers.set_connections(VIP, POD.address, POD.port, active=1)
    node.put(web_slice("10.244.0.2@node1"))
    assert node.weights() == {"10.244.0.2": 1, POD.address: 0}
    edit(node, Verb.DELETE_SERVER, VIP)
    assert mended(node) == "virtual server tcp 10.96.0.1:80 was deleted by somebody"
    assert node.weights() == {"10.244.0.2": 1}


def test_a_server_that_drains_and_is_deleted_is_let_go(node: Node) -> None:
    node.servers.set_connections(VIP, POD.address, POD.port, active=1)
    node.remove("web")
    assert node.weights() == {"10.244.0.2": 0, POD.address: 0}
    edit(node, Verb.DELETE_SERVER, VIP)
    assert mended(node) == "virtual server tcp 10.96.0.1:80 was deleted by somebody"
    assert VIP.address not in node.addresses.on.routes
    node.restart()
    node.full()
    assert node.backend.observe() == ""


def test_an_address_goes_with_a_server_that_had_only_drained(node: Node) -> None:
    node.servers.set_connections(VIP, POD.address, POD.port, active=1)
    node.remove("web")
    assert VIP.address in node.addresses.on.routes
    node.servers.set_connections(VIP, POD.address, POD.port)
    edit(node, Verb.ADD_DESTINATION, VIP, STRANGER)
    mended(node)
    assert node.weights() is None
    assert VIP.address not in node.addresses.on.routes


def test_servers_by_mark_are_looked_after_too() -> None:
    local = web(external_ips=("198.18.0.1",), external_policy=TrafficPolicy.LOCAL)
    node = Node(local, web_slice())
    node.full()
    assert node.backend.observe() == ""
    marks = [key for key in node.servers.servers(Family.V4) if key.mark]
    edit(node, Verb.DELETE_DESTINATION, marks[0], POD)
    assert "fwmark" in mended(node)
    assert node.weights(marks[0]) == node.weights(marks[1])


def test_what_drains_may_be_deleted_by_anybody(node: Node) -> None:
    node.servers.set_connections(VIP, POD.address, POD.port, active=1)
    node.put(web_slice("10.244.0.2@node1"))
    assert node.backend.glance() == node.backend.observe() == ""
    edit(node, Verb.DELETE_DESTINATION, VIP, POD)
    assert node.backend.glance(), "it may be something else"
    assert node.backend.observe() == ""
    assert node.backend.glance() == ""


def test_what_others_undo_right_after_us_is_seen(node: Node) -> None:
    """Though all is again as it was when it was right."""
    node.put(web_slice("10.244.0.2@node1", "10.244.1.2@node2", "10.244.1.3@node2"))
    edit(node, Verb.DELETE_DESTINATION, VIP, Destination("10.244.1.3", 8080))
    mended(node)
    assert node.weights() == dict.fromkeys(("10.244.0.2", "10.244.1.2", "10.244.1.3"), 1)


def test_what_others_do_during_a_full_sync_is_seen_after_it(node: Node) -> None:
    survey = node.servers.destinations
    done: list[ServerKey] = []

    def meddle(key: ServerKey) -> object:
        found = survey(key)
        if key == VIP and not done:
            done.append(key)
            edit(node, Verb.DELETE_DESTINATION, VIP, POD)
        return found

    node.servers.destinations = meddle  # type: ignore[method-assign, assignment]
    node.full()
    assert done
    node.backend._watch._rules.drift()  # rules that were written are looked at once
    assert "tcp 10.96.0.1:80" in mended(node)


def test_a_sync_before_the_repair_writes_all(node: Node) -> None:
    edit(node, Verb.DELETE_DESTINATION, VIP, POD)
    assert node.backend.observe()
    assert node.backend.needs_full
    node.full()
    assert not node.backend.repair(whole=False)
    assert node.weights() == {"10.244.0.2": 1, POD.address: 1}


def test_only_what_virtual_servers_lack_is_repaired_alone(node: Node) -> None:
    edit(node, Verb.DELETE_SERVER, VIP)
    node.addresses.on.vanish()
    assert "kube-ipvs0" in node.backend.observe()
    assert node.backend.repairer is None
    assert not node.backend.repair(whole=False)
    assert node.backend.needs_full


def test_a_repair_that_fails_leaves_it_to_a_full_sync(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    edit(node, Verb.DELETE_DESTINATION, VIP, POD)
    assert node.backend.observe()
    node.servers.failures.append(KernelError("no memory"))
    with caplog.at_level(logging.INFO):
        assert not node.backend.repair(whole=False)
    assert "no memory" in caplog.text
    assert not node.backend.repair(whole=True)
    assert node.backend.needs_full
    node.full()
    assert node.backend.observe() == ""
    assert node.weights() == {"10.244.0.2": 1, POD.address: 1}


def test_an_endpoint_that_is_refused_by_then_is_told_of(node: Node) -> None:
    node.servers.no_hosts.add(POD.address)  # the node has another network since
    edit(node, Verb.DELETE_SERVER, VIP)
    assert node.backend.observe()
    assert not node.backend.repair(whole=False)
    assert node.backend.needs_full
    (note,) = node.full().notes.values()
    assert f"{POD.address}:{POD.port}: left out" in note
    assert node.weights() == {"10.244.0.2": 1}


def test_many_take_a_full_sync(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_MENDED", 1)
    edit(node, Verb.DELETE_SERVER, VIP)
    edit(node, Verb.DELETE_SERVER, API)
    assert node.backend.observe()
    assert not node.backend.repair(whole=False)
    node.full()
    assert node.backend.observe() == ""


def test_what_is_harmless_with_many_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody deletes what drains everywhere, and from one virtual server what serves."""
    monkeypatch.setattr(watch, "MOST_MENDED", 2)
    monkeypatch.setattr(watch, "DESTINATIONS_A_LOOK", 0)
    keys = [ServerKey(Protocol.TCP, f"10.96.1.{number}", 80) for number in range(6)]
    slices = [endpoint_slice(key.address, "80", ["10.244.1.1", "10.244.1.2"]) for key in keys]
    node = Node(*(service(key.address, key.address) for key in keys), *slices)
    node.full()
    assert node.backend.observe() == ""
    for key in keys:
        node.servers.set_connections(key, "10.244.1.2", 80, active=1)
        node.put(endpoint_slice(key.address, "80", ["10.244.1.1"]))
    assert node.backend.glance() == node.backend.observe() == ""
    for key in keys:
        edit(node, Verb.DELETE_DESTINATION, key, Destination("10.244.1.2", 80))
    victim = sorted(keys, key=list(node.backend._watch._overviews.suspects(node.backend._books) or ()).index)[-1]
    edit(node, Verb.DELETE_DESTINATION, victim, Destination("10.244.1.1", 80))
    assert victim.address in mended(node)
    assert node.weights(victim) == {"10.244.1.1": 1}


def test_a_place_that_somebody_leaves_takes_a_full_sync() -> None:
    node = Node(web(), web_slice())
    node.servers.run(
        [Command(Verb.ADD_SERVER, Server(VIP, "lc")), Command(Verb.ADD_DESTINATION, Server(VIP), STRANGER)]
    )
    node.full()
    assert node.backend.observe() == ""
    edit(node, Verb.DELETE_SERVER, VIP)
    assert node.backend.glance()
    assert "which was in the way, is gone" in node.backend.observe()
    assert not node.backend.repair(whole=False)
    node.full()
    assert node.weights() == {"10.244.0.2": 1, POD.address: 1}


def test_more_servers_than_fit_in_a_line_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"s{number}" for number in range(6)]
    node = Node(*(service(name, f"10.96.1.{number}") for number, name in enumerate(names)))
    node.full()
    assert node.backend.observe() == ""
    for number in range(5):
        edit(node, Verb.DELETE_SERVER, ServerKey(Protocol.TCP, f"10.96.1.{number}", 80))
    assert mended(node).endswith("; and 2 more")


def test_a_kernel_that_tells_no_numbers_is_listed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LISTED_A_LOOK", 1)
    for _ in range(4):
        assert node.backend.observe() == ""
    node.servers.tells_all = False
    assert node.backend.glance() == ""
    edit(node, Verb.DELETE_DESTINATION, VIP, POD)
    assert node.backend.glance() == ""
    assert "tcp 10.96.0.1:80" in node.backend.observe(), "it has its turn"
    node.full()
    edit(node, Verb.DELETE_SERVER, VIP)
    assert node.backend.glance() == "there are 1 virtual servers instead of 2"
    assert node.backend.observe() == "virtual server tcp 10.96.0.1:80 was deleted by somebody"


def test_a_question_that_takes_long_is_asked_rarely(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "REST_AFTER_OVERVIEW", 500)
    now, takes = [100.0], [0.003]
    overview = node.servers.overview

    def ask(family: Family) -> object:
        now[0] += takes[0]
        return overview(family)

    node.servers.overview = ask  # type: ignore[method-assign, assignment]
    rare = Overviews(node.backend._state, lambda: now[0])
    assert rare.is_due
    for takes[0], rest in ((0.003, 1.5), *[(1.9, 1.5)] * 3, (1.9, 10.0)):
        assert rare.suspects(node.backend._books) == {}
        now[0] += rest - 0.1
        assert not rare.is_due
        now[0] += 0.2
        assert rare.is_due
