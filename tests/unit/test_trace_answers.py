"""Questions and answers of `kubeproxy trace`: what may be asked, what the agent says, how it is shown."""

import io
from collections.abc import Iterable

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from kubeproxy.dataplane.iptables.locate import IptablesLocator
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Protocol, Service, TrafficPolicy
from kubeproxy.model.world import World
from kubeproxy.sync.status import SyncStatus
from kubeproxy.testing.build import endpoint, endpoint_slice, service
from kubeproxy.trace.answer import Answer, ServiceAnswer
from kubeproxy.trace.condition import condition_of
from kubeproxy.trace.ends import EndError, Kind, parse_end
from kubeproxy.trace.explainer import Condition, Explainer
from kubeproxy.trace.http import answering
from kubeproxy.trace.packet import Origin
from kubeproxy.trace.question import BadQuestion, parse
from kubeproxy.trace.report import show_packet, show_service
from tests.trace_bed import (
    BALANCER,
    BOTH,
    EXTERNAL,
    LOCAL,
    NODE_IP,
    OUTSIDE,
    POD,
    RANGED,
    VIP,
    everywhere,
    explaining,
    known,
)

pytestmark = pytest.mark.unit


def explainer(built: World, condition: Condition | None = None) -> Explainer:
    return explaining(built, "iptables", IptablesLocator(), condition=condition)


def ask(built: World, condition: Condition | None = None, **query: str) -> Answer:
    found = explainer(built, condition).answer(parse(query))
    assert isinstance(found, Answer)
    return found


def about(*objects: Service | EndpointSlice, name: str = "default/web", **more: Condition) -> ServiceAnswer:
    found = explainer(known(*objects), **more).answer(parse({"service": name}))
    assert isinstance(found, ServiceAnswer)
    return found


def rules(answer: Answer) -> dict[str, str]:
    return {step.about: step.rule for step in answer.steps if step.rule}


def test_each_step_names_the_rule_that_does_it() -> None:
    built = known(RANGED, BOTH)
    answer = ask(built, source=OUTSIDE, destination=BALANCER, port="80")
    assert answer.outcome == "FORWARD"
    found = rules(answer)
    assert found["address"].startswith(f"nat KUBE-SERVICES -d {BALANCER}/32 -p tcp")
    assert "KUBE-FW-" in found["source ranges"]
    assert "filter KUBE-PROXY-FIREWALL" in found["source ranges"]
    assert found["endpoints"].startswith("nat KUBE-SVC-")
    assert found["masquerade"].startswith("nat KUBE-EXT-")
    assert found["masquerade"].endswith("-j KUBE-MARK-MASQ")


def test_a_node_port_and_a_refusal_have_their_rules() -> None:
    built = known(everywhere(), BOTH)
    answer = ask(built, source=OUTSIDE, destination=NODE_IP, port="30080")
    assert rules(answer)["address"].startswith("nat KUBE-NODEPORTS -p tcp -m tcp --dport 30080")
    answer = ask(known(everywhere()), source=OUTSIDE, destination=EXTERNAL, port="80")
    assert answer.outcome == "REFUSED"
    assert rules(answer)["refusal"].startswith(f"filter KUBE-EXTERNAL-SERVICES -d {EXTERNAL}/32")
    assert rules(answer)["refusal"].endswith("-j REJECT")


def test_hairpin_names_the_set() -> None:
    built = known(everywhere(), endpoint_slice("web", "80", ["10.244.0.11@node1"]))
    answer = ask(built, source="10.244.0.11", destination=VIP, port="80")
    assert "KUBE-LOOP-BACK" in rules(answer)["hairpin"]


def test_the_origin_is_found_out() -> None:
    built = known(everywhere(), endpoint_slice("web", "80", ["172.20.0.9@node2"]))
    for source, origin in (
        (POD, Origin.POD),
        ("172.20.0.9", Origin.POD),
        (NODE_IP, Origin.NODE),
        ("127.0.0.1", Origin.NODE),
        (OUTSIDE, Origin.OUTSIDE),
    ):
        assert ask(built, source=source, destination=VIP, port="80").packet.origin == origin
    assert ask(built, source=POD, origin="outside", destination=VIP, port="80").packet.origin == "outside"


