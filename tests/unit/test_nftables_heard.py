"""What was not heard of others' changes is found all the same, and while all is heard nothing is read."""

from collections.abc import Callable

import pytest

from kubeproxy.dataplane.nftables import watch
from kubeproxy.kernel.nf_tables.types import AddElements, Element, FlushChain, FlushSet
from tests.nftables_told import ToldNode
from tests.unit.test_nftables_repairs import STRANGER, cluster, reads, state

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("last", ["observe", "take"])
def test_what_was_dropped_behind_a_loss_is_found_by_the_number_of_the_next_that_is_told(last: str) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.journal.lost()
    assert node.backend.observe() == ""  # the look that a loss asks for
    node.table.tampered([FlushChain("services")])  # not told: what was told before has not been read yet
    if last == "take":
        node.tamper(AddElements("cluster-ips", [STRANGER]))
        assert not node.is_put_right()
    else:
        node.table.kernel.disturbed()
        node.journal.ended(node.table.generation())
        assert "services" in node.backend.observe()
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_what_is_told_after_a_look_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    node = ToldNode(*cluster())
    node.journal.lost()
    assert node.backend.observe() == ""
    monkeypatch.setattr(node.table, "rules", None)  # which a look would ask for
    node.table.kernel.disturbed()
    node.journal.ended(node.table.generation())
    assert node.backend.observe() == ""


def test_a_busy_neighbour_whose_last_changes_are_not_told_yet_is_no_reason_to_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = ToldNode(*cluster())
    monkeypatch.setattr(node.table, "rules", None)  # which a look would ask for
    for _ in range(5):
        node.journal.ended(node.table.generation())
        node.table.kernel.disturbed()
        assert node.backend.observe() == ""


def test_what_is_never_told_is_found_by_the_next_look_but_one() -> None:
    node = ToldNode(*cluster())
    node.table.tampered([FlushChain("services")])
    assert node.backend.observe() == ""
    assert "services" in node.backend.observe()


def _told_with_a_gap(node: ToldNode) -> None:
    node.table.kernel.disturbed()
    node.journal.ended(node.table.generation())


def _deaf_for_a_while(node: ToldNode) -> None:
    node.journal.closed()
    node.journal.opened()


def _never_told(node: ToldNode) -> None:
    assert node.backend.observe() == ""


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(
    "missing", [lambda node: node.journal.lost(), _told_with_a_gap, _deaf_for_a_while, _never_told]
)
def test_the_first_look_after_something_was_missed_lists_the_elements_of_a_large_table(
    missing: Callable[[ToldNode], None], monkeypatch: pytest.MonkeyPatch, *, is_first: bool
) -> None:
    monkeypatch.setattr(watch, "ELEMENTS_A_LOOK", 1)
    node = ToldNode(*cluster())
    read = reads(node, monkeypatch)
    node.table.kernel.disturbed()
    node.journal.lost()
    assert node.backend.observe() == ""
    assert "endpoints" in read  # after which others' turn would come first, were nothing missed
    if not is_first:
        _told_with_a_gap(node)  # of nothing: it is the next
    node.table.tampered([FlushSet("endpoints")])
    missing(node)
    assert "endpoints" in node.backend.observe()


def test_listings_of_a_large_table_are_rare_while_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ELEMENTS_A_LOOK", 10)
    node = ToldNode(*cluster())
    node.journal.closed()
    node.full()
    node.table.kernel.disturbed()
    assert node.backend.observe() == ""  # with a listing
    assert node.table.contents is not None
    every = sum(map(len, node.table.contents.elements.values())) // 10
    assert every > 1
    node.table.tampered([FlushSet("endpoints")])
    assert [bool(node.backend.observe()) for _ in range(every + 1)] == [False] * every + [True]


def test_edits_that_nobody_has_taken_do_not_silence_the_looks_when_nobody_listens_any_more() -> None:
    node = ToldNode(*cluster())
    node.tamper(AddElements("cluster-ips", [STRANGER]))
    node.journal.closed()
    node.full()
    node.table.tampered([FlushSet("endpoints")])
    assert "endpoints" in node.backend.observe()


def test_a_full_sync_takes_what_was_noted_before_it() -> None:
    node = ToldNode(*cluster())
    node.tamper(AddElements("cluster-ips", [STRANGER]))
    node.full()
    assert not node.journal.has_edits
    assert node.backend.observe() == ""


def test_what_was_lost_is_found_by_comparing() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.table.tampered([FlushSet("endpoints")])
    node.journal.lost()
    node.tamper(AddElements("cluster-ips", [STRANGER]))
    assert not node.is_put_right()
    assert state(node) != before
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_a_number_that_is_missing_is_a_loss_too() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.tamper(AddElements("cluster-ips", [STRANGER]))
    node.table.tampered([FlushSet("endpoints")])
    node.tamper(AddElements("cluster-ips", [Element(bytes((192, 0, 2, 2)))]))
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_what_happened_while_nobody_listened_is_not_passed_over() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.table.tampered([FlushSet("endpoints")])
    node.journal.opened()
    node.tamper(AddElements("cluster-ips", [STRANGER]))
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_others_transactions_are_nothing_to_look_at_while_they_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    node = ToldNode(*cluster())
    read = reads(node, monkeypatch)
    for _ in range(10):
        node.table.kernel.disturbed()
        node.journal.ended(node.table.generation())
        assert node.backend.observe() == ""
    monkeypatch.setattr(node.table, "rules", None)  # which a look would ask for
    assert node.backend.observe() == ""
    assert read == []
