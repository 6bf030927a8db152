"""The tree of shared chains: whatever came and went, it is that of what is there, and leads to each rule."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.iptables import dispatch, names, tree
from kubeproxy.dataplane.iptables.dispatch import Dispatch, Edit, Rule
from kubeproxy.dataplane.iptables.places import address_digits, port_digits
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from kubeproxy.trace.rules import Match, View, matches
from tests.property.runs import PATIENCE, runs

pytestmark = [pytest.mark.unit, PATIENCE]

Place = tuple[str, Protocol, int]
Chains = dict[str, list[str]]

ROOT = names.SERVICES
FIXED = "-m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
BITS = {Family.V4: 32, Family.V6: 128}
NETWORKS = {
    Family.V4: ("10.96.{}.{}", "10.{}.0.{}", "192.0.2.{1}", "{}.1.2.{}", "10.96.0.1"),
    Family.V6: (
        "fd00:10:96::{:x}:{:x}",
        "2001:db8:{:x}::{:x}",
        "fd00:10:96::{1:x}",
        "{:x}::{:x}",
        "fd00:10:96::1",
    ),
}


def places(family: Family) -> st.SearchStrategy[list[Place]]:
    """Crowds in few networks and on few addresses, and some far away."""
    byte, few = st.integers(0, 255), st.integers(0, 3)
    address = st.builds(str.format, st.sampled_from(NETWORKS[family]), byte | few, byte | few)
    port = st.sampled_from((53, 80)) | st.integers(30000, 32767) | st.integers(1, 65535)
    crowd = st.builds(
        lambda network, count: [(network.format(i % 7, i), Protocol.TCP, 80) for i in range(count)],
        st.sampled_from(NETWORKS[family][:2]),
        st.integers(0, 200),
    )
    ports = st.builds(
        lambda count: [(NETWORKS[family][4], Protocol.UDP, 1000 + 3 * i) for i in range(count)], st.integers(0, 80)
    )
    single = st.lists(st.tuples(address, st.sampled_from(list(Protocol)), port), max_size=40)
    return st.builds(lambda *parts: list(dict.fromkeys(p for part in parts for p in part)), crowd, ports, single)


def rule_for(place: Place, family: Family) -> Rule:
    address, protocol, port = place
    name = names.LOWER[protocol]
    text = f"-d {address}/{BITS[family]} -p {name} -m {name} --dport {port} -j {port_name(place)}"
    return Rule(dispatch.SERVICES, f"{address_digits(address)}{port_digits(protocol, port)} {text}")


def port_name(place: Place) -> str:
    return f"KUBE-SVC-{place[0]}-{place[1]}-{place[2]}"


def applied(chains: Chains, edit: Edit) -> set[str]:
    """Do to a table what the kernel would; return the chains that were named."""
    for chain in edit.declared:
        assert chain not in chains
        chains[chain] = []
    for line in edit.lines:
        verb, chain, rule = line.rstrip("\n").split(" ", 2)
        if verb == "-D":
            chains[chain].remove(rule)
        else:
            chains[chain].insert(len(chains[chain]) if verb == "-A" else 0, rule)
    for chain in edit.gone:
        del chains[chain]
    assert not any(rule.split()[-1] in edit.gone for rules in chains.values() for rule in rules)
    return {*edit.declared, *edit.gone, *(line.split(" ")[1] for line in edit.lines)}


def met(chains: Chains, place: Place) -> tuple[list[str], int]:
    """Return the targets that a packet reaches, in order, and how many rules it was compared with."""
    view = View(source="", destination=place[0], port=place[2], protocol=names.LOWER[place[1]])
    found: list[str] = []
    compared = 0

    def walk(chain: str) -> None:
        nonlocal compared
        for rule in chains[chain]:
            compared += 1
            if matches(rule, view) is Match.NO:
                continue
            target = rule.split()[-1]
            if target in chains:
                walk(target)
                if " -g " in f" {rule}":
                    return
            else:
                found.append(target)

    walk(ROOT)
    return found, compared


def state(chains: Chains) -> dict[str, list[str]]:
    return {chain: sorted(rules) for chain, rules in chains.items()}


def fresh(family: Family, wanted: Iterable[Place]) -> Chains:
    chains: Chains = {ROOT: [FIXED]}
    _, edits = Dispatch(family).moved([((), [rule_for(place, family)]) for place in wanted])
    applied(chains, edits["nat"])
    return chains


@pytest.mark.parametrize("family", list(Family))
def test_the_tree_is_that_of_the_rules_whatever_came_before(family: Family) -> None:
    @runs()
    @given(st.lists(places(family), min_size=2, max_size=4))
    def check(steps: list[list[Place]]) -> None:
        standing, chains, before = Dispatch(family), {ROOT: [FIXED]}, set[Place]()
        for step in steps:
            after = before ^ set(step)  # some come, and what comes again goes
            moves = [((rule_for(p, family),), ()) for p in before - after]
            moves += [((), (rule_for(p, family),)) for p in after - before]
            standing, edits = standing.moved(moves)
            rules = sum(map(len, chains.values()))
            applied(chains, edits["nat"])
            assert rules + edits["nat"].added - edits["nat"].removed == sum(map(len, chains.values()))
            before = after
        assert state(chains) == state(fresh(family, before))
        assert chains[ROOT][-1] == FIXED
        assert all(len(chain) <= names.MAX_CHAIN_NAME for chain in chains)
        for place in sorted(before)[:20]:
            found, compared = met(chains, place)
            assert found[0] == port_name(place)
            assert compared <= tree.SPLIT + 16 * tree.DEEPEST
        strangers = [
            ("10.96.77.78", Protocol.TCP, 80),
            ("fd00:10:96::77", Protocol.SCTP, 1),
            ("9.9.9.9", Protocol.UDP, 9),
        ]
        for place in set(strangers) - before:
            if (":" in place[0]) is (family is Family.V6):
                assert met(chains, place)[0] == ["KUBE-NODEPORTS"]

    check()


@pytest.mark.parametrize("family", list(Family))
def test_one_rule_more_names_only_the_chains_on_its_way(family: Family) -> None:
    @runs()
    @given(places(family), st.data())
    def check(crowd: list[Place], data: st.DataObject) -> None:
        if not crowd:
            return
        one = data.draw(st.sampled_from(crowd))
        standing, _ = Dispatch(family).moved([((), (rule_for(p, family),)) for p in crowd if p != one])
        chains = fresh(family, [p for p in crowd if p != one])
        before = {chain: list(rules) for chain, rules in chains.items()}
        after, edits = standing.moved([((), (rule_for(one, family),))])
        named = applied(chains, edits["nat"])
        assert named == {c for c in before.keys() | chains.keys() if before.get(c) != chains.get(c)}
        assert len(edits["nat"].lines) <= 2 * tree.SPLIT * tree.DEEPEST
        _, back = after.moved([((rule_for(one, family),), ())])
        applied(chains, back["nat"])
        assert state(chains) == state(before)

    check()
