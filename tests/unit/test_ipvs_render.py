"""What one Service port is in ipvs mode's words; what a packet then does is tests/scenarios/."""

import msgspec
import pytest

from kubeproxy.dataplane.ipvs.names import MARKS, Set, is_short_circuit, short_circuit_mark
from kubeproxy.dataplane.ipvs.part import Part, Virtual
from kubeproxy.dataplane.ipvs.render import Renderer, node_port_addresses, wants_mark
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import FALLBACK, SOURCE_PORT, Server, ServerKey, mark_key
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

TCP = Protocol.TCP
NODE = NodeState(family=Family.V4, name="node1", node_ip="192.168.56.11")
OWN = ("192.168.56.11", "192.168.57.11", "10.244.0.1", "127.0.0.1")
NAME = ServicePortName("ns1", "svc1", "p80", TCP)
MARK = short_circuit_mark(1, 14)


def target(address: str, *, here: bool = False) -> Target:
    return Target(text=f"{address}:8080", address=address, port=8080, may_be_local=here)


NEAR, FAR = target("10.244.0.11", here=True), target("10.244.1.11")
DESTINATIONS = (NEAR, FAR)
STATE = ServiceState(name=NAME, cluster_ip="10.96.0.1", port=80, cluster=(NEAR, FAR), has_endpoints=True)
LOCAL = msgspec.structs.replace(
    STATE, node_port=30080, external_ips=("198.18.0.1",), external_local=True, local=(NEAR,)
)


def render(state: ServiceState, settings: IpvsSettings | None = None, node: NodeState = NODE) -> Part:
    return Renderer(node, settings or IpvsSettings(), OWN).render(state, MARK)


def changed(state: ServiceState, **fields: object) -> ServiceState:
    return msgspec.structs.replace(state, **fields)


def at(part: Part, address: str, port: int = 80) -> Virtual:
    (found,) = [each for each in part.virtuals if each.server.key == ServerKey(TCP, address, port)]
    return found


def members(virtual: Virtual, which: Set) -> list[Member]:
    return [member for role, member in virtual.entries if role is which]


def roles(virtual: Virtual) -> set[Set]:
    return {role for role, _ in virtual.entries}


def test_a_cluster_ip_with_two_endpoints() -> None:
    assert render(STATE) == Part(
        virtuals=(Virtual(Server(ServerKey(TCP, "10.96.0.1", 80)), DESTINATIONS, (Set.CLUSTER_IP,)),),
        addresses=("10.96.0.1",),
        entries=((Set.LOOP_BACK, ("10.244.0.11", TCP, 8080)),),
    )


def test_nobody_is_refused_and_nobody_here_is_dropped() -> None:
    nobody = at(render(changed(STATE, cluster=(), has_endpoints=False)), "10.96.0.1")
    assert (nobody.destinations, roles(nobody)) == ((), {Set.CLUSTER_IP, Set.NO_ENDPOINTS})
    elsewhere = at(render(changed(STATE, cluster=(), internal_local=True)), "10.96.0.1")
    assert (elsewhere.destinations, roles(elsewhere)) == ((), {Set.CLUSTER_IP, Set.NO_LOCAL})


def test_what_another_service_owns_is_left_to_it() -> None:
    part = render(changed(STATE, cluster_ip="", external_ips=("198.18.0.1",)))
    assert [each.server.key.address for each in part.virtuals] == ["198.18.0.1"]
    assert part.addresses == ("198.18.0.1",)


def test_policy_cluster_masquerades_whoever_comes_by_another_address() -> None:
    state = changed(STATE, node_port=30080, external_ips=("198.18.0.1",), load_balancer_ips=("198.19.0.1",))
    part = render(state)
    assert not wants_mark(state)
    for address, port in (("198.18.0.1", 80), ("198.19.0.1", 80), ("192.168.57.11", 30080)):
        found = at(part, address, port)
        assert found.entries == ((Set.MASQUERADE, (address, TCP, port)),)
        assert found.destinations == DESTINATIONS
    assert part.addresses == ("10.96.0.1", "198.18.0.1", "198.19.0.1")


def test_node_ports_answer_on_the_nodes_addresses_and_give_way() -> None:
    part = render(changed(STATE, node_port=30080))
    answering = {each.server.key.address: each.is_node_port for each in part.virtuals}
    assert answering == {"10.96.0.1": False, "10.244.0.1": True, "192.168.56.11": True, "192.168.57.11": True}


def test_node_ports_answer_neither_on_loopback_nor_on_link_local_addresses() -> None:
    chosen = msgspec.structs.replace(NODE, nodeport_cidrs=("192.168.57.0/24", "127.0.0.0/8"))
    assert node_port_addresses(chosen, OWN) == ("192.168.57.11",)
    on_loopback = msgspec.structs.replace(NODE, nodeports_on_loopback=True)
    assert "127.0.0.1" not in node_port_addresses(on_loopback, OWN)
    v6 = NodeState(family=Family.V6, name="node1", node_ip="2001:db8::1")
    assert node_port_addresses(v6, ("2001:db8::1", "fe80::1", "::1")) == ("2001:db8::1",)


