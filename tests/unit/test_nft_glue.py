"""ipvs mode by nftables: what the program is told, what is in the sets, and who removes what."""

import errno

import pytest

from kubeproxy.dataplane.ipvs.locate import IpvsLocator
from kubeproxy.dataplane.ipvs.names import set_name
from kubeproxy.dataplane.ipvs.needs import probe
from kubeproxy.dataplane.ipvs.nft_rules import NftRules
from kubeproxy.dataplane.ipvs.set_kinds import KINDS
from kubeproxy.dataplane.locate import Spot, Subject
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.ipset import EntriesRefused
from kubeproxy.kernel.ipset_messages import Member, SetType
from kubeproxy.kernel.nf_tables import fields
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.probing import trouble
from kubeproxy.kernel.nft_set_elements import WHOLE_MARK, element_of, kind_of, members_of, spec_of, stored
from kubeproxy.kernel.nft_sets import NftSets
from kubeproxy.kernel.sets import AlsoRead
from kubeproxy.model.addresses import Family, outermost
from kubeproxy.model.ipvs import IpvsSettings
from kubeproxy.model.node import LocalKind, LocalTraffic, NodeState
from kubeproxy.model.objects import Protocol

pytestmark = pytest.mark.unit

PLACE = ("10.96.0.1", Protocol.SCTP, 80)


def node(local: LocalTraffic, *, masquerade_all: bool = False) -> NodeState:
    return NodeState(family=Family.V4, name="node1", local=local, masquerade_all=masquerade_all)


def rules(local: LocalTraffic, chain: str, *, masquerade_all: bool = False) -> str:
    found = NftRules(node(local, masquerade_all=masquerade_all)).texts()
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


def test_the_probe_asks_for_all_sets_and_rules_and_leaves_nothing() -> None:
    steps = list(probe())
    assert {step.spec.name for step in steps if isinstance(step, t.AddSet)} == {
        set_name(Family.V4, which) for which in KINDS
    }
    assert sum(isinstance(step, t.AddRule) for step in steps) > 25
    table = FakeTable()
    assert trouble(table, steps) == ""
    assert not table.exists()
    table.refuses = lambda change: errno.ENOENT if isinstance(change, t.AddRule) else 0
    assert trouble(table, steps).startswith("nf_tables ip kube-proxy, a rule of chain ingress: ")
    table.refuses = lambda change: errno.EPERM
    assert trouble(table, steps).endswith("it takes root, or CAP_NET_ADMIN")


@pytest.mark.parametrize("family", list(Family))
def test_entries_become_elements_and_are_read_back(family: Family) -> None:
    v4 = family is Family.V4
    host, client = ("10.96.0.1", "10.0.0.9") if v4 else ("fd00:96::1", "fd00::9")
    networks = ("10.0.0.0/8", "1.2.3.4/32") if v4 else ("fd00::/8", "fd00::1/128", "::/0")
    place = (host, Protocol.SCTP, 80)
    entries: dict[SetType, list[Member]] = {
        SetType.ADDRESSES: [host, client],
        SetType.PORT_NUMBERS: [80, 65535],
        SetType.PORTS: [place, (host, Protocol.TCP, 1)],
        SetType.ENDPOINTS: [place],
        SetType.MARKS: [(*place, 0x6B000001, WHOLE_MARK)],
        SetType.RANGES: [(*place, each) for each in networks],
    }
    for kind, members in entries.items():
        assert kind_of(spec_of(kind, "KUBE-X")) is kind
        assert members_of(kind, family, [element_of(kind, each) for each in members]) == set(members)


def test_what_ours_never_are_is_no_entry() -> None:
    place = fields.place("10.96.0.1", Protocol.TCP, 80)
    first, last = fields.packed_address("10.0.0.1"), fields.packed_address("10.0.0.6")
    icmp = t.Element(place[:4] + bytes((1, 0, 0, 0)) + place[8:])
    assert members_of(SetType.PORTS, Family.V4, [icmp]) == set()
    assert members_of(SetType.ENDPOINTS, Family.V4, [t.Element(place + first)]) == set()
    assert members_of(SetType.RANGES, Family.V4, [t.Element(place + first, None, "", place + last)]) == set()
    others = (
        t.SetSpec(name="a", key=(t.Field.MARK,)),
        t.SetSpec(name="b", key=(t.Field.ADDRESS,), data=t.VERDICTS),
        t.SetSpec(name="c", key=(t.Field.ADDRESS,), interval=True),
        t.SetSpec(name="d", key=(t.Field.ADDRESS,), dynamic=True),
        t.SetSpec(name="e", key=(t.Field.OTHER,), otherwise=True),
    )
    assert [kind_of(spec) for spec in others] == [None] * len(others)
    # The kernel does not know whose address a field is, and without nft's notes nobody does.
    anonymous = t.SetSpec(name="f", key=(t.Field.ADDRESS, t.Field.PROTOCOL, t.Field.PORT, t.Field.ADDRESS))
    assert kind_of(anonymous) is SetType.ENDPOINTS


@pytest.mark.parametrize("names_elements", [True, False])
def test_what_the_kernel_refuses_keeps_nothing_else_out(names_elements: bool) -> None:
    table = FakeTable()
    table.kernel.names_elements = names_elements
    sets = NftSets(table)
    sets.create("KUBE-PORTS", SetType.PORTS)
    entries = [("10.96.0.1", Protocol.TCP, port) for port in range(1, 40)]
    bad = fields.place(*entries[7])
    table.refuses_element = lambda element: errno.EINVAL if element.key == bad else 0
    with pytest.raises(EntriesRefused, match="Invalid argument") as caught:
        sets.add("KUBE-PORTS", entries)
    assert set(caught.value.refused) == {("KUBE-PORTS", entries[7])}
    assert sets.members("KUBE-PORTS") == set(entries) - {entries[7]}
    table.refuses_element = lambda element: errno.EINVAL
    with pytest.raises(Refused):
        sets.add("KUBE-PORTS", [("10.96.0.2", Protocol.TCP, port) for port in range(1, 40)])
    assert NftSets(table).members("KUBE-PORTS") == set(entries) - {entries[7]}


def test_a_lost_answer_is_no_fault_of_the_entries() -> None:
    table = FakeTable()
    sets = NftSets(table)
    sets.create("KUBE-PORTS", SetType.PORTS)
    table.failures = [Refused(errno.ENOBUFS, "lost")]
    sets.add("KUBE-PORTS", [PLACE])  # it is tried again
    assert NftSets(table).members("KUBE-PORTS") == {PLACE}
    table.failures = [Refused(errno.ENOBUFS, "lost"), Refused(errno.ENOBUFS, "lost again")]
    with pytest.raises(Refused, match="lost again"):
        sets.delete("KUBE-PORTS", [PLACE])


def test_a_kernel_without_nftables_has_no_such_sets() -> None:
    table = FakeTable()
    table.kernel.present = False
    assert NftSets(table).named("KUBE-") == set()
    assert NftSets(table).destroy("KUBE-PORTS")


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
