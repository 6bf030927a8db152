"""Chains that others have changed are put right by a restore that writes just these, or by a full sync."""

import re
from collections.abc import Callable

import pytest

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.machine import others_changes
from kubeproxy.dataplane.iptables.told import MOST, Told
from kubeproxy.kernel.notice_messages import TableNotice
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.iptables_node import Node

pytestmark = pytest.mark.unit

SERVICES = 80
"""Enough for branches below the chains that all share."""
THEIRS = "-s 192.0.2.1/32 -j RETURN"

Chains = dict[str, list[str]]


def crowded(told: Told | None = None) -> Node:
    """Return a node with many Services, and everything that has chains of its own, in sync."""
    crowd = [service(f"s{i}", f"10.96.1.{i}", "80", node_port=30000 + i) for i in range(SERVICES)]
    slices = [endpoint_slice(f"s{i}", "80", [f"10.244.5.{i}", f"10.244.6.{i}@node1"]) for i in range(SERVICES)]
    sticky = service("sticky", "10.96.2.1", session_affinity=True, load_balancer_ips=("192.0.2.9",))
    guarded = service("guarded", "10.96.2.2", load_balancer_ips=("192.0.2.8",), source_ranges=("10.0.0.0/8",))
    ends = [endpoint_slice(name, "80", ["10.244.7.1", "10.244.7.2"]) for name in ("sticky", "guarded")]
    idle = service("idle", "10.96.2.3", external_ips=("192.0.2.7",))
    node = Node(web(node_port=32000), web_slice(), *crowd, *slices, sticky, guarded, *ends, idle)
    if told is not None:
        node.backend = IptablesBackend(node.tables, node.sets, FakeSysctls(), Family.V4, told=told)
    node.full()
    assert node.backend.observe() == ""
    return node


def copied(node: Node) -> dict[str, Chains]:
    return {
        name: {chain: list(rules) for chain, rules in each.items()} for name, each in node.tables.tables.items()
    }


def found(chains: Chains, beginning: str) -> str:
    return sorted(chain for chain in chains if chain.startswith(beginning))[0]


def without(chains: Chains, beginning: str) -> None:
    """Delete a chain, and all that leads to it."""
    gone = found(chains, beginning)
    del chains[gone]
    for rules in chains.values():
        rules[:] = [rule for rule in rules if gone not in rule.split()]


EDITS: dict[str, tuple[str, Callable[[Chains], object]]] = {
    "a Service's chain flushed": ("nat", lambda nat: nat[found(nat, "KUBE-SVC-")].clear()),
    "one of its rules deleted": ("nat", lambda nat: nat[found(nat, "KUBE-SVC-")].pop()),
    "a rule put into it": ("nat", lambda nat: nat[found(nat, "KUBE-SVC-")].insert(0, THEIRS)),
    "its chain deleted": ("nat", lambda nat: without(nat, "KUBE-SVC-")),
    "an endpoint's chain flushed": ("nat", lambda nat: nat[found(nat, "KUBE-SEP-")].clear()),
    "a chain of source ranges changed": ("nat", lambda nat: nat[found(nat, "KUBE-FW-")].pop(0)),
    "an external chain changed": ("nat", lambda nat: nat[found(nat, "KUBE-EXT-")].append(THEIRS)),
    "a shared chain flushed": ("nat", lambda nat: nat["KUBE-SERVICES"].clear()),
    "a rule of a shared chain deleted": ("nat", lambda nat: nat["KUBE-SERVICES"].pop(0)),
    "node ports flushed": ("nat", lambda nat: nat["KUBE-NODEPORTS"].clear()),
    "a branch flushed": ("nat", lambda nat: nat[found(nat, "KUBE-TREE-S")].clear()),
    "a branch deleted": ("nat", lambda nat: without(nat, "KUBE-TREE-N")),
    "a rule put into a branch": ("nat", lambda nat: nat[found(nat, "KUBE-TREE-S")].insert(0, THEIRS)),
    "a fixed rule deleted": ("nat", lambda nat: nat["KUBE-POSTROUTING"].pop(0)),
    "a fixed chain flushed": ("nat", lambda nat: nat["KUBE-MARK-MASQ"].clear()),
    "jumps deleted": ("nat", lambda nat: nat["PREROUTING"].clear()),
    "a rule of the filter table deleted": ("filter", lambda chains: chains["KUBE-FORWARD"].pop(0)),
    "refusals flushed": ("filter", lambda chains: chains["KUBE-EXTERNAL-SERVICES"].clear()),
    "the firewall flushed": ("filter", lambda chains: chains["KUBE-PROXY-FIREWALL"].clear()),
    "jumps of the filter table deleted": ("filter", lambda chains: chains["FORWARD"].clear()),
}