def test_a_service_may_be_named_instead_of_its_address() -> None:
    two = service("web", VIP, "http=80>8080,dns=53/UDP")
    built = known(two, endpoint_slice("web", "http=80>8080,dns=53/UDP", ["10.244.0.11"]))
    answer = ask(built, source=POD, family="4", service="default/web", port="dns")
    assert (answer.packet.port, answer.packet.protocol, answer.outcome) == (53, "UDP", "FORWARD")
    assert ask(built, source=POD, service="default/web", port="80").packet.protocol == Protocol.TCP
    assert ask(built, source=POD, service="default/web", port="81").outcome == "REFUSED"
    for query, complaint in (
        ({"service": "default/web"}, "has several ports; name one of http (80/TCP), dns (53/UDP)"),
        ({"service": "default/web", "port": "smtp"}, "has no such port; it has http"),
        ({"service": "default/other", "port": "80"}, "there is no Service default/other"),
        ({"destination": VIP}, "needs a port"),
    ):
        with pytest.raises(BadQuestion, match=complaint.replace("(", r"\(").replace(")", r"\)")):
            ask(built, source=POD, **query)
    with pytest.raises(BadQuestion, match="no IPv6 cluster IP"):
        ask(built, source="fd00::1", service="default/web", port="80")


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"source": POD},
        {"destination": VIP},
        {"source": "x", "destination": VIP, "port": "80"},
        {"source": POD, "destination": "fd00::1", "port": "80"},
        {"source": POD, "destination": VIP, "port": "0"},
        {"source": POD, "destination": VIP, "port": "65536"},
        {"source": POD, "destination": VIP, "port": "8" * 400},
        {"source": POD, "destination": VIP, "port": "80", "protocol": "ICMP"},
        {"source": POD, "destination": VIP, "port": "80", "origin": "moon"},
        {"source": POD, "destination": VIP, "port": "80", "interface": "a/../b"},
        {"source": POD, "destination": VIP, "port": "80", "family": "6"},
        {"service": "default"},
        {"service": "default/\x1b[31m"},
        {"service": "default/web", "verbose": "1"},
    ],
)
def test_what_cannot_be_asked_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadQuestion):
        parse(query)


@given(
    st.dictionaries(
        st.sampled_from(["service", "port", "source", "destination", "interface", "family"]), st.text()
    )
)
def test_no_question_is_worse_than_a_bad_one(query: dict[str, str]) -> None:
    try:
        explainer(known(everywhere(), BOTH)).answer(parse(query))
    except BadQuestion:
        return


async def test_the_agent_answers_in_json_and_refuses_with_400() -> None:
    app = web.Application()
    app.router.add_get("/trace", answering(explainer(known(everywhere(), BOTH))))
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/trace", params={"source": POD, "destination": VIP, "port": "80"})
        assert answer.status == 200
        assert msgspec.json.decode(await answer.read(), type=Answer).outcome == "FORWARD"
        answer = await client.get("/trace", params={"service": "default/\x1b[2J\n"})
        assert answer.status == 400
        error = (await answer.json())["error"]
        assert "is none" in error
        assert not any(char in error for char in "\x1b\n")


def test_everything_about_a_service() -> None:
    whole = about(
        msgspec.structs.replace(LOCAL, health_check_node_port=31000, session_affinity=True),
        BOTH,
        endpoint_slice("web", "80", ["127.0.0.1", endpoint("10.244.0.3", ready=False)], suffix="b"),
    )
    (port,) = whole.ports
    assert port.addresses == (
        f"cluster IP {VIP}:80",
        f"external IP {EXTERNAL}:80",
        f"load balancer IP {BALANCER}:80",
        "node port 30080",
    )
    assert port.policies == (
        "internalTrafficPolicy Cluster",
        "externalTrafficPolicy Local",
        "session affinity: a client stays with its endpoint for 10800 s",
    )
    assert {each.endpoint: (each.chance, each.left_out) for each in port.inside} == {
        "10.244.0.11:80": (0.5, ""),
        "10.244.1.11:80": (0.5, ""),
        "10.244.0.3:80": (0.0, "not ready"),
    }
    assert {each.endpoint: each.left_out for each in port.outside} == {
        "10.244.0.11:80": "",
        "10.244.1.11:80": "on node node2, and the policy is Local",
        "10.244.0.3:80": "not ready",
    }
    assert any(each.startswith(f"nat KUBE-SERVICES -d {EXTERNAL}/32") for each in port.objects)
    assert whole.health_check.startswith("31000/TCP")
    assert "EndpointSlice default/web-b: endpoints.addresses 127.0.0.1 is a loopback address" in whole.notes


def test_lost_claims_and_quarantine_are_told() -> None:
    older, younger = (service(name, VIP, created=f"20{name}-01-01T00:00:00Z") for name in ("20", "21"))
    whole = about(older, younger, name="default/21")
    assert whole.ports[0].left_out == (f"{VIP}:80 is left to default/20, which claims it too",)
    held = Condition(quarantined=(("default/web/TCP", "line 3 failed"),), warnings=("not in sync",))
    whole = about(everywhere(), BOTH, condition=held)
    assert whole.ports[0].left_out == ("the kernel interface refused it: line 3 failed",)
    assert whole.ports[0].objects == ()
    assert "IPv4: not in sync" in whole.warnings
    noted = Condition(notes=(("default/web/TCP", "endpoint 10.0.0.255:80 is left out"),))
    otherwise = "served otherwise than was asked: endpoint 10.0.0.255:80 is left out"
    assert about(everywhere(), BOTH, condition=noted).ports[0].left_out == (otherwise,)
    assert ask(known(everywhere(), BOTH), noted, source=POD, destination=VIP, port="80").warnings == (otherwise,)
    answer = ask(known(everywhere(), BOTH), held, source=POD, destination=VIP, port="80")
    assert "line 3 failed" in answer.steps[0].text
    assert answer.warnings == ("not in sync",)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (None, "no Service default/web is known here"),
        (service("web", "", headless=True), "headless"),
        (service("web", VIP, proxy_name="other"), "other is to proxy it"),
        (service("web", ""), "it has no cluster IP"),
    ],
)
def test_a_service_without_anything_says_why(made: Service | None, says: str) -> None:
    whole = about(*([made] if made else []))
    assert whole.ports == ()
    assert whole.known is (made is not None)
    assert says in "; ".join(whole.notes)


