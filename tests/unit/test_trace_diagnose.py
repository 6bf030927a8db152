"""What the node shows beside the model: sysctls, rules of others, stale connections; what a sent packet proved."""

import msgspec
import pytest

from kubeproxy.kernel.first_packets import checksum, first_packet
from kubeproxy.kernel.netlink_messages import HEADER, attribute
from kubeproxy.kernel.nflog_messages import MSG_PACKET, decode_packets
from kubeproxy.kernel.nftrace_messages import MSG_TRACE, decode_events
from kubeproxy.kernel.paths import Hop, Path
from kubeproxy.model.flows import Flow
from kubeproxy.model.objects import Protocol
from kubeproxy.testing.build import endpoint, endpoint_slice, service
from kubeproxy.trace.answer import Answer
from kubeproxy.trace.compare import Seen, Translation, compare
from kubeproxy.trace.diagnose import Facts, findings
from kubeproxy.trace.rules import Chains, Match, View, matches, redirections, suspects
from tests.trace_bed import BOTH, EXTERNAL, NODE_IP, OUTSIDE, POD, VIP, everywhere, known
from tests.unit.test_trace_answers import ask

pytestmark = pytest.mark.unit

VIEW = View(source=OUTSIDE, destination="10.244.0.11", port=80, protocol="tcp", interface="eth0")


@pytest.mark.parametrize(
    ("rule", "match"),
    [
        ("-j DROP", Match.YES),
        ("-s 192.168.56.0/24 -j DROP", Match.YES),
        ("! -s 192.168.56.0/24 -j DROP", Match.NO),
        ("-s 10.0.0.0/8 -d 10.244.0.0/16 -j DROP", Match.NO),
        ("-d 10.244.0.11/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable", Match.YES),
        ("-p udp -m udp --dport 80 -j DROP", Match.NO),
        ("-p tcp -m tcp --dport 81:90 -j DROP", Match.NO),
        ("-p tcp -m tcp --dport 1: -j DROP", Match.YES),
        ("-i eth0 -j DROP", Match.YES),
        ("-i eth+ -j DROP", Match.YES),
        ("! -i eth0 -j DROP", Match.NO),
        ("-i docker0 -j DROP", Match.NO),
        ("-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", Match.NO),
        ("-m conntrack --ctstate NEW -j DROP", Match.YES),
        ("-m owner --uid-owner 7 -j DROP", Match.MAYBE),
        ("-m limit --limit 1/min -j DROP", Match.MAYBE),
        ("-o eth1 -j DROP", Match.MAYBE),
    ],
)
def test_a_rule_of_somebody_else_is_understood(rule: str, match: Match) -> None:
    assert matches(rule, VIEW) is match


def test_a_rule_of_another_family_matches_nothing() -> None:
    assert matches("-s fd00::/8 -j DROP", VIEW) is Match.NO


FILTER = """
:INPUT ACCEPT [0:0]
:FORWARD {policy} [0:0]
:DOCKER-USER - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -j DOCKER-USER
{more}
-A DOCKER-USER -s 172.16.0.0/12 -j DROP
"""


def chains(more: str = "", policy: str = "ACCEPT") -> Chains:
    return Chains("filter", FILTER.format(more=more, policy=policy))


def test_suspects_are_what_a_packet_would_meet() -> None:
    assert suspects(chains(), "FORWARD", VIEW) == []
    assert suspects(chains("-A DOCKER-USER -p tcp -j DROP"), "FORWARD", VIEW) == ["DOCKER-USER -p tcp -j DROP"]
    maybe = "-A FORWARD -m owner --uid-owner 1 -j REJECT"
    assert suspects(chains(maybe), "FORWARD", VIEW) == [
        "FORWARD -m owner --uid-owner 1 -j REJECT (if its other matches hold)"
    ]
    accepted = "-A FORWARD -d 10.244.0.0/16 -j ACCEPT\n-A FORWARD -j DROP"
    assert suspects(chains(accepted, "DROP"), "FORWARD", VIEW) == []
    assert "policy DROP" in suspects(chains("", "DROP"), "FORWARD", VIEW)[0]
    marked = msgspec.structs.replace(VIEW, marked=True)
    assert suspects(chains("-A FORWARD -j DROP", "DROP"), "FORWARD", marked) == []