def test_policy_local_sends_pods_and_the_node_by_a_mark() -> None:
    part = render(LOCAL)
    assert wants_mark(LOCAL)
    for address, port in (("198.18.0.1", 80), ("192.168.56.11", 30080)):
        found = at(part, address, port)
        assert found.destinations == DESTINATIONS[:1]
        assert members(found, Set.SHORT_CIRCUIT) == [(address, TCP, port, MARK, 0xFFFFFFFF)]
        assert roles(found) == {Set.SHORT_CIRCUIT}
    marked = {each.server.key: each.destinations for each in part.virtuals if each.server.key.mark}
    assert marked == {mark_key(Family.V4, mark): DESTINATIONS for mark in (MARK, MARK | 0x4000)}
    assert roles(at(part, "10.96.0.1")) == {Set.CLUSTER_IP}


def test_policy_local_with_nobody_here_drops_who_is_no_pod() -> None:
    part = render(changed(LOCAL, local=(), cluster=(FAR,)))
    found = at(part, "198.18.0.1")
    assert (found.destinations, roles(found)) == ((), {Set.NO_LOCAL, Set.SHORT_CIRCUIT})


def test_policy_local_with_nobody_anywhere_refuses() -> None:
    state = changed(LOCAL, local=(), cluster=(), has_endpoints=False)
    assert not wants_mark(state)
    assert roles(at(render(state), "198.18.0.1")) == {Set.NO_ENDPOINTS}


def test_source_ranges_guard_the_load_balancers_address_alone() -> None:
    state = changed(
        STATE,
        external_ips=("198.18.0.1",),
        load_balancer_ips=("198.19.0.1", "198.19.0.2"),
        source_ranges=("203.0.113.0/24",),
    )
    part = render(state)
    assert members(at(part, "198.19.0.1"), Set.GUARDED) == [("198.19.0.1", TCP, 80)]
    assert members(at(part, "198.19.0.1"), Set.ADMITTED) == [("198.19.0.1", TCP, 80, "203.0.113.0/24")]
    assert roles(at(part, "198.18.0.1")) == {Set.MASQUERADE}
    own = at(render(changed(state, node_in_ranges=True)), "198.19.0.2")
    assert [
        member[3] for member in members(own, Set.ADMITTED) if isinstance(member, tuple) and len(member) > 3
    ] == [
        "203.0.113.0/24",
        "198.19.0.2/32",
    ]


def test_they_guard_when_nobody_is_there_too() -> None:
    state = changed(
        STATE,
        cluster=(),
        has_endpoints=False,
        load_balancer_ips=("198.19.0.1",),
        source_ranges=("203.0.113.0/24",),
    )
    assert {Set.GUARDED, Set.ADMITTED, Set.NO_ENDPOINTS} <= roles(at(render(state), "198.19.0.1"))


def test_affinity_is_persistence_but_a_hash_where_a_mark_leads() -> None:
    part = render(changed(LOCAL, affinity_seconds=60), IpvsSettings(scheduler="wlc"))
    server = at(part, "198.18.0.1").server
    assert (server.scheduler, server.affinity_seconds) == ("wlc", 60)
    marked = [each.server for each in part.virtuals if each.server.key.mark]
    assert {(each.scheduler, each.affinity_seconds, each.flags) for each in marked} == {("mh", 0, FALLBACK)}


def test_a_service_may_choose_its_scheduler() -> None:
    assert at(render(STATE, IpvsSettings(scheduler="lc")), "10.96.0.1").server.scheduler == "lc"
    chosen = at(render(changed(STATE, scheduler="mh"), IpvsSettings(scheduler="lc")), "10.96.0.1").server
    assert (chosen.scheduler, chosen.flags) == ("mh", FALLBACK | SOURCE_PORT)
    assert at(render(changed(STATE, scheduler="sh")), "10.96.0.1").server.flags == FALLBACK


def test_a_health_check_node_port_is_let_in() -> None:
    assert (Set.HEALTH_CHECKS, 31000) in render(changed(LOCAL, health_check_node_port=31000)).entries


@pytest.mark.parametrize("bit", [0, 5, 14, 21, 22, 23, 24, 27, 30, 31])
def test_marks_are_of_our_own_and_never_ask_for_masquerading(bit: int) -> None:
    numbers = [0, 1, 2, 31, 32, 33, 1 << 13, 1 << 14, 1 << 15, MARKS - 1]
    marks = [short_circuit_mark(number, bit) for number in numbers]
    assert len(set(marks)) == len(numbers)
    for mark in marks:
        assert not mark & 1 << bit
        assert is_short_circuit(mark, bit)
        assert is_short_circuit(mark | 1 << bit, bit)
    assert not is_short_circuit(0x4000, bit)
    assert not is_short_circuit(0, bit)
