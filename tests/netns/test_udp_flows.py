"""UDP clients that keep their port, through changes of a Service (reference/kube-proxy.md §5, §6.3 row 80).

By real packets, in both families. What is not translated ends at `wan`, so a flow that began too early is seen.
"""

import socket
from collections.abc import Iterator

import msgspec
import pytest

from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Conditions, Endpoint, EndpointSlice, Protocol, Service, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice, service
from tests.netns.udp_bed import REFUSED, UdpNode, udp_node
from tests.scenarios.addresses import HOSTS, virtual
from tests.scenarios.lab import Lab, lab
from tests.scenarios.modes import IPTABLES
from tests.scenarios.probes import probe

pytestmark = pytest.mark.netns

NODE_PORT = 30053
MANY = 10_000


@pytest.fixture(scope="module")
def built() -> Iterator[Lab]:
    with lab() as made:
        yield made


@pytest.fixture(params=list(Family), ids=lambda family: family.label)
def node(built: Lab, request: pytest.FixtureRequest) -> Iterator[UdpNode]:
    with udp_node(built, request.param) as made:
        yield made


def dns(family: Family, port: str = "53/UDP") -> Service:
    return service(
        "dns",
        virtual("cluster", family, 1, 0),
        port,
        node_port=NODE_PORT,
        external_ips=(virtual("external", family, 1, 0),),
        load_balancer_ips=(virtual("balancer", family, 1, 0),),
    )


def served_by(family: Family, *backends: str, port: str = "53/UDP") -> EndpointSlice:
    """Build the slice; a backend may be followed by what it is: `be1 unready`, `be1 terminating`."""
    kinds = {
        "": Conditions(),
        "unready": Conditions(ready=False, serving=False),
        "terminating": Conditions(ready=False, serving=True, terminating=True),
    }
    found = []
    for each in backends:
        who, _, kind = each.partition(" ")
        where = "node1" if HOSTS[who].namespace == who else "node2"
        found.append(Endpoint(address=HOSTS[who].address(family), node_name=where, conditions=kinds[kind]))
    return endpoint_slice("dns", port, found)


def ways(family: Family) -> list[tuple[str, str, int]]:
    """Return the ways to the Service: client, address, port."""
    virtuals = {way: virtual(way, family, 1, 0) for way in ("cluster", "external", "balancer")}
    return [
        ("pod", virtuals["cluster"], 53),
        ("node", virtuals["cluster"], 53),
        ("outside", virtuals["external"], 53),
        ("outside", virtuals["balancer"], 53),
        ("outside", HOSTS["node"].address(family), NODE_PORT),
        ("pod", HOSTS["alt"].address(family), NODE_PORT),
    ]


def ask_all(node: UdpNode) -> set[str]:
    return {node.ask(*way) for way in ways(node.family)}


@pytest.mark.parametrize("mode", IPTABLES)
@pytest.mark.parametrize("family", list(Family), ids=lambda family: family.label)
def test_an_endpoint_that_is_replaced_loses_its_flows(built: Lab, family: Family, mode: str) -> None:
    with udp_node(built, family, mode) as node:
        node.put(dns(family), served_by(family, "be1"))
        assert ask_all(node) == {"be1 53"}
        status = node.put(served_by(family, "be3"))
        assert ask_all(node) == {"be3 53"}
        assert (status.deleted, status.error) == (len(ways(family)), "")


def test_without_reconciliation_they_would_not_come_over(node: UdpNode) -> None:
    node.put(dns(node.family), served_by(node.family, "be1"))
    assert ask_all(node) == {"be1 53"}
    node.put(served_by(node.family, "be3"), reconcile=False)
    assert ask_all(node) == {"be1 53"}


def test_flows_that_began_before_the_service_come_to_it(node: UdpNode) -> None:
    # Nobody's addresses lead to `wan`; at a node port nobody listens.
    assert ask_all(node) == {"wan 53", REFUSED}
    node.put(dns(node.family), served_by(node.family, "be2"))
    assert ask_all(node) == {"be2 53"}


def test_flows_that_began_before_the_endpoints_come_to_them(node: UdpNode) -> None:
    node.put(dns(node.family))
    assert ask_all(node) == {REFUSED}
    node.put(served_by(node.family, "be1 unready"))
    assert ask_all(node) == {REFUSED}
    node.put(served_by(node.family, "be1"))
    assert ask_all(node) == {"be1 53"}
    node.put(served_by(node.family, "be1 unready", "be2"))
    assert ask_all(node) == {"be2 53"}


