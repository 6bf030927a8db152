"""The backend when the kernel refuses, or somebody flushes: who is blamed, what stands, how it recovers."""

from collections.abc import Callable, Iterable

import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.iptables import names
from kubeproxy.kernel.exec import CommandFailed
from kubeproxy.kernel.iptables import RestoreFailed
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Protocol
from kubeproxy.testing.build import endpoint_slice, service
from tests.backend_node import web, web_slice
from tests.iptables_node import Node

pytestmark = pytest.mark.unit


def test_a_failure_keeps_what_stood_and_asks_for_a_full_sync() -> None:
    node = Node(web(), web_slice())
    node.full()
    before = node.tables.save("nat")
    node.tables.fail_next = "Another app is currently holding the xtables lock"
    with pytest.raises(SyncFailed, match="xtables lock"):
        node.put(web_slice("10.244.0.2@node1"))
    assert node.tables.save("nat") == before
    assert node.backend.needs_full
    node.full()
    assert not node.backend.needs_full
    assert node.tables.save("nat") != before


def test_a_refused_line_puts_its_service_aside_and_the_others_are_served() -> None:
    bad = [service("bad", "10.96.6.6"), endpoint_slice("bad", "80", ["10.244.6.6"])]
    node = Node(web(), *bad, web_slice())
    node.tables.refuse = "10.244.6.6"
    with pytest.raises(SyncFailed, match=r"default/bad: .*10\.244\.6\.6") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/bad"]
    applied = node.full()
    assert [str(each) for each in applied.quarantined] == ["default/bad"]
    assert applied.ports == 1
    assert any("10.96.0.1" in rule for rule in node.rules("KUBE-SERVICES"))
    assert node.partial({("default", "bad")}) is None  # still refused, so not tried again
    applied_later = node.put(endpoint_slice("bad", "80", ["10.244.6.7"]))
    assert applied_later is not None
    assert applied_later.quarantined == {}
    assert applied_later.ports == 2


def test_what_iptables_has_learned_to_take_is_served_by_a_full_sync_that_mends_nothing() -> None:
    node = Node(web(), web_slice(), service("bad", "10.96.6.6"), endpoint_slice("bad", "80", ["10.244.6.6"]))
    node.tables.refuse = "10.244.6.6"
    for _ in range(2):  # as each hour
        with pytest.raises(SyncFailed, match="default/bad"):
            node.full()
        assert len(node.full().quarantined) == 1
    node.tables.refuse = ""
    assert node.full().quarantined == {}
    assert any("10.244.6.6" in rule for rules in node.tables.tables["nat"].values() for rule in rules)


def test_a_refused_line_of_a_large_service_puts_it_aside_until_it_changes() -> None:
    pieces = [
        endpoint_slice("large", "80", [f"10.244.{n}.{i}" for i in range(1, 101)], suffix=str(n)) for n in range(6)
    ]
    node = Node(web(), web_slice(), service("large", "10.96.6.6"), *pieces)
    assert node.full().endpoints == 602
    node.tables.refuse = "10.244.3.50:80"
    node.backend.cleanup()
    with pytest.raises(SyncFailed, match=r"default/large: .*10\.244\.3\.50") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/large"]
    assert (node.full().ports, node.backend.needs_full) == (1, False)
    applied = node.put(endpoint_slice("large", "80", ["10.244.9.1"], suffix="3"))
    assert applied is not None
    assert (applied.ports, applied.endpoints, applied.quarantined) == (2, 503, {})
    assert sum("--to-destination" in rule for rules in node.tables.tables["nat"].values() for rule in rules) == 503


def test_a_change_that_fails_because_of_a_flush_is_not_its_services_fault() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.tables.flush("nat")
    with pytest.raises(SyncFailed, match="a full sync will follow") as caught:
        node.put(web(node_port=30080))
    assert caught.value.culprits == ()
    applied = node.full()
    assert (applied.ports, applied.quarantined) == (1, {})


def test_a_cluster_ip_is_known_as_long_as_a_service_has_it_whatever_becomes_of_its_rules() -> None:
    bad = [service("bad", "10.96.6.6", "80,x=81"), endpoint_slice("bad", "80,x=81", ["10.244.6.6@node1"])]
    node = Node(web(), web_slice(), *bad, service("idle", "10.96.7.7"))
    node.tables.refuse = "10.244.6.6:80"
    with pytest.raises(SyncFailed):
        node.full()
    applied = node.full()
    assert (applied.ports, applied.endpoints) == (3, 3)  # web's two, and bad's other port's
    known = node.sets.sets["KUBE-CLUSTER-IPS"]
    assert known == {"10.96.0.1", "10.96.6.6", "10.96.7.7"}
    node.remove("idle")
    assert known == {"10.96.0.1", "10.96.6.6"}
    applied_later = node.remove("bad")
    assert applied_later is not None
    assert applied_later.quarantined == {}
    assert known == {"10.96.0.1"}
    assert node.sets.sets["KUBE-LOOP-BACK"] == {("10.244.0.2", Protocol.TCP, 8080)}


