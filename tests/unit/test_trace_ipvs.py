"""What `kubeproxy trace` names in ipvs mode: virtual servers as ipvsadm shows them, and the rule with its set."""

import msgspec
import pytest

from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.ipvs.substitutes import Replaced
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.objects import EndpointSlice, Protocol, Service, TrafficPolicy
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint_slice
from kubeproxy.trace.answer import ServiceAnswer
from kubeproxy.trace.explainer import Explainer
from kubeproxy.trace.question import parse
from tests import trace_bed
from tests.trace_bed import (
    BALANCER,
    BOTH,
    EXTERNAL,
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

IPVS = IpvsSettings(scheduler="lc")
ELSEWHERE = endpoint_slice("web", "80", ["10.244.1.11@node2"])


def explainer(built: World, replaced: Replaced | None = None) -> Explainer:
    settings = msgspec.structs.replace(SETTINGS, ipvs=IPVS)
    return explaining(built, "ipvs", IpvsLocator(IPVS, replaced), settings=settings, flavour="legacy")


def rules(source: str, destination: str, port: int, *objects: Service | EndpointSlice) -> dict[str, str]:
    return trace_bed.rules(explainer(known(*objects)), source, destination, port)


def test_a_cluster_ip_is_a_virtual_server() -> None:
    found = rules(OUTSIDE, VIP, 80, everywhere(session_affinity=True, scheduler="sh"), BOTH)
    assert found["address"] == found["endpoints"] == found["affinity"] == f"IPVS TCP {VIP}:80 sh persistent 10800"
    assert found["masquerade"].startswith(
        "nat KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP "
    )


def test_from_outside_the_ranges_guard_and_everybody_is_masqueraded() -> None:
    found = rules(OUTSIDE, BALANCER, 80, RANGED, BOTH)
    assert found["address"] == f"IPVS TCP {BALANCER}:80 lc"
    assert "mangle KUBE-IPVS-INGRESS" in found["source ranges"]
    assert "KUBE-LOAD-BALANCER-SOURCE-CIDR" in found["source ranges"]
    assert "--match-set KUBE-MASQUERADE " in found["masquerade"]
    assert rules(OUTSIDE, NODE_IP, 30080, everywhere(), BOTH)["address"] == "IPVS TCP NODE:30080 lc"


def test_under_policy_local_pods_and_the_node_are_cut_short() -> None:
    found = rules(POD, EXTERNAL, 80, LOCAL, BOTH)
    assert found["address"] == f"IPVS TCP {EXTERNAL}:80 lc"
    assert found["short circuit"].startswith(
        "mangle KUBE-IPVS-INGRESS -s 10.244.0.0/16 -m set --match-set KUBE-SHORT-C"
    )
    assert found["endpoints"] == "IPVS FWM lc, by the mark in set KUBE-SHORT-CIRCUIT"
    assert "--src-type LOCAL" in rules(NODE_IP, EXTERNAL, 80, LOCAL, BOTH)["masquerade"]
    assert rules(OUTSIDE, EXTERNAL, 80, LOCAL, BOTH)["endpoints"] == f"IPVS TCP {EXTERNAL}:80 lc"


def test_who_gets_nothing_is_told_why() -> None:
    assert "--match-set KUBE-NO-ENDPOINTS " in rules(POD, VIP, 80, everywhere())["refusal"]
    assert "--match-set KUBE-NO-LOCAL " in rules(OUTSIDE, EXTERNAL, 80, LOCAL, ELSEWHERE)["refusal"]
    here = everywhere(internal_policy=TrafficPolicy.LOCAL)
    assert "--match-set KUBE-NO-LOCAL " in rules(POD, VIP, 80, here, ELSEWHERE)["refusal"]
    assert "no such port" in rules(POD, VIP, 81, everywhere(), BOTH)["undefined port"]
    assert "service CIDRs" in rules(POD, "10.96.7.7", 80, everywhere(), BOTH)["unallocated"]


def test_hairpin_names_the_set() -> None:
    near = endpoint_slice("web", "80", ["10.244.0.11@node1"])
    assert "--match-set KUBE-LOOP-BACK " in rules("10.244.0.11", VIP, 80, everywhere(), near)["hairpin"]


def test_everything_about_a_service() -> None:
    service = msgspec.structs.replace(LOCAL, health_check_node_port=31000)
    whole = explainer(known(service, BOTH)).answer(parse({"service": "default/web"}))
    assert isinstance(whole, ServiceAnswer)
    (port,) = whole.ports
    assert {
        f"IPVS TCP {VIP}:80 lc",
        f"IPVS TCP {EXTERNAL}:80 lc",
        "IPVS TCP NODE:30080 lc",
        "IPVS FWM lc, by the mark in set KUBE-SHORT-CIRCUIT",
        f"set KUBE-CLUSTER-IP: {VIP},tcp:80",
        f"set KUBE-SHORT-CIRCUIT: {EXTERNAL},tcp:80",
        "set KUBE-HEALTH-CHECK-NODE-PORT: 31000",
    } <= set(port.objects)


def test_a_scheduler_that_serves_instead_is_what_is_shown() -> None:
    sticky = everywhere(session_affinity=True, external_policy=TrafficPolicy.LOCAL, scheduler="nq")
    replaced = Replaced()

    def shown() -> list[str]:
        answer = explainer(known(sticky, BOTH), replaced).answer(parse({"service": "default/web"}))
        assert isinstance(answer, ServiceAnswer)
        return [
            each.split()[2 if "FWM" in each else 3].strip(",")
            for each in answer.ports[0].objects
            if "IPVS " in each
        ]

    assert set(shown()) == {"nq", "mh"}
    name = ServicePortName("default", "web", "", Protocol.TCP)
    replaced.note(Family.V4, {name: {"mh"}})
    assert set(shown()) == {"nq", "sh"}
    replaced.note(Family.V4, {name: {"mh", "sh", "nq"}})
    assert set(shown()) == {"rr"}