def tell(told: Told, table: str, before: Chains, after: Chains) -> None:
    """Tell what the kernel tells when rules, then chains, have become others."""
    for chain in sorted(before.keys() | after.keys()):
        old, new = before.get(chain, []), after.get(chain, [])
        for rule in old + new:
            if (rule in old) != (rule in new):
                body = b"\0".join(word.encode() for word in rule.split()) + b"\0"
                told.note(TableNotice(1, "rule", rule in old, table, chain, body))
        if chain not in after:
            told.note(TableNotice(1, "chain", True, table, chain, chain.encode()))


@pytest.mark.parametrize("is_told", [False, True], ids=["legacy", "nft"])
@pytest.mark.parametrize(("table", "edit"), EDITS.values(), ids=EDITS.keys())
def test_chains_that_somebody_changed_are_written_anew_and_no_others(
    table: str, edit: Callable[[Chains], object], is_told: bool
) -> None:
    told = others_changes() if is_told else None
    node = crowded(told)
    before, restored = copied(node), len(node.tables.restored)
    edit(node.tables.tables[table])
    differ = {chain for chain, rules in before[table].items() if node.tables.tables[table].get(chain) != rules} - {
        "PREROUTING",
        "INPUT",
        "FORWARD",
        "OUTPUT",
    }
    if told is not None:
        tell(told, table, before[table], node.tables.tables[table])
    assert node.backend.observe()
    commands = node.tables.commands
    assert node.backend.repair(whole=False)
    assert node.tables.tables == before
    (text,) = node.tables.restored[restored:]
    assert set(re.findall(r"^:(\S+)", text, re.MULTILINE)) == differ
    assert node.tables.commands - commands <= int(is_told)  # what the look has read is not read again
    assert node.backend.needs_full is not is_told, "who counts has not seen all"
    if not is_told:
        node.full()
        assert node.tables.tables == before
    assert [node.backend.observe() for _ in range(3)] == ["", "", ""]
    node.put(endpoint_slice("s1", "80", ["10.244.5.250"]))  # what the backend knows of shared chains is still so
    node.remove("s2")
    fresh = Node(*node.world.services.values(), *node.world.slices.values())
    fresh.full()
    assert node.service_chains() == fresh.service_chains()


def test_edits_of_two_tables_are_repaired_at_once_and_what_came_after_the_look_too() -> None:
    node = crowded()
    before = copied(node)
    node.tables.tables["nat"]["KUBE-POSTROUTING"].pop(0)
    assert "table nat" in node.backend.observe()
    node.tables.tables["nat"]["KUBE-MARK-MASQ"].clear()
    node.tables.tables["filter"]["KUBE-FORWARD"].pop(0)
    assert node.backend.repair(whole=False)
    assert node.tables.tables == before


def test_what_no_count_shows_beside_what_one_does_is_put_right_by_the_full_sync_that_follows() -> None:
    node = crowded()
    before = copied(node)
    nat = node.tables.tables["nat"]
    nat["KUBE-POSTROUTING"].pop(0)
    chain = found(nat, "KUBE-SVC-")
    nat[chain][0] = THEIRS
    assert node.backend.observe()
    assert node.backend.repair(whole=False)
    assert node.tables.tables["nat"]["KUBE-POSTROUTING"] == before["nat"]["KUBE-POSTROUTING"]
    assert node.tables.tables["nat"][chain][0] == THEIRS
    assert node.backend.needs_full
    node.full()
    assert node.tables.tables == before
    assert not node.backend.needs_full


def test_a_jump_that_goes_while_a_rule_comes_is_noticed() -> None:
    node = crowded()
    before = copied(node)
    node.tables.tables["nat"]["OUTPUT"].clear()
    node.tables.tables["nat"]["KUBE-NODEPORTS"].append(THEIRS)
    assert "OUTPUT" in node.backend.observe()
    assert node.backend.repair(whole=False)
    assert node.tables.tables == before


def test_a_jump_with_conditions_of_somebodys_is_not_ours() -> None:
    node = crowded()
    before = copied(node)
    nat = node.tables.tables["nat"]
    nat["PREROUTING"] = [f"-s 192.0.2.1 {rule}" for rule in nat["PREROUTING"]]
    assert "PREROUTING" in node.backend.observe()
    assert node.backend.repair(whole=False)
    assert node.tables.tables["nat"]["PREROUTING"][0] == before["nat"]["PREROUTING"][0]


def test_what_was_done_while_nobody_listened_is_found_by_the_look_after_it() -> None:
    told = others_changes()
    node = crowded(told)
    before = copied(node)
    told.opened()
    assert node.backend.observe() == ""
    node.tables.tables["nat"][found(node.tables.tables["nat"], "KUBE-SVC-")].pop()
    commands = node.tables.commands
    assert node.backend.observe() == "", "who listens is told"
    assert node.tables.commands - commands <= len(node.tables.tables), "and need not read tables"
    told.opened()
    assert "rules of ours instead of" in node.backend.observe()
    assert not node.backend.repair(whole=False)
    node.full()
    assert node.tables.tables == before
    assert node.backend.observe() == ""