def test_flows_follow_a_target_port(node: UdpNode) -> None:
    node.put(dns(node.family), served_by(node.family, "be1"))
    assert ask_all(node) == {"be1 53"}
    node.put(served_by(node.family, "be1", port="53>5353/UDP"))
    assert ask_all(node) == {"be1 5353"}


def test_flows_stay_with_an_endpoint_that_serves_on_its_way_out(node: UdpNode) -> None:
    node.put(dns(node.family), served_by(node.family, "be1"))
    assert ask_all(node) == {"be1 53"}
    runs = node.put(served_by(node.family, "be1 terminating", "be2")).runs
    assert ask_all(node) == {"be1 53"}
    status = node.put(served_by(node.family, "be2"))
    assert ask_all(node) == {"be2 53"}
    assert status.runs == runs + 1


def test_flows_outlive_the_last_endpoint_and_move_to_the_next(node: UdpNode) -> None:
    node.put(dns(node.family), served_by(node.family, "be1"))
    assert ask_all(node) == {"be1 53"}
    node.put(served_by(node.family))
    assert ask_all(node) == {"be1 53"}  # as upstream: its packets may still be answered, and nobody else would
    node.put(served_by(node.family, "be2"))
    assert ask_all(node) == {"be2 53"}


def test_policies_that_keep_traffic_on_the_node_make_no_difference(node: UdpNode) -> None:
    local = msgspec.structs.replace(
        dns(node.family), internal_policy=TrafficPolicy.LOCAL, external_policy=TrafficPolicy.LOCAL
    )
    assert ask_all(node) == {"wan 53", REFUSED}
    node.put(local, served_by(node.family, "be1"))
    assert ask_all(node) == {"be1 53"}
    node.put(served_by(node.family, "be1 unready", "be2"))
    assert ask_all(node) == {"be2 53"}


def test_nobody_elses_flows_are_touched(node: UdpNode) -> None:
    family = node.family
    other = service("log", virtual("cluster", family, 2, 0), "53/UDP,web=80/TCP")
    both = endpoint_slice("log", "53/UDP,web=80/TCP", [HOSTS["be1"].address(family)])
    node.put(dns(family), served_by(family, "be1"), other, both)
    far = HOSTS["be3"].address(family)
    node.lab.listen("far", (NODE_PORT,))
    questions = [
        ("pod", other.cluster_ips[0], 53),  # another Service, to the same endpoint
        ("pod", far, NODE_PORT),  # another node's port, which this node only forwards
        ("pod", HOSTS["be1"].address(family), 53),  # the endpoint itself
    ]
    answers = [node.ask(*each) for each in questions]
    assert answers == ["be1 53", f"be3 {NODE_PORT}", "be1 53"]
    assert str(probe(node.lab, "pod", Protocol.TCP, other.cluster_ips[0], 80)) == "be1 same 80"
    before = {flow.handle[:100] for protocol in (Protocol.UDP, Protocol.TCP) for flow in node.tracked(protocol)}
    assert ask_all(node) == {"be1 53"}
    status = node.put(served_by(family, "be2"))
    assert status.deleted == len(ways(family))
    after = {flow.handle[:100] for protocol in (Protocol.UDP, Protocol.TCP) for flow in node.tracked(protocol)}
    assert before <= after
    assert [node.ask(*each) for each in questions] == answers
    assert ask_all(node) == {"be2 53"}


def test_ten_thousand_flows_move_at_once(node: UdpNode) -> None:
    family = node.family
    node.put(dns(family), served_by(family, "be1"))
    vip, own = dns(family).cluster_ips[0], HOSTS["pod"].address(family)
    inet = socket.AF_INET if family is Family.V4 else socket.AF_INET6

    def send() -> None:
        for port in range(20000, 20000 + MANY):
            with socket.socket(inet, socket.SOCK_DGRAM) as client:
                client.bind((own, port))
                client.sendto(b"?", (vip, 53))

    node.lab.run("pod", send)
    assert len(node.tracked(Protocol.UDP, 53)) >= MANY
    status = node.put(served_by(family, "be2"))
    assert status.deleted >= MANY
    assert status.duration < 3.0  # 0.2 on an idle machine
    print(f"{family.label}: {status.deleted} flows ended in {status.duration * 1000:.0f} ms")
    assert node.ask("pod", vip, 53) == "be2 53"
