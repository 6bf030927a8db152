"""What the model says becomes of a packet, and why; the scenario table compares the same with real packets."""

from collections.abc import Iterable

import msgspec
import pytest

from kubeproxy.dataplane.locate import Subject
from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.node import node_state
from kubeproxy.model.objects import (
    Conditions,
    EndpointSlice,
    Protocol,
    Record,
    Service,
    TrafficPolicy,
)
from kubeproxy.model.settings import LocalMode, Settings
from kubeproxy.model.world import World
from kubeproxy.testing.build import endpoint, endpoint_slice, service
from kubeproxy.trace.endpoints import endpoints_of
from kubeproxy.trace.packet import Origin, Packet
from kubeproxy.trace.table import Table, concerned
from kubeproxy.trace.verdict import Outcome, Verdict, judge
from tests.trace_bed import (
    BALANCER,
    BOTH,
    EXTERNAL,
    FAR,
    FAR_ONLY,
    LOCAL,
    NEAR,
    NODE_IP,
    OUTSIDE,
    POD,
    RANGED,
    SETTINGS,
    VIP,
    everywhere,
    known,
)

pytestmark = pytest.mark.unit

ALT_IP = "192.168.57.11"
WAYS = [(EXTERNAL, 80), (BALANCER, 80), (NODE_IP, 30080)]
CLIENTS = {
    "pod": (Origin.POD, POD),
    "node": (Origin.NODE, NODE_IP),
    "outside": (Origin.OUTSIDE, OUTSIDE),
    "localhost": (Origin.NODE, "127.0.0.1"),
    "near": (Origin.POD, "10.244.0.11"),
}


def ask(
    built: World,
    client: str,
    address: str,
    port: int,
    settings: Settings = SETTINGS,
    protocol: str = "TCP",
    **more: str,
) -> Verdict:
    table = Table(built, settings, Family.V4, local_addresses=(NODE_IP, ALT_IP))
    origin, source = CLIENTS[client]
    packet = Packet(
        origin=origin, source=source, destination=address, port=port, protocol=Protocol(protocol), **more
    )
    return judge(table, packet)


def texts(verdict: Verdict) -> str:
    return "; ".join(step.text for step in verdict.steps)


def who(verdict: Verdict) -> list[str]:
    return [each.target.text for each in verdict.destinations]


class Case(Record, frozen=True, kw_only=True):
    """A question, and the endpoints, the masquerading and words of the reasons that the answer must have."""

    name: str
    objects: tuple[Service | EndpointSlice, ...]
    ask: tuple[str, str, int]
    outcome: Outcome = Outcome.FORWARD
    who: tuple[str, ...] = ()
    masked: bool = False
    says: str = ""
    settings: Settings = SETTINGS


ALL = ("10.244.0.11:80", "10.244.1.11:80")

