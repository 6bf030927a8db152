"""ipvs mode by nftables: what the program is told, what is read from it, and who removes what."""

import json
from collections.abc import Iterable, Sequence

import pytest

from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.ipvs.needs import probe
from kubeproxy.dataplane.ipvs.nft_rules import NftRules
from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.kernel.exec import CommandMissing, Result
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.ipset_messages import SetType
from kubeproxy.kernel.nft_set_text import (
    WHOLE_MARK,
    declaration,
    element_text,
    read_sets,
    stored,
)
from kubeproxy.kernel.nft_sets import NftProgram
from kubeproxy.kernel.sets import AlsoRead
from kubeproxy.model.addresses import Family, outermost
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

PLACE = ("10.96.0.1", Protocol.SCTP, 80)


class Nobody:
    """A machine without programs."""

    def run(
        self, argv: Sequence[str], *, stdin: str | Iterable[str] = "", check: bool = True, timeout: float = 60.0
    ) -> Result:
        raise CommandMissing(f"{argv[0]}: not installed")


def node(local: LocalTraffic, *, masquerade_all: bool = False) -> NodeState:
    return NodeState(family=Family.V4, name="node1", local=local, masquerade_all=masquerade_all)


def rules(local: LocalTraffic, chain: str, *, masquerade_all: bool = False) -> str:
    found = NftRules(node(local, masquerade_all=masquerade_all)).rules()
    return "\n".join(each.removeprefix(f"{chain} ") for each in found if each.startswith(f"{chain} "))


def test_who_is_a_pod_is_asked_as_the_node_is_configured() -> None:
    source = LocalTraffic(LocalKind.SOURCE, "10.244.0.0/16")
    bridge, pods = LocalTraffic(LocalKind.INTERFACE, "cbr0"), LocalTraffic(LocalKind.PREFIX, "veth")
    for local, match in (
        (source, "ip saddr 10.244.0.0/16"),
        (bridge, 'iifname "cbr0"'),
        (pods, 'iifname "veth*"'),
    ):
        assert f"\n{match} meta mark set ip daddr" in rules(local, "ingress")
    assert "\nip saddr != 10.244.0.0/16 ip daddr" in rules(source, "nat-output")
    assert '\niifname != "cbr0" ip daddr' in rules(bridge, "nat-prerouting")
    # What the node itself sends comes in by no interface: old kernels would not match that.
    assert "iifname" not in rules(bridge, "nat-output")
    assert "@KUBE-CLUSTER-IP" in rules(bridge, "nat-output")
    nobody = LocalTraffic()
    assert "KUBE-CLUSTER-IP" not in rules(nobody, "nat-prerouting")
    assert "KUBE-SHORT-CIRCUIT" not in rules(nobody, "ingress")
    assert "KUBE-SHORT-CIRCUIT" in rules(nobody, "egress")
    assert "\nip daddr . meta l4proto . th dport @KUBE-CLUSTER-IP" in rules(
        source, "nat-prerouting", masquerade_all=True
    )


def test_the_probe_has_all_sets_and_rules_in_a_table_that_is_not_ours() -> None:
    text = probe()
    assert all(line.split()[3] == "kube-proxy-ipvs-probe" for line in text.splitlines())
    assert text.count("\nadd rule ") > 25
    assert "flags interval" in text


def test_elements_are_written_with_numbers_and_read_back() -> None:
    ranged = (*PLACE, "10.0.0.0/8")
    marked = (*PLACE, 0x6B000001, WHOLE_MARK)
    assert element_text(SetType.PORTS, PLACE) == "10.96.0.1 . 132 . 80"
    assert element_text(SetType.ENDPOINTS, PLACE) == "10.96.0.1 . 132 . 80 . 10.96.0.1"
    assert element_text(SetType.RANGES, ranged) == "10.96.0.1 . 132 . 80 . 10.0.0.0/8"
    assert element_text(SetType.MARKS, marked) == "10.96.0.1 . 132 . 80 : 0x6b000001"
    types = ["ipv4_addr", "inet_proto", "inet_service"]
    where = {"family": "ip", "table": "t"}
    key = {"concat": ["10.96.0.1", "sctp", 80]}
    by_number = {"concat": ["10.96.0.1", 132, 80, {"prefix": {"addr": "10.0.0.0", "len": 8}}]}
    listed = {
        "nftables": [
            {"metainfo": {}},
            {"table": {"family": "ip", "name": "t"}},
            {"set": where | {"name": "a", "type": "ipv4_addr", "elem": ["10.96.0.1"]}},
            {
                "set": where
                | {
                    "name": "r",
                    "type": [*types, "ipv4_addr"],
                    "flags": ["interval"],
                    "elem": [by_number, {"concat": ["10.96.0.1", "tcp", 80, "1.2.3.4"]}],
                }
            },
            {"map": where | {"name": "m", "type": types, "map": "mark", "elem": [[key, 0x6B000001]]}},
            {"set": where | {"name": "p", "type": types, "elem": [{"elem": {"val": key, "comment": "x"}}]}},
            {"set": where | {"name": "else", "type": "mark"}},
            {"map": where | {"name": "verdicts", "type": types, "map": "verdict"}},
            {"chain": where | {"name": "c"}},
        ]
    }
    kinds, members = read_sets(Family.V4, json.loads(json.dumps(listed)))
    assert kinds == {
        "a": SetType.ADDRESSES,
        "r": SetType.RANGES,
        "m": SetType.MARKS,
        "p": SetType.PORTS,
        "else": None,
        "verdicts": None,
    }
    assert members["a"] == {"10.96.0.1"}
    assert members["r"] == {ranged, ("10.96.0.1", Protocol.TCP, 80, "1.2.3.4/32")}
    assert members["m"] == {marked}
    assert members["p"] == {PLACE}


