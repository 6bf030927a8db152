"""What `kubeproxy trace` names in nftables mode: elements, the chains they lead to, and rules in nft's words."""

import msgspec
import pytest

from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.dataplane.nftables.locate import NftablesLocator
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import NodeState
from kubeproxy.model.objects import EndpointSlice, Protocol, Service, TrafficPolicy
from kubeproxy.testing.build import endpoint_slice
from kubeproxy.trace.answer import ServiceAnswer
from kubeproxy.trace.explainer import Explainer
from kubeproxy.trace.question import parse
from tests import trace_bed
from tests.trace_bed import (
    BALANCER,
    BOTH,
    EXTERNAL,
    FAR_ONLY,
    LOCAL,
    NODE_IP,
    OUTSIDE,
    POD,
    RANGED,
    SETTINGS,
    VIP,
    everywhere,
    explaining,
    known,
)

pytestmark = pytest.mark.unit

PLACE = "ip daddr . meta l4proto . th dport"
OUR_CODE = "meta priority & ff00:0 == 6b00:0"


def explainer(*objects: Service | EndpointSlice) -> Explainer:
    settings = msgspec.structs.replace(SETTINGS, localhost_nodeports=False)
    return explaining(known(*objects), "nftables", NftablesLocator(), settings=settings, flavour="netlink")


def rules(source: str, destination: str, port: int, *objects: Service | EndpointSlice) -> dict[str, str]:
    return trace_bed.rules(explainer(*objects), source, destination, port)


def test_a_cluster_ip_is_an_element_that_leads_to_a_chain() -> None:
    found = rules(OUTSIDE, VIP, 80, everywhere(), BOTH)
    assert found == {
        "address": f"map service-classes: {VIP} . tcp . 80 → cluster-2",
        "endpoints": f"cluster-2 dnat ip to {PLACE} . numgen random mod 2 map @endpoints",
        "masquerade": "cluster-2 ip saddr != 10.244.0.0/16 meta mark set meta mark | 0x00004000",
    }


def test_a_client_that_stays_is_in_the_map_of_affinity() -> None:
    found = rules(POD, VIP, 80, everywhere(session_affinity=True), BOTH)
    chain = "cluster-sticky-10800"
    assert found["address"] == f"map service-classes: {VIP} . tcp . 80 → {chain}"
    assert found["affinity"] == f"{chain} meta priority set ip saddr . {PLACE} map @affinity"
    slots = f"meta priority set {PLACE} . numgen random mod 2 map @sticky-slots"
    assert found["endpoints"] == f"choose-2 {slots}"


def test_from_outside_the_ranges_guard_and_everybody_is_masqueraded() -> None:
    found = rules(OUTSIDE, BALANCER, 80, RANGED, BOTH)
    assert found["address"] == f"map service-classes: {BALANCER} . tcp . 80 → masquerade-2"
    assert found["source ranges"] == f"firewall-check {PLACE} @guarded-ips goto firewall-sources"
    assert found["masquerade"] == "masquerade-2 meta mark set meta mark | 0x00004000"
    found = rules(OUTSIDE, NODE_IP, 30080, everywhere(), BOTH)
    assert found["address"] == "map nodeport-classes: tcp . 30080 → nodeport-masquerade-2"
    assert found["endpoints"].endswith(
        "dnat ip to meta l4proto . th dport . numgen random mod 2 map @nodeport-endpoints"
    )


def test_under_policy_local_pods_and_the_node_are_cut_short() -> None:
    found = rules(POD, EXTERNAL, 80, LOCAL, BOTH)
    assert found["address"] == f"map service-classes: {EXTERNAL} . tcp . 80 → local-1"
    assert found["short circuit"] == f"map short-circuit-ips: {EXTERNAL} . tcp . 80 → pick-2"
    assert found["endpoints"] == f"pick-2 dnat ip to {PLACE} . numgen random mod 2 map @endpoints"
    assert "masquerade" not in found
    found = rules(NODE_IP, EXTERNAL, 80, LOCAL, BOTH)
    assert found["masquerade"].startswith(f"services {OUR_CODE} fib saddr type local meta mark set")
    found = rules(OUTSIDE, EXTERNAL, 80, LOCAL, BOTH)
    assert found["endpoints"] == f"local-1 dnat ip to {PLACE} . numgen random mod 1 map @local-endpoints"


def test_who_gets_nothing_is_told_why() -> None:
    refused = rules(POD, VIP, 80, everywhere())
    assert refused["address"] == f"map service-classes: {VIP} . tcp . 80 → untranslated"
    assert refused["refusal"] == f"service-endpoints-check {PLACE} @rejected-services counter reject"
    dropped = f"service-endpoints-check {PLACE} @dropped-services counter drop"
    assert rules(OUTSIDE, EXTERNAL, 80, LOCAL, FAR_ONLY)["refusal"] == dropped
    here = everywhere(internal_policy=TrafficPolicy.LOCAL)
    assert rules(POD, VIP, 80, here, FAR_ONLY)["refusal"] == dropped
    nobody = rules(OUTSIDE, NODE_IP, 30080, everywhere())
    assert nobody["address"] == "set rejected-nodeports: tcp . 30080"
    assert nobody["refusal"].startswith("nodeport-endpoints-check meta l4proto . th dport @rejected-nodeports ")
    assert "ip daddr @cluster-ips counter reject" in rules(POD, VIP, 81, everywhere(), BOTH)["undefined port"]
    unallocated = rules(POD, "10.96.7.7", 80, everywhere(), BOTH)["unallocated"]
    assert unallocated.startswith("cluster-ips-check ip daddr 10.96.0.0/16 counter drop")


def test_hairpin_names_the_set() -> None:
    near = endpoint_slice("web", "80", ["10.244.0.11@node1"])
    assert (
        f"ip saddr . {PLACE} @hairpin-connections masquerade"
        in rules("10.244.0.11", VIP, 80, everywhere(), near)["hairpin"]
    )


def test_everything_about_a_service() -> None:
    whole = explainer(msgspec.structs.replace(LOCAL, source_ranges=("192.168.56.0/24",)), BOTH).answer(
        parse({"service": "default/web"})
    )
    assert isinstance(whole, ServiceAnswer)
    (port,) = whole.ports
    assert {
        f"set cluster-ips: {VIP}",
        f"map service-classes: {VIP} . tcp . 80 → cluster-2",
        f"map service-classes: {EXTERNAL} . tcp . 80 → local-1",
        f"map short-circuit-ips: {EXTERNAL} . tcp . 80 → pick-2",
        "map nodeport-classes: tcp . 30080 → nodeport-local-1",
        f"set guarded-ips: {BALANCER} . tcp . 80",
        f"set firewall-sources-24: {BALANCER} . tcp . 80 . 192.168.56.0",
        f"local-1 dnat ip to {PLACE} . numgen random mod 1 map @local-endpoints",
    } <= set(port.objects)
    assert not any("10.244.0.11" in each for each in port.objects)


def test_a_port_that_is_left_out_has_nothing() -> None:
    bad = ServicePortName("default", '"; flush ruleset', "", Protocol.TCP)
    state = ServiceState(name=bad, cluster_ip=VIP, port=80)
    node = NodeState(family=Family.V4, name="node1")
    (told,) = NftablesLocator().objects(node, state)
    assert told.startswith("nothing: ")
    assert NftablesLocator().locate(node, state, Spot(subject=Subject.ADDRESS, address=VIP)) == ""