def test_a_loop_of_chains_ends() -> None:
    looping = Chains(
        "filter", ":A - [0:0]\n:B - [0:0]\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j A\n-A A -j B\n-A B -j A\n"
    )
    assert suspects(looping, "FORWARD", VIEW) == []


def test_translations_before_ours_are_named() -> None:
    ours = '-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES'
    theirs = "-A PREROUTING -d 10.244.0.11/32 -p tcp -j DNAT --to-destination 1.1.1.1:1"
    head = ":PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n"
    assert redirections(Chains("nat", f"{head}{theirs}\n{ours}\n"), "PREROUTING", VIEW) == [
        theirs.removeprefix("-A ")
    ]
    assert redirections(Chains("nat", f"{head}{ours}\n{theirs}\n"), "PREROUTING", VIEW) == []


def answer(client: str = OUTSIDE, to: str = EXTERNAL, **more: str) -> Answer:
    return ask(known(everywhere(), BOTH), source=client, destination=to, port="80", **more)


def found(given: Answer, **facts: object) -> str:
    own: dict[str, object] = {"sysctls": {}, "saved": {}}
    return "\n".join(findings(given, Facts(**(own | facts))))  # type: ignore[arg-type]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    good = {"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/rp_filter": "1"}
    given = answer(interface="eth0")
    assert (
        found(given, sysctls=good, saved={"filter": FILTER.format(policy="ACCEPT", more="")}, route_back="eth0")
        == ""
    )


def test_sysctls_that_stop_packets_are_named() -> None:
    given = answer(interface="eth0")
    assert "forwarding is off" in found(given, sysctls={"net/ipv4/ip_forward": "0"})
    assert f"no route to {OUTSIDE}" in found(given, route_back=None)
    strict = {"net/ipv4/conf/eth0/rp_filter": "1"}
    assert "rp_filter is strict on eth0" in found(given, sysctls=strict, route_back="eth1")
    assert found(given, sysctls=strict | {"net/ipv4/conf/all/rp_filter": "2"}, route_back="eth1") == ""
    local = ask(known(everywhere(), BOTH), source="127.0.0.1", destination="127.0.0.1", port="30080")
    assert "route_localnet" in found(local, sysctls={"net/ipv4/conf/all/route_localnet": "0"})


