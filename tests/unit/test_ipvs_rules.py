"""The fixed rules of ipvs mode; what packets make of them is tests/scenarios/."""

import itertools

import msgspec
import pytest

from kubeproxy.dataplane.iptables.jumps import missing_jumps
from kubeproxy.dataplane.ipvs.names import MAX_SET_NAME, Set, set_name
from kubeproxy.dataplane.ipvs.rules import CHAINS, JUMPS, Rules, saved_in
from kubeproxy.model.addresses import Family
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState

pytestmark = pytest.mark.unit

PODS = LocalTraffic(LocalKind.SOURCE, "10.244.0.0/16")
NODE = NodeState(
    family=Family.V4, name="node1", node_ip="192.168.56.11", local=PODS, service_cidrs=("10.96.0.0/16",)
)


def rules_of(table: str, chain: str, node: NodeState = NODE) -> list[str]:
    head = f"-A {chain} "
    return [line.removeprefix(head) for line in Rules(node).text(table).splitlines() if line.startswith(head)]


def test_before_translation_ranges_come_first_then_the_short_circuit_then_nobody_here() -> None:
    match = "-m set --match-set KUBE-"
    assert rules_of("mangle", "KUBE-IPVS-INGRESS") == [
        "-m set ! --match-set KUBE-VIRTUAL-SERVERS dst,dst -j RETURN",
        f"-m conntrack --ctstate NEW {match}LOAD-BALANCER-FW dst,dst "
        "-m set ! --match-set KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j DROP",
        f"-s 10.244.0.0/16 {match}SHORT-CIRCUIT dst,dst -g KUBE-IPVS-SHORT-CIRCUIT",
        f"-m conntrack --ctstate NEW {match}NO-LOCAL dst,dst -j DROP",
    ]
    assert rules_of("mangle", "KUBE-IPVS-SHORT-CIRCUIT") == [
        "-j SET --map-set KUBE-SHORT-CIRCUIT dst,dst --map-mark"
    ]


def test_the_node_itself_is_short_circuited_whoever_pods_are() -> None:
    nobody = msgspec.structs.replace(NODE, local=LocalTraffic())
    assert not any("SHORT-CIRCUIT" in rule for rule in rules_of("mangle", "KUBE-IPVS-INGRESS", nobody))
    assert any("-g KUBE-IPVS-SHORT-CIRCUIT" in rule for rule in rules_of("mangle", "KUBE-IPVS-EGRESS", nobody))


@pytest.mark.parametrize(
    ("local", "masquerade_all", "expected"),
    [
        (PODS, False, ["! -s 10.244.0.0/16 "]),
        (PODS, True, [""]),
        (LocalTraffic(), False, []),
        (LocalTraffic(), True, [""]),
        (LocalTraffic(LocalKind.PREFIX, "veth"), False, ["! -i veth+ "]),
    ],
)
def test_who_is_masqueraded_at_a_cluster_ip(
    local: LocalTraffic, masquerade_all: bool, expected: list[str]
) -> None:
    node = msgspec.structs.replace(NODE, local=local, masquerade_all=masquerade_all)
    tail = "-m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ"
    found = [rule.removesuffix(tail) for rule in rules_of("nat", "KUBE-SERVICES", node) if rule.endswith(tail)]
    assert found == expected


def test_who_speaks_from_a_virtual_address_is_masqueraded_whoever_pods_are() -> None:
    """Or nobody would answer a node whose own address is not known: its source is the destination then."""
    nobody = msgspec.structs.replace(NODE, local=LocalTraffic())
    for node in (NODE, nobody):
        assert "-m set --match-set KUBE-IPVS-IPS src -j KUBE-MARK-MASQ" in rules_of("nat", "KUBE-SERVICES", node)


def test_what_is_left_at_a_virtual_address_is_refused_but_not_what_is_for_a_server() -> None:
    found = rules_of("filter", "KUBE-IPVS-FILTER")
    passing = found.index("-m set --match-set KUBE-VIRTUAL-SERVERS dst,dst -j RETURN")
    assert found[-1].startswith("-m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst ")
    assert found[-1].endswith("-j REJECT")
    assert passing < len(found) - 1


def test_a_service_cidr_is_dropped_where_it_is_forwarded() -> None:
    assert [rule.split(" -m")[0] for rule in rules_of("filter", "KUBE-SERVICES")] == ["-d 10.96.0.0/16"]


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("table", CHAINS)
def test_rules_name_chains_and_sets_that_there_are(family: Family, table: str) -> None:
    node = msgspec.structs.replace(NODE, family=family, service_cidrs=())
    text = Rules(node).text(table)
    sets = {set_name(family, each) for each in Set}
    for line in text.splitlines():
        words = line.split()
        named = [after for word, after in itertools.pairwise(words) if word.endswith("-set")]
        assert set(named) <= sets, line
        if line.startswith("-A"):
            assert words[1] in CHAINS[table], line
            target = next(after for word, after in itertools.pairwise(words) if word in ("-j", "-g"))
            assert target in CHAINS[table] or not target.startswith("KUBE-"), line
    assert all(len(each) <= MAX_SET_NAME for each in sets)


def test_jumps_that_stand_are_not_put_in_again() -> None:
    nothing = saved_in("mangle", "")
    text = missing_jumps(JUMPS, "mangle", nothing)
    assert [line.split()[1] for line in text.splitlines()] == ["PREROUTING", "OUTPUT"]
    standing = text.replace("-I ", "-A ")
    assert missing_jumps(JUMPS, "mangle", saved_in("mangle", standing)) == ""
