"""The nft program is the judge: it lists what we send, we read what it writes, its listing restores the same."""

import re
import subprocess
from collections.abc import Iterator

import pytest
from hypothesis import given

from kubeproxy.kernel.nf_tables import fields
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.expressions import Other
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.netns.nf_tables_contents import contents
from tests.nf_tables_rules import CRASHES_NFT, PLACE, RULES, SETS, goto, spoken
from tests.property.runs import HISTORIES, PATIENCE, runs
from tests.property.strategies_nf_tables import NETWORKS, address, everything, some_contents

pytestmark = [pytest.mark.netns, PATIENCE]

NAME = "kube-proxy"
IP = {Family.V4: "ip", Family.V6: "ip6"}
BASE = t.Chain("nat-prerouting", t.Base("nat", t.Hook.PREROUTING, -101), "first of all")
OBJECTS = [
    t.AddTable("of kubeproxy"),
    t.AddChain(BASE),
    t.AddChain(t.Chain("services")),
    t.AddChain(t.Chain("rules")),
    *(t.AddSet(spec) for spec in SETS),
]


@pytest.fixture(scope="module")
def alone() -> Iterator[LoneNamespace]:
    with lone_namespace() as namespace:
        yield namespace


@pytest.fixture(autouse=True)
def empty(alone: LoneNamespace) -> None:
    alone.execute("nft", "flush", "ruleset")


def nft(commands: str) -> None:
    """Feed the nft program; in the namespace of the thread."""
    subprocess.run(["nft", "-f", "-"], input=commands, text=True, check=True)


def listed(*what: str) -> str:
    """Return nft's listing, but for how long elements still have."""
    found = subprocess.run(["nft", "list", *what], text=True, check=True, capture_output=True).stdout
    return re.sub(r" expires \w+", "", found)


def written(family: Family) -> list[tuple[str, t.Rule]]:
    """Return rules that nft can read, with nft's text of each."""
    return [
        (spoken(text, family), t.Rule("rules", make(family)))
        for text, make in RULES.items()
        if family is Family.V4 or CRASHES_NFT not in text
    ]


@pytest.mark.parametrize("family", list(Family))
def test_nft_lists_our_rules_as_they_are_meant(alone: LoneNamespace, family: Family) -> None:
    def work() -> str:
        rules = [t.AddRule(t.Rule("rules", make(family))) for make in RULES.values()]
        KernelTable(family).commit([*OBJECTS, *rules])
        return listed("chain", IP[family], NAME, "rules")

    found = [line.strip() for line in alone.run(work).splitlines()[2:-2]]
    assert found == [spoken(text, family) for text in RULES]


@pytest.mark.parametrize("family", list(Family))
def test_what_nft_makes_of_a_rule_is_what_we_make_of_it(alone: LoneNamespace, family: Family) -> None:
    def work() -> list[t.Rule]:
        KernelTable(family).commit(OBJECTS)
        # With the sets in one file: nft 1.0.6 does not add a rule that translates by a map that is there already.
        sets = listed("table", IP[family], NAME)
        rules = "".join(f"add rule {IP[family]} {NAME} rules {text}\n" for text, _ in written(family))
        nft(f"flush ruleset\n{sets}{rules}")
        return KernelTable(family).rules("rules")

    assert alone.run(work) == [rule for _, rule in written(family)]


@pytest.mark.parametrize("family", list(Family))
def test_nft_makes_the_same_sets_of_its_listing(alone: LoneNamespace, family: Family) -> None:
    """With what is in them: comments, ranges, verdicts, timeouts."""
    place = fields.place(address(family, 1), Protocol.TCP, 80)
    first, last = (fields.packed_address(each) for each in NETWORKS[family][0])
    elements = {
        "cluster-ips": [t.Element(fields.packed_address(address(family, 1)))],
        "service-ips": [t.Element(place, fields.number(0x6B000003), "default/web:http")],
        "picks": [t.Element(fields.number(0x6B000003), goto("services"))],
        "endpoints": [
            t.Element(place + fields.number(i), fields.endpoint(address(family, i), 8080)) for i in range(3)
        ],
        "firewall-sources": [t.Element(place + first, None, "default/web", place + last)],
        "affinity": [
            t.Element(fields.packed_address(address(family, 9)) + place, fields.number(7), "", None, 60_000)
        ],
    }

    def work() -> tuple[dict[str, object], dict[str, object], str]:
        table = KernelTable(family)
        rules = [t.AddRule(rule) for _, rule in written(family)]
        table.commit([*OBJECTS, *rules, *(t.AddElements(name, found) for name, found in elements.items())])
        before, text = contents(table), listed("ruleset")
        nft("flush ruleset\n" + text)
        return before, contents(table), text

    before, after, text = alone.run(work)
    assert after == before
    assert before["set endpoints"] == {
        (each.key, each.data, each.comment, each.end, each.timeout) for each in elements["endpoints"]
    }
    assert "typeof " + spoken("{ip} daddr . meta l4proto . th dport . numgen random mod 2", family) in text


@pytest.mark.parametrize("family", list(Family))
def test_whatever_is_in_a_table_nft_makes_the_same_of_its_listing(alone: LoneNamespace, family: Family) -> None:
    @runs(HISTORIES)
    @given(some_contents(family))
    def history(steps: list[t.Change]) -> None:
        table = KernelTable(family)
        try:
            table.commit([*everything(), *steps])
            before, text = contents(table), listed("ruleset")
            nft("flush ruleset\n" + text)
            assert contents(table) == before
            assert listed("ruleset") == text
        finally:
            nft("flush ruleset")
            table.close()

    alone.run(history)


def test_what_others_write_is_told_apart(alone: LoneNamespace) -> None:
    def work() -> tuple[dict[str, t.SetSpec], list[t.Rule]]:
        nft(
            """table ip kube-proxy {
                set some-plain { type ipv4_addr . inet_proto . inet_service; }
                set some-ether { type ether_addr; }
                set some-ranges { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8 } }
                set some-counted { type ipv4_addr; counter; }
                set some-timed { type ipv4_addr; timeout 10s; }
                chain drops { type filter hook input priority filter; policy drop; }
                chain rules { tcp dport { 80, 443 } log prefix "x" limit rate 3/second accept; }
            }"""
        )
        table = KernelTable(Family.V4)
        assert table.chains()["drops"].base == t.Base("filter", t.Hook.INPUT, 0, "drop")
        return table.sets(), table.rules("rules")

    sets, (rule,) = alone.run(work)
    assert sets["some-plain"] == t.SetSpec(name="some-plain", key=PLACE)
    assert sets["some-ether"].key == (t.Field.OTHER,)
    assert [name for name, spec in sets.items() if spec.otherwise] == [
        "some-ether",
        "some-counted",
        "some-timed",
        "__set0",
    ]
    assert [each.name for each in rule.expressions if isinstance(each, Other)] == ["log", "limit"]