def test_rules_of_others_are_named_by_table() -> None:
    more = {"filter": FILTER.format(policy="ACCEPT", more="-A FORWARD -s 10.244.0.0/16 -j DROP")}
    assert "filter FORWARD -s 10.244.0.0/16 -j DROP" in found(answer(POD, VIP), saved=more)
    assert found(answer(OUTSIDE, VIP), saved=more) == ""
    raw = {"raw": ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -s 192.168.56.200/32 -j DROP\n"}
    assert "raw PREROUTING -s 192.168.56.200/32 -j DROP" in found(answer(), saved=raw)
    assert "not looked at: the rules" in found(answer(), unread=("the rules (not root)",))


def test_in_ipvs_mode_a_packet_meets_input_and_then_output() -> None:
    given = msgspec.structs.replace(answer(POD, VIP), mode="ipvs")
    rules = "-A INPUT -d {} -j DROP\n-A OUTPUT -d 10.244.0.11/32 -j DROP\n-A FORWARD -s 10.244.0.0/16 -j DROP\n"
    head = ":INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n"
    told = found(given, saved={"filter": head + rules.format(f"{VIP}/32")})
    assert f"filter INPUT -d {VIP}/32 -j DROP" in told
    assert "filter OUTPUT -d 10.244.0.11/32 -j DROP" in told
    assert "FORWARD" not in told
    closed = ":INPUT DROP [0:0]\n:KUBE-IPVS-FILTER - [0:0]\n-A INPUT -j KUBE-IPVS-FILTER\n"
    assert "filter INPUT policy DROP" in found(given, saved={"filter": closed})
    masqueraded = msgspec.structs.replace(answer(OUTSIDE, EXTERNAL), mode="ipvs")
    assert "policy DROP" not in found(masqueraded, saved={"filter": closed})


def test_what_ipvs_refuses_itself_is_refused() -> None:
    refused = msgspec.structs.replace(
        ask(known(everywhere()), source=NODE_IP, destination=VIP, port="80"), mode="ipvs"
    )
    happened = msgspec.structs.replace(seen(chains=(("nat", "OUTPUT"),)), heard="refused")
    live = compare(refused, happened)
    assert (live.outcome, live.differences) == ("REFUSED", ())


def test_stale_connections_are_named() -> None:
    dns = service("web", VIP, "53/UDP")
    gone = endpoint("10.244.0.9", ready=False)
    built = known(dns, endpoint_slice("web", "53/UDP", ["10.244.0.11", gone]))
    given = ask(built, source=POD, destination=VIP, port="53", protocol="UDP")

    def flow(answerer: str) -> Flow:
        return Flow(
            protocol=Protocol.UDP,
            source=POD,
            source_port=4000,
            destination=VIP,
            port=53,
            answerer=answerer,
            answerer_port=53,
        )

    assert found(given, flows=(flow("10.244.0.11"),)) == ""
    for stale in ("10.244.0.9", "10.244.0.77", VIP):
        assert "stale conntrack entry: UDP 10.244.0.2:4000" in found(given, flows=(flow(stale),))
    assert "7 more stale" in found(given, flows=(flow(VIP),) * 10)


SVC = Hop(table="nat", chain="KUBE-SERVICES", rule=f"-d {VIP}/32 -j KUBE-SVC-X")
MASQ = Hop(table="nat", chain="KUBE-POSTROUTING", rule="-j MASQUERADE --random-fully")
SNAT = Hop(table="nat", chain="POSTROUTING", rule="-j SNAT --to-source 1.2.3.4")
POLICY = Hop(table="filter", chain="KUBE-POD-FW-X", rule="-j DROP", stopped=True)
DROP = Hop(table="filter", chain="FORWARD", rule="-s 10.0.0.0/8 -j DROP", stopped=True)
REJECT = Hop(table="filter", chain="KUBE-SERVICES", rule=f"-d {VIP}/32 -j REJECT", stopped=True)
THROUGH = (("nat", "PREROUTING"), ("filter", "FORWARD"), ("nat", "POSTROUTING"))


def seen(*hops: Hop, to: str = "", seen_as: str = POD, chains: tuple[tuple[str, str], ...] = THROUGH) -> Seen:
    address, _, port = to.rpartition(":")
    translation = Translation(answerer=address, port=int(port), seen_as=seen_as) if to else None
    return Seen(path=Path(hops=hops, chains=chains), translation=translation)


def test_the_kernel_agrees() -> None:
    live = compare(answer(POD, VIP), seen(SVC, to="10.244.0.11:80"))
    assert (live.outcome, live.differences) == ("FORWARD", ())
    assert live.path == "nat KUBE-SERVICES → 10.244.0.11:80"
    live = compare(answer(OUTSIDE, VIP), seen(SVC, MASQ, to="10.244.0.11:80", seen_as="192.168.56.11"))
    assert live.differences == ()
    assert live.path.endswith("KUBE-POSTROUTING → 10.244.0.11:80, masqueraded as 192.168.56.11")
    refused = ask(known(everywhere()), source=POD, destination=VIP, port="80")
    assert compare(refused, seen(REJECT)).differences == ()
    nobody = ask(known(), source=POD, destination="9.9.9.9", port="80")
    assert compare(nobody, seen(to="9.9.9.9:80")).differences == ()
    assert compare(nobody, seen()).differences == ()


def test_a_connection_that_is_reset_at_once_is_known_by_its_rules() -> None:
    hops = (SVC, Hop(table="nat", chain="KUBE-SVC-X", rule="-p tcp -j DNAT --to-destination 10.244.0.11:80"))
    live = compare(answer(POD, VIP), msgspec.structs.replace(seen(*hops), heard="refused"))
    assert (live.outcome, live.differences) == ("FORWARD", ())
    assert live.path.endswith("10.244.0.11:80 → refused by the endpoint")
    lost = compare(answer(POD, VIP), seen(*hops, chains=(("nat", "PREROUTING"),)))
    assert lost.outcome == "DROPPED"
    nobody = ask(known(), source="127.0.0.1", destination="127.0.0.1", port="80")
    live = compare(nobody, msgspec.structs.replace(seen(), heard="refused"))
    assert (live.outcome, live.path) == ("NOT OURS", "not translated → refused")


@pytest.mark.parametrize(
    ("happened", "difference"),
    [
        (seen(SVC, DROP), "somebody else's rule: filter FORWARD -s 10.0.0.0/8 -j DROP"),
        (seen(REJECT), "kubeproxy's rule: filter KUBE-SERVICES"),
        (seen(to=f"{VIP}:80"), "leaves it as it is: no rule of kubeproxy's translated it"),
        (seen(SVC, to="10.244.7.7:80"), "sends it to 10.244.7.7:80, which is none of the model's endpoints"),
        (seen(SVC, MASQ, to="10.244.0.11:80"), "masquerades it, by kubeproxy's rule: nat KUBE-POSTROUTING"),
        (seen(SVC, SNAT, to="10.244.0.11:80"), "masquerades it, by somebody else's rule: nat POSTROUTING -j SNAT"),
        (seen(POLICY), "somebody else's rule: filter KUBE-POD-FW-X -j DROP"),
        (seen(chains=()), "lost before the tables"),
        (seen(SVC, chains=(("nat", "PREROUTING"),)), "lost between PREROUTING and FORWARD"),
        (seen(SVC), "tracks no such connection"),
    ],
)
def test_every_difference_is_named(happened: Seen, difference: str) -> None:
    assert difference in "\n".join(compare(answer(POD, VIP), happened).differences)


def test_first_packets_have_right_checksums() -> None:
    for source, destination in (("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")):
        for protocol in Protocol:
            data = first_packet(protocol, source, 1234, destination, 80)
            v6 = ":" in source
            head, body = (data[:40], data[40:]) if v6 else (data[:20], data[20:])
            assert body[:4] == b"\x04\xd2\x00\x50"
            if not v6:
                assert checksum(head) == 0
            if protocol is not Protocol.SCTP:
                number = head[6] if v6 else head[9]
                addresses = head[8:40] if v6 else head[12:20]
                assert checksum(addresses + bytes([0, number, 0, len(body)]) + body) == 0


def test_messages_of_the_tracers_are_decoded() -> None:
    verdict = attribute(1, (-3).to_bytes(4, "big", signed=True)) + attribute(2, b"KUBE-SVC\0")
    body = (
        b"\x02\0\0\0" + attribute(1, b"nat\0") + attribute(2, b"OUTPUT\0") + attribute(3, (7).to_bytes(8, "big"))
    )
    body += attribute(4, (3).to_bytes(4, "big")) + attribute(5, verdict) + attribute(6, (99).to_bytes(4, "big"))
    (event,) = decode_events(HEADER.pack(len(body) + 16, MSG_TRACE, 0, 0, 0) + body)
    assert (event.packet, event.table, event.chain, event.kind) == (99, "nat", "OUTPUT", "rule")
    assert (event.handle, event.verdict) == (7, "jump")
    body = b"\x02\0\0\0" + attribute(10, b"TRACE: nat:KUBE-SVC:rule:3 \0") + attribute(9, b"E")
    (logged,) = decode_packets(HEADER.pack(len(body) + 16, MSG_PACKET, 0, 0, 0) + body)
    assert (logged.table, logged.chain, logged.kind, logged.number) == ("nat", "KUBE-SVC", "rule", 3)
    for broken in (
        b"",
        b"\0" * 15,
        b"\x05\0\0\0" + bytes(20),
        HEADER.pack(400, MSG_TRACE, 0, 0, 0) + b"\x02\0\0\0",
    ):
        assert list(decode_packets(broken)) == []
        assert [each.table for each in decode_events(broken)] in ([], [""])