def test_a_declaration_makes_the_table_too() -> None:
    table, made = declaration(Family.V6, "t", "KUBE-6-RANGES", SetType.RANGES).splitlines()
    assert table.startswith('add table ip6 t { comment "')
    assert made == (
        "add set ip6 t KUBE-6-RANGES { type ipv6_addr . inet_proto . inet_service . ipv6_addr ; flags interval ; }"
    )


def test_of_ranges_within_one_another_the_outermost_remain() -> None:
    assert outermost(("10.1.0.0/16", "192.0.2.0/24", "10.0.0.0/8", "10.0.0.0/16", "192.0.2.9/32")) == (
        "192.0.2.0/24",
        "10.0.0.0/8",
    )
    assert outermost(("10.0.0.0/9", "10.128.0.0/9")) == ("10.0.0.0/9", "10.128.0.0/9")
    assert outermost(("fd00::/8", "fd00::/64")) == ("fd00::/8",)
    inner, outer = (*PLACE, "10.1.0.0/16"), (*PLACE, "10.0.0.0/8")
    elsewhere = ("10.96.0.2", Protocol.TCP, 80, "10.1.0.0/16")
    assert stored(SetType.RANGES, [inner, outer, elsewhere]) == {outer, elsewhere}
    assert stored(SetType.PORTS, [PLACE]) == {PLACE}


def test_a_machine_without_nft_is_told_what_to_install() -> None:
    with pytest.raises(CommandMissing, match=r"nft: not installed \(Debian: apt-get install nftables\)"):
        NftProgram(Nobody()).commit("")


def test_sets_in_two_places_are_read_as_one_and_written_in_the_first() -> None:
    first, second = FakeSets(Family.V4), FakeSets(Family.V4)
    second.create("KUBE-B", SetType.PORTS)
    second.add("KUBE-B", [PLACE])
    both = AlsoRead(first, second)
    assert both.named("KUBE-") == {"KUBE-B"}
    assert both.members("KUBE-B") == {PLACE}
    assert both.create("KUBE-B", SetType.PORTS)
    other = ("10.96.0.2", Protocol.TCP, 80)
    both.apply([("KUBE-B", [other], [])])
    assert both.members("KUBE-B") == {PLACE, other}
    assert second.members("KUBE-B") == {PLACE}
    both.delete("KUBE-B", [PLACE, other])
    assert both.sizes("KUBE-") == {"KUBE-B": 0}
    assert both.destroy("KUBE-B")
    assert both.named("KUBE-") == {"KUBE-B"}


def test_trace_shows_the_rules_that_there_are() -> None:
    locator = IpvsLocator(IpvsSettings(), by_iptables=False)
    here = NodeState(
        family=Family.V4,
        name="node1",
        local=LocalTraffic(LocalKind.SOURCE, "10.244.0.0/16"),
        service_cidrs=("10.96.0.0/16",),
    )
    for subject, part in {
        Subject.HAIRPIN: "nat-postrouting fib saddr type != local",
        Subject.UNDEFINED_PORT: "filter-input ct state new ip daddr @KUBE-IPVS-IPS counter reject",
        Subject.UNALLOCATED: "filter-forward ct state new ip daddr 10.96.0.0/16 counter drop",
    }.items():
        found = locator.locate(here, None, Spot(subject=subject))
        assert found.startswith(f"nftables ip kube-proxy-ipvs {part}")