def test_a_deleted_service_leaves_quarantine() -> None:
    node = Node(service("bad", "10.96.6.6"), endpoint_slice("bad", "80", ["10.244.6.6"]))
    node.tables.refuse = "10.244.6.6"
    with pytest.raises(SyncFailed):
        node.full()
    assert len(node.full().quarantined) == 1
    node.remove("bad")
    assert node.full().quarantined == {}


def test_what_only_the_kernel_refuses_is_found_by_halving() -> None:
    crowd = [service(f"s{i}", f"10.96.1.{i}") for i in range(20)]
    slices = [endpoint_slice(f"s{i}", "80", [f"10.244.5.{i}"]) for i in range(20)]
    node = Node(*crowd, *slices)
    node.tables.refuse_at_commit = "10.244.5.13:"
    with pytest.raises(SyncFailed, match=r"default/s13") as caught:
        node.full()
    assert [str(each) for each in caught.value.culprits] == ["default/s13"]
    assert node.full().ports == 19
    assert node.full().ports == 19  # and is not looked for again, since that leaves others unserved for a moment


def test_tables_that_take_nothing_at_all_are_nobodys_fault() -> None:
    node = Node(web(), web_slice())
    node.tables.refuse_at_commit = "--or-mark"
    with pytest.raises(SyncFailed, match="not even tables without Services") as caught:
        node.full()
    assert caught.value.culprits == ()


def test_a_held_lock_is_nobodys_fault() -> None:
    node = Node(web(), web_slice())

    def locked(text: object) -> None:
        list(text)  # type: ignore[call-overload]
        raise RestoreFailed("locked", None) from CommandFailed(["iptables-restore"], 4, "lock")

    node.tables.restore = locked  # type: ignore[method-assign, assignment]
    with pytest.raises(SyncFailed, match="locked") as caught:
        node.full()
    assert caught.value.culprits == ()


def test_a_failing_set_commits_nothing() -> None:
    node = Node(web(), web_slice())

    def refused(name: str, entries: object) -> None:
        raise OSError("no buffer space")

    node.sets.add = refused  # type: ignore[method-assign, assignment]
    with pytest.raises(SyncFailed, match="no buffer space"):
        node.full()
    assert "KUBE-SERVICES" not in node.tables.tables["nat"]


def test_while_nothing_changes_no_program_is_run_to_look() -> None:
    node = Node(web(), web_slice())
    node.full()
    assert [node.backend.observe() for _ in range(2)] == ["", ""]
    looks = node.tables.commands
    assert [node.backend.observe() for _ in range(20)] == [""] * 20
    assert node.tables.commands == looks
    node.tables.tables["nat"]["DOCKER"] = ["-j RETURN"]
    assert node.backend.observe() == ""
    assert node.tables.commands == looks + 1


@pytest.mark.parametrize("chains_too", [True, False])
@pytest.mark.parametrize("table", ["nat", "filter", "mangle"])
def test_an_external_flush_is_noticed_and_repaired(table: str, chains_too: bool) -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.backend.observe() == ""
    before = {name: dict(chains) for name, chains in node.tables.tables.items()}
    node.tables.flush(table, chains_too=chains_too)
    assert table in node.backend.observe()
    assert node.backend.needs_full
    node.full()
    assert node.tables.tables == before


COUNTED = "rules of ours instead of"


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda nat: nat.update({svc(nat): []}), COUNTED),
        (lambda nat: nat[svc(nat)].pop(), COUNTED),
        (lambda nat: nat[svc(nat)].insert(0, "-s 192.0.2.1/32 -j RETURN"), COUNTED),
        (lambda nat: nat["KUBE-POSTROUTING"].pop(0), COUNTED),
        (lambda nat: nat["PREROUTING"].clear(), "no rule of chain PREROUTING of table nat leads to KUBE-SERVICES"),
    ],
    ids=["flushed", "deleted", "added", "fixed", "jump"],
)
def test_a_rule_of_ours_that_somebody_deletes_or_adds_is_noticed_and_repaired(
    edit: Callable[[dict[str, list[str]]], object], why: str
) -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.backend.observe() == ""
    before = {
        name: {chain: list(rules) for chain, rules in each.items()} for name, each in node.tables.tables.items()
    }
    edit(node.tables.tables["nat"])
    assert node.backend.glance()
    assert why in node.backend.observe()
    node.full()
    assert node.tables.tables == before
    assert node.backend.observe() == ""