CASES = [
    Case(name="pod to cluster IP", objects=(everywhere(), BOTH), ask=("pod", VIP, 80), who=ALL, says="not masq"),
    Case(
        name="from outside it is masqueraded",
        objects=(everywhere(), BOTH),
        ask=("outside", VIP, 80),
        who=ALL,
        masked=True,
        says="not a pod (pods have addresses of 10.244.0.0/16)",
    ),
    Case(
        name="masquerade all",
        objects=(everywhere(), BOTH),
        ask=("pod", VIP, 80),
        who=ALL,
        masked=True,
        says="--masquerade-all",
        settings=msgspec.structs.replace(SETTINGS, masquerade_all=True),
    ),
    Case(
        name="the pod network is unknown",
        objects=(everywhere(), BOTH),
        ask=("outside", VIP, 80),
        who=ALL,
        settings=Settings(node_name="node1"),
    ),
    *(
        Case(
            name=f"{client} to {address}, policy Cluster",
            objects=(everywhere(), BOTH),
            ask=(client, address, port),
            who=ALL,
            masked=True,
            says="externalTrafficPolicy Cluster",
        )
        for client in ("pod", "node", "outside")
        for address, port in WAYS
    ),
    *(
        Case(
            name=f"outside to {address}, policy Local",
            objects=(LOCAL, BOTH),
            ask=("outside", address, port),
            who=ALL[:1],
            says="externalTrafficPolicy Local",
        )
        for address, port in WAYS
    ),
    *(
        Case(
            name=f"outside to {address}, policy Local, nobody here",
            objects=(LOCAL, FAR_ONLY),
            ask=("outside", address, port),
            outcome=Outcome.DROPPED,
            says="no endpoint on this node",
        )
        for address, port in WAYS
    ),
    Case(
        name="a pod is not bound by external policy Local",
        objects=(LOCAL, FAR_ONLY),
        ask=("pod", EXTERNAL, 80),
        who=ALL[1:],
        says="the client is a pod",
    ),
    Case(
        name="neither is the node",
        objects=(LOCAL, FAR_ONLY),
        ask=("node", EXTERNAL, 80),
        who=ALL[1:],
        masked=True,
        says="the client is the node",
    ),
    Case(
        name="internal policy Local, nobody here",
        objects=(service("web", VIP, internal_policy=TrafficPolicy.LOCAL), FAR_ONLY),
        ask=("pod", VIP, 80),
        outcome=Outcome.DROPPED,
        says="internalTrafficPolicy Local",
    ),
    Case(
        name="no endpoints",
        objects=(LOCAL,),
        ask=("outside", BALANCER, 80),
        outcome=Outcome.REFUSED,
        says="no endpoints: refused",
    ),
    Case(
        name="source ranges admit",
        objects=(RANGED, BOTH),
        ask=("outside", BALANCER, 80),
        who=ALL,
        masked=True,
        says="192.168.56.200/32 admits",
    ),
    Case(
        name="source ranges refuse, endpoints or not",
        objects=(RANGED,),
        ask=("pod", BALANCER, 80),
        outcome=Outcome.DROPPED,
        says="do not admit 10.244.0.2",
    ),
    Case(
        name="source ranges are nobody else's business",
        objects=(RANGED, BOTH),
        ask=("pod", EXTERNAL, 80),
        who=ALL,
        masked=True,
    ),
    Case(
        name="hairpin",
        objects=(everywhere(), endpoint_slice("web", "80", [NEAR])),
        ask=("near", VIP, 80),
        who=ALL[:1],
        masked=True,
        says="hairpin",
    ),
    Case(
        name="an endpoint on the node's network sees the client",
        objects=(everywhere(), endpoint_slice("web", "80>8088", [f"{NODE_IP}@node1"])),
        ask=("outside", EXTERNAL, 80),
        who=(f"{NODE_IP}:8088",),
        says="leaves by no interface",
    ),
    Case(
        name="affinity",
        objects=(everywhere(session_affinity=True), BOTH),
        ask=("pod", VIP, 80),
        who=ALL,
        says="less than 10800 s ago",
    ),
    Case(
        name="a port that a cluster IP has not",
        objects=(everywhere(), BOTH),
        ask=("pod", VIP, 81),
        outcome=Outcome.REFUSED,
        says="no such port 81/TCP is served",
    ),
    Case(
        name="nobody's cluster IP",
        objects=(everywhere(), BOTH),
        ask=("node", "10.96.7.7", 80),
        outcome=Outcome.DROPPED,
        says="of a ServiceCIDR",
    ),
    Case(
        name="nobody's address",
        objects=(everywhere(), BOTH),
        ask=("pod", "9.9.9.9", 80),
        outcome=Outcome.NOT_OURS,
        says="routed on unchanged",
    ),
    Case(
        name="another port of an external IP",
        objects=(everywhere(), BOTH),
        ask=("pod", EXTERNAL, 81),
        outcome=Outcome.NOT_OURS,
    ),
    Case(
        name="node ports answer on localhost",
        objects=(LOCAL, FAR_ONLY),
        ask=("localhost", "127.0.0.1", 30080),
        who=ALL[1:],
        masked=True,
    ),
    Case(
        name="not when they are told not to",
        objects=(everywhere(), BOTH),
        ask=("localhost", "127.0.0.1", 30080),
        outcome=Outcome.NOT_OURS,
        says="do not answer on loopback",
        settings=msgspec.structs.replace(SETTINGS, localhost_nodeports=False),
    ),
    Case(
        name="loopback from the wire",
        objects=(everywhere(), BOTH),
        ask=("outside", "127.0.0.1", 30081),
        outcome=Outcome.DROPPED,
        says="not reachable from the wire",
    ),
    Case(
        name="loopback from the wire, where node ports answer elsewhere",
        objects=(everywhere(), BOTH),
        ask=("outside", "127.0.0.1", 30080),
        outcome=Outcome.DROPPED,
        says="not reachable from the wire",
        settings=msgspec.structs.replace(SETTINGS, localhost_nodeports=False),
    ),
    Case(
        name="a node port that answers on loopback does so to the wire",
        objects=(everywhere(), BOTH),
        ask=("outside", "127.0.0.1", 30080),
        who=ALL,
        masked=True,
    ),
    Case(
        name="node ports on chosen addresses",
        objects=(everywhere(), BOTH),
        ask=("outside", ALT_IP, 30080),
        outcome=Outcome.NOT_OURS,
        says="192.168.56.11/32 only (--nodeport-addresses)",
        settings=msgspec.structs.replace(SETTINGS, nodeport_addresses=("primary",)),
    ),
    Case(
        name="the health-check node port",
        objects=(msgspec.structs.replace(LOCAL, health_check_node_port=31000), BOTH),
        ask=("outside", NODE_IP, 31000),
        outcome=Outcome.NOT_OURS,
        says="health-check node port of default/web: this agent answers",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_verdict_and_its_reasons(case: Case) -> None:
    verdict = ask(known(*case.objects), *case.ask, settings=case.settings)
    assert verdict.outcome is case.outcome, texts(verdict)
    assert tuple(who(verdict)) == case.who
    assert all(bool(each.masquerade) is case.masked for each in verdict.destinations), texts(verdict)
    assert sum(each.chance for each in verdict.destinations) == pytest.approx(1 if case.who else 0)
    assert case.says in texts(verdict)


def test_pods_are_known_by_their_interface_where_that_is_the_mode() -> None:
    built = known(everywhere(), BOTH)
    for mode, good, bad in (
        (LocalMode.BRIDGE_INTERFACE, "cbr0", "cbr0x"),
        (LocalMode.INTERFACE_NAME_PREFIX, "cbr0x", "eth0"),
    ):
        chosen = Settings(node_name="node1", detect_local=mode, pod_bridge="cbr0", pod_interface_prefix="cbr")
        for interface, masked in ((good, False), (bad, True)):
            verdict = ask(built, "pod", VIP, 80, chosen, interface=interface)
            assert [bool(each.masquerade) for each in verdict.destinations] == [masked] * 2


def test_who_claims_a_place_in_vain_is_named() -> None:
    older = service("a", VIP, created="2020-01-01T00:00:00Z")
    younger = service("b", VIP, created="2021-01-01T00:00:00Z")
    verdict = ask(known(older, younger, endpoint_slice("a", "80", [NEAR])), "pod", VIP, 80)
    assert verdict.state is not None
    assert verdict.state.name.name == "a"
    assert "default/b claims it too and is left out: the place is that of default/a" in texts(verdict)


def test_a_port_in_quarantine_is_as_good_as_absent() -> None:
    built = known(everywhere(), BOTH)
    name = ServicePortName("default", "web", "", Protocol.TCP)
    table = Table(built, SETTINGS, Family.V4, quarantined={name: "line 7 failed"})
    packet = Packet(origin=Origin.POD, source=POD, destination=VIP, port=80)
    verdict = judge(table, packet)
    assert verdict.outcome is Outcome.REFUSED
    assert "default/web has it, but is left out: the kernel interface refused it: line 7 failed" in texts(verdict)


def test_a_table_of_the_concerned_services_gives_the_same_verdict() -> None:
    others = [service(f"s{i}", f"10.96.1.{i}", node_port=31000 + i) for i in range(20)]
    built = known(everywhere(health_check_node_port=31999), BOTH, *others)
    whole = Table(built, SETTINGS, Family.V4)
    for address, port in [*WAYS, (VIP, 80), (VIP, 81), ("10.96.1.3", 80), (NODE_IP, 31007), (NODE_IP, 31999)]:
        part = Table(built, SETTINGS, Family.V4, only=concerned(built, address, port))
        for origin, source in CLIENTS.values():
            packet = Packet(origin=origin, source=source, destination=address, port=port)
            assert judge(part, packet) == judge(whole, packet)


def reasons(built: World, *, local: bool = False, family: Family = Family.V4) -> dict[str, str]:
    node = node_state(built, SETTINGS, family)
    name = ServicePortName("default", "web", "", Protocol.TCP)
    return {each.text: each.unused for each in endpoints_of(built, node, name, local=local)}


def pieces(*endpoints: object, port: str = "80", suffix: str = "a") -> Iterable[EndpointSlice]:
    return [endpoint_slice("web", port, endpoints, suffix=suffix)]  # type: ignore[arg-type]


def test_each_endpoint_that_is_left_out_says_why() -> None:
    leaving = Conditions(ready=False, serving=True, terminating=True)
    gone = Conditions(ready=False, serving=False, terminating=True)
    base = endpoint("10.244.0.3")
    built = known(
        everywhere(),
        *pieces(
            NEAR,
            FAR,
            endpoint("10.244.0.1", ready=False),
            msgspec.structs.replace(base, address="10.244.0.4", conditions=leaving),
            msgspec.structs.replace(base, address="10.244.0.5", conditions=gone),
            VIP,
        ),
        *pieces("10.244.0.6", port="admin=80", suffix="b"),
        *pieces("fd00::1", suffix="c"),
    )
    assert reasons(built) == {
        "10.244.0.11:80": "",
        "10.244.1.11:80": "",
        "10.244.0.1:80": "not ready",
        "10.244.0.4:80": "terminating, while others are ready",
        "10.244.0.5:80": "terminating, and does not serve any more",
        f"{VIP}:80": "it is the Service's own address",
        "10.244.0.6": 'its slice web-b has no port named "" by TCP',
        "fd00::1": "of the other family (IPv6; see there)",
    }
    assert reasons(built, local=True)["10.244.1.11:80"] == "on node node2, and the policy is Local"


def test_hints_name_their_mode() -> None:
    ours, theirs = endpoint("10.244.0.1", hint_zones=("a",)), endpoint("10.244.0.2", hint_zones=("b",))
    built = known(everywhere(), *pieces(ours, theirs))
    assert reasons(built)["10.244.0.2:80"] == "topology hints give it to others (PreferSameZone)"


def test_the_reasons_agree_with_the_endpoints_of_the_verdict() -> None:
    built = known(LOCAL, BOTH)
    for client, local in (("outside", True), ("pod", False)):
        verdict = ask(built, client, EXTERNAL, 80)
        assert verdict.under_local is local
        assert who(verdict) == [text for text, why in reasons(built, local=local).items() if not why]


def test_a_step_is_about_something() -> None:
    verdict = ask(known(RANGED, BOTH), "outside", BALANCER, 80)
    assert [step.subject for step in verdict.steps] == [
        Subject.ADDRESS,
        Subject.RANGES,
        Subject.POLICY,
        Subject.ENDPOINTS,
        Subject.MASQUERADE,
    ]