@pytest.mark.parametrize("leads_there", [False, True])
def test_a_chain_that_is_called_like_ours_is_removed_unless_a_rule_of_somebodys_leads_there(
    leads_there: bool,
) -> None:
    node = crowded()
    before = copied(node)
    nat = node.tables.tables["nat"]
    nat["KUBE-SVC-SOMEBODYS"] = [THEIRS]
    if leads_there:
        nat["PREROUTING"].append("-j KUBE-SVC-SOMEBODYS")
    assert node.backend.observe()
    assert node.backend.repair(whole=False)
    left = node.tables.tables["nat"].pop("KUBE-SVC-SOMEBODYS", None)
    assert left == ([] if leads_there else None)
    if leads_there:
        node.tables.tables["nat"]["PREROUTING"].pop()
    assert node.tables.tables == before


def flush_many(nat: Chains) -> None:
    for chain in nat:
        if chain.startswith("KUBE-SVC-"):
            nat[chain].clear()


def flush(chains: Chains) -> None:
    for rules in chains.values():
        rules.clear()


@pytest.mark.parametrize("is_told", [False, True], ids=["legacy", "nft"])
@pytest.mark.parametrize(
    "edit", [flush, flush_many, lambda nat: nat[names.CANARY].clear()], ids=["all", "many", "canary"]
)
def test_what_is_no_matter_of_single_chains_is_left_to_a_full_sync(
    edit: Callable[[Chains], object], is_told: bool
) -> None:
    told = others_changes() if is_told else None
    node = crowded(told)
    before = copied(node)
    edit(node.tables.tables["nat"])
    if told is not None:
        tell(told, "nat", before["nat"], node.tables.tables["nat"])
    assert node.backend.observe()
    restored = len(node.tables.restored)
    assert not node.backend.repair(whole=False)
    assert not node.backend.repair(whole=True)
    assert len(node.tables.restored) == restored
    node.full()
    assert node.tables.tables == before
    assert not node.backend.needs_full


def test_a_set_that_somebody_changed_is_left_to_a_full_sync() -> None:
    for told in (None, others_changes()):
        node = crowded(told)
        node.sets.sets[names.CLUSTER_IPS[Family.V4]].clear()
        assert node.backend.observe()
        assert not node.backend.repair(whole=False)
        node.full()
        assert node.backend.observe() == ""


@pytest.mark.parametrize("is_told", [False, True], ids=["legacy", "nft"])
def test_a_repair_that_is_refused_leads_to_a_full_sync(is_told: bool) -> None:
    told = others_changes() if is_told else None
    node = crowded(told)
    before = copied(node)
    node.tables.tables["nat"]["KUBE-POSTROUTING"].pop(0)
    if told is not None:
        tell(told, "nat", before["nat"], node.tables.tables["nat"])
    assert node.backend.observe()
    node.tables.fail_next = "Another app is currently holding the xtables lock"
    assert not node.backend.repair(whole=False)
    assert node.backend.needs_full
    assert not node.backend.repair(whole=False)
    node.full()
    assert node.tables.tables == before


def test_a_service_that_is_left_out_stays_so() -> None:
    node = crowded()
    evil = service('x" -j ACCEPT #', "10.96.0.66")
    node.put(evil, endpoint_slice('x" -j ACCEPT #', "80", ["10.244.0.66"]))
    before = copied(node)
    node.tables.tables["nat"]["KUBE-POSTROUTING"].pop(0)
    assert node.backend.observe()
    assert node.backend.repair(whole=False)
    assert node.tables.tables == before


def test_what_was_told_is_forgotten_when_everything_is_written_anew() -> None:
    told = others_changes()
    node = crowded(told)
    told.note(TableNotice(1, "rule", True, "nat", "KUBE-POSTROUTING", b""))
    assert told.is_pending
    node.full()
    assert not told.is_pending
    restored = len(node.tables.restored)
    assert node.backend.repair(whole=False)  # as nothing is left of what was told
    assert len(node.tables.restored) == restored


@pytest.mark.parametrize(
    "notices",
    [
        [TableNotice(1, "table", True, "nat", "", b"")],
        [TableNotice(1, "rule", True, "mangle", names.CANARY, b"")],
        [TableNotice(1, "chain", True, "nat", f"KUBE-SVC-{number}", b"") for number in range(MOST + 1)],
    ],
    ids=["a table", "a canary", "too many chains"],
)
def test_what_cannot_be_told_by_chains_is_not(notices: list[TableNotice]) -> None:
    told = others_changes()
    for notice in notices:
        told.note(notice)
    assert told.is_full
    told.note(TableNotice(1, "rule", True, "nat", "KUBE-POSTROUTING", b""))
    assert told.take() is None
    assert not told.is_full
    assert told.take() == {}


def test_what_was_missed_cannot_be_told_and_what_is_nothing_to_us_is_not_noted() -> None:
    told = others_changes()
    told.note(TableNotice(1, "rule", False, "nat", "DOCKER", b"KUBE-"))
    assert not told.is_pending
    told.lost()
    assert told.take() is None