def svc(nat: dict[str, list[str]]) -> str:
    """Return a Service's chain."""
    return next(chain for chain in nat if chain.startswith("KUBE-SVC-"))


def test_after_a_full_sync_nothing_is_read_until_somebody_changes_a_table() -> None:
    node = Node(web(), web_slice())
    node.full()
    commands = node.tables.commands
    assert node.backend.glance() == ""
    assert node.backend.observe() == ""
    assert node.tables.commands == commands
    node.tables.flush("filter")
    assert node.backend.glance()
    assert "filter" in node.backend.observe()


def test_a_change_by_others_between_our_write_and_our_look_at_its_size_is_found_by_the_second_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Node(web(), web_slice())
    node.full()
    restore = node.tables.restore

    def restore_and_lose(text: str | Iterable[str]) -> None:
        restore(given := text if isinstance(text, str) else "".join(text))
        if "*nat" in given:
            node.tables.tables["nat"]["KUBE-POSTROUTING"].pop(0)

    changes: tuple[Callable[[], object], ...] = (node.full, lambda: node.put(web_slice("10.244.0.9")))
    for change in changes:
        monkeypatch.setattr(node.tables, "restore", restore_and_lose)
        change()
        monkeypatch.undo()
        assert node.backend.glance() == ""  # what we left is what we see
        assert node.backend.observe() == ""
        assert "rules of ours instead of" in node.backend.observe()
        node.full()
        assert [node.backend.observe() for _ in range(3)] == ["", "", ""]


@pytest.mark.parametrize("is_beside_others", [False, True])
def test_who_makes_a_table_what_it_was_before_our_change_is_found_out(is_beside_others: bool) -> None:
    """As who restores what he saved before."""
    node = Node(web())
    node.full()
    assert [node.backend.observe() for _ in range(2)] == ["", ""]
    saved = {chain: list(rules) for chain, rules in node.tables.tables["nat"].items()}
    if is_beside_others:
        node.tables.tables["mangle"]["PREROUTING"].append("-s 192.0.2.1/32 -j ACCEPT")
    node.put(web_slice("10.244.0.2"))
    node.tables.tables["nat"] = saved
    assert node.backend.glance()
    assert "rules of ours instead of" in node.backend.observe()


def test_rules_of_others_beside_ours_are_no_drift() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.tables.tables["nat"]["PREROUTING"].append("-s 192.0.2.1/32 -j ACCEPT")
    node.tables.tables["nat"]["KUBE-KUBELET-CANARY"] = ["-j RETURN"]
    assert node.backend.glance()
    assert node.backend.observe() == ""
    assert not node.backend.glance()


def test_a_hostile_name_never_reaches_the_text() -> None:
    evil = service('x" -j ACCEPT #', "10.96.0.66")
    evil_slice = endpoint_slice('x" -j ACCEPT #', "80", ["10.244.0.66"])
    node = Node(web(), web_slice(), evil, evil_slice)
    applied = node.full()
    assert len(applied.quarantined) == 1
    assert applied.ports == 1
    assert "ACCEPT #" not in "".join(node.tables.restored)
    assert "10.96.0.66" not in "".join(node.tables.restored)


def test_our_own_changes_are_no_reason_to_look_into_tables_but_now_and_then() -> None:
    node = Node(service("web", "10.96.0.1"))
    node.full()
    assert [node.backend.observe() for _ in range(2)] == ["", ""]
    commands: list[int] = []
    for number in range(1, 5):
        node.put(endpoint_slice("web", "80", [f"10.244.0.{number}"]))
        before = node.tables.commands
        assert node.backend.observe() == ""
        commands.append(node.tables.commands - before)
    assert commands == [0, 1, 0, 1]  # of the three tables, only the one that we have changed


def test_a_flush_just_before_a_change_of_ours_is_found() -> None:
    node = Node(service("web", "10.96.0.1"), endpoint_slice("web", "80", ["10.244.0.1"]))
    node.full()
    node.tables.tables["mangle"][names.CANARY].clear()
    node.put(endpoint_slice("web", "80", ["10.244.0.2"]))
    assert "mangle" in node.backend.observe()


@pytest.mark.parametrize("name", [names.LOCAL_ENDPOINTS[Family.V4], names.CLUSTER_IPS[Family.V4]])
def test_a_set_that_somebody_flushed_is_found_and_filled_again(name: str) -> None:
    node = Node(service("web", "10.96.0.1"), endpoint_slice("web", "80", ["10.244.0.1@node1"]))
    node.full()
    assert node.backend.observe() == ""
    node.sets.sets[name].clear()
    assert node.backend.observe() == f"set {name} has 0 entries instead of 1"
    node.full()
    assert len(node.sets.sets[name]) == 1
    del node.sets.sets[name]
    assert node.backend.observe() == f"set {name} was destroyed by somebody"