def test_a_crowd_of_ranges_is_cut() -> None:
    many = tuple(f"10.{i >> 8}.{i & 255}.0/24" for i in range(5000))
    (port,) = about(everywhere(source_ranges=many), BOTH).ports
    assert len(port.objects) == 201
    assert port.objects[-1].endswith("more")


def test_the_condition_of_the_agent() -> None:
    good = SyncStatus(family=Family.V4, synced=True)
    assert condition_of(good, 10.0) == Condition()
    late = msgspec.structs.replace(good, queued_since=7.5, last_error="no lock")
    assert condition_of(late, 10.0).warnings == (
        "the last sync failed: no lock",
        "not in sync: a change has waited 2.5 s for the kernel",
    )
    assert "has not written anything yet" in condition_of(SyncStatus(family=Family.V4), 1.0).warnings[0]


def printed(show: object, *arguments: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(*arguments, console)  # type: ignore[operator]
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_text_has_the_steps_the_endpoints_and_the_outcome() -> None:
    lines = printed(show_packet, ask(known(everywhere(), BOTH), source=POD, destination=VIP, port="80"))
    for words in (
        f"{POD} (pod) → {VIP}:80/TCP   node node1, iptables (nft), IPv4",
        f" 1 {VIP}:80/TCP is the cluster IP of default/web",
        "10.244.0.11:80",
        "50.0%",
        "FORWARD to one of 2 endpoints, with the client's own address",
    ):
        assert words in lines
    nobody = known(
        service("web", VIP, internal_policy=TrafficPolicy.LOCAL), endpoint_slice("web", "80", ["10.9.9.9@node2"])
    )
    lines = printed(show_packet, ask(nobody, source=POD, destination=VIP, port="80"))
    assert "DROPPED: 1 endpoint is left out: on node node2, and the policy is Local" in lines


def test_a_pods_name_can_be_copied_from_a_narrow_terminal() -> None:
    answer = ask(known(everywhere(), BOTH), source=POD, destination=VIP, port="80")
    name = "a-deployment-of-a-long-name-6cbc988cf9-5xblw"
    found = tuple(msgspec.structs.replace(each, pod=name) for each in answer.endpoints)
    text = printed(show_packet, msgspec.structs.replace(answer, endpoints=found), width=60)
    assert text.count(name) == 2


def test_what_the_cluster_named_commands_no_terminal() -> None:
    evil = endpoint("10.244.0.9", node="[red]node\x1b[2J\nFORWARD")
    text = printed(show_service, about(everywhere(), endpoint_slice("web", "80", [evil])))
    assert "\x1b" not in text
    assert "\nFORWARD" not in text


def ends() -> Iterable[tuple[str, Kind, str, str, str, Protocol | None]]:
    yield "10.0.0.1", Kind.ADDRESS, "10.0.0.1", "", "", None
    yield "10.0.0.1:80", Kind.ADDRESS, "10.0.0.1", "", "80", None
    yield "[fd00::1]:80/udp", Kind.ADDRESS, "fd00::1", "", "80", Protocol.UDP
    yield "fd00::1", Kind.ADDRESS, "fd00::1", "", "", None
    yield "pod/web-1", Kind.POD, "web-1", "default", "", None
    yield "pod/web-1.kube-system:80", Kind.POD, "web-1", "kube-system", "80", None
    yield "pod/prod/web:80/SCTP", Kind.POD, "web", "prod", "80", Protocol.SCTP
    yield "service/web", Kind.SERVICE, "web", "default", "", None
    yield "svc/web.prod:http/TCP", Kind.SERVICE, "web", "prod", "http", Protocol.TCP
    yield "node1:30080", Kind.NODE, "node1", "", "30080", None
    yield "localhost:30080", Kind.LOCALHOST, "", "", "30080", None
    yield "outside", Kind.OUTSIDE, "", "", "", None


@pytest.mark.parametrize(("text", "kind", "name", "namespace", "port", "protocol"), list(ends()))
def test_ends_are_read(
    text: str, kind: Kind, name: str, namespace: str, port: str, protocol: Protocol | None
) -> None:
    end = parse_end(text, ported=True)
    found = (end.kind, end.name, end.namespace, end.port, end.protocol)
    assert found == (kind, name, namespace, port, protocol)


@pytest.mark.parametrize(
    "text", ["10.0.0.300", "A b", "service/", "10.0.0.1/icmp", "pod/x:80:90/", "pod/UP", "\x1b[2J"]
)
def test_ends_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(EndError):
        parse_end(text, ported=True)


@given(st.text(max_size=60), st.booleans())
def test_no_end_raises_anything_else(text: str, ported: bool) -> None:
    try:
        parse_end(text, ported=ported)
    except EndError:
        return
