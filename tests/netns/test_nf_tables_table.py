"""A table of the real kernel in trouble: too large, refused in the middle, changed meanwhile."""

import errno

import pytest

from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables import fields, socket
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.refusals import Refusal
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.model.addresses import Family
from tests.netns.lone_namespace import LoneNamespace

pytestmark = pytest.mark.netns

SET = t.SetSpec(name="cluster-ips", key=(t.Field.ADDRESS,))
SMALL = 20_000
"""Half of what the kernel then lets through; an element takes 16 bytes."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give sockets what an ordinary user's have."""
    monkeypatch.setattr(socket, "SEND_BYTES", SMALL)


def addresses(start: int, count: int) -> t.AddElements:
    found = [t.Element(bytes((10, 0, i >> 8, i & 255))) for i in range(start, start + count)]
    return t.AddElements(SET.name, found)


def filled(table: KernelTable, count: int) -> None:
    table.commit([t.AddTable(), t.AddSet(SET), addresses(0, count)])


def held(table: KernelTable) -> int:
    return sum(1 for _ in table.elements(SET.name))


def refused(table: KernelTable, changes: list[t.Change], after: int | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        table.commit(changes, after)
    return caught.value


def test_what_does_not_fit_is_not_sent_at_all(alone: LoneNamespace, small: None) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        changes = [t.AddTable(), t.AddSet(SET), t.Split(), addresses(0, 1000), addresses(1000, 2000)]
        error = refused(table, changes)
        assert (error.code, error.change, error.done) == (errno.EMSGSIZE, None, 0)
        assert "net.core.wmem_max" in str(error)
        assert not table.exists()

    alone.run(work)


def test_what_does_not_fit_is_split_where_it_may_be(alone: LoneNamespace, small: None) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        parts: list[t.Change] = [t.AddTable(), t.AddSet(SET)]
        for start in range(0, 10_000, 500):
            parts += [t.Split(), addresses(start, 500)]
        before = table.generation()
        assert table.commit(parts) == 5
        assert table.generation() == before + 5
        assert held(table) == 10_000
        assert table.commit([t.Split(), t.FlushSet(SET.name), t.Split(), addresses(0, 5)]) == 1
        assert held(table) == 5

    alone.run(work)


def test_a_refusal_after_a_split_says_what_is_done(alone: LoneNamespace, small: None) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        parts: list[t.Change] = [t.AddTable(), t.AddSet(SET), addresses(0, 2000), t.Split(), addresses(2000, 2000)]
        error = refused(table, [*parts, t.DeleteChain("absent")])
        assert (error.code, error.change, error.done) == (errno.ENOENT, 5, 4)
        assert held(table) == 2000

    alone.run(work)


def test_what_follows_in_further_transactions_is_not_done_when_somebody_came_between(
    alone: LoneNamespace, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        table, other = KernelTable(Family.V4), KernelTable(Family.V4, "other")
        table.commit([t.AddTable(), t.AddSet(SET)])
        parts: list[t.Change] = [addresses(0, 2000), t.Split(), addresses(2000, 2000)]
        assert table.commit(parts, after=table.generation()) == 2
        table.commit([t.FlushSet(SET.name)])
        transact = socket.BatchSocket.transact

        def raced(self: socket.BatchSocket, datagram: bytes, first: int, last: int) -> list[Refusal]:
            found = transact(self, datagram, first, last)
            monkeypatch.undo()
            other.commit([t.AddTable()])
            return found

        before = table.generation()
        monkeypatch.setattr(socket.BatchSocket, "transact", raced)
        error = refused(table, parts, after=before)
        assert (error.code, error.change, error.done) == (errno.ERESTART, None, 2)
        assert held(table) == 2000

    alone.run(work)


def test_a_refusal_names_the_element(alone: LoneNamespace) -> None:
    """Also in a step of several messages, of which each tells only its own elements."""

    def work() -> None:
        table = KernelTable(Family.V4)
        filled(table, 10_000)
        wanted = [t.Element(bytes((10, 0, i >> 8, i & 255))) for i in range(10_000)]
        wanted[7_001] = t.Element(bytes((10, 1, 0, 0)))
        error = refused(table, [t.AddChain(t.Chain("services")), t.DeleteElements(SET.name, wanted)])
        assert (error.code, error.change, error.element) == (errno.ENOENT, 1, 7_001)
        assert str(error) == "nf_tables ip kube-proxy, set cluster-ips, element 10.1.0.0: is not in the set"
        assert held(table) == 10_000
        assert not table.chains()

    alone.run(work)


def test_a_full_set(alone: LoneNamespace) -> None:
    def work() -> None:
        table = KernelTable(Family.V6)
        spec = t.SetSpec(name="few", key=(t.Field.ADDRESS,), size=2)
        elements = [t.Element(fields.packed_address(f"fd00::{i}")) for i in range(3)]
        table.commit([t.AddTable(), t.AddSet(spec), t.AddElements("few", elements[:2])])
        error = refused(table, [t.AddElements("few", elements[2:])])
        assert (error.code, error.element) == (errno.ENFILE, 0)
        assert str(error) == "nf_tables ip6 kube-proxy, set few, element fd00::2: the set is full"
        table.commit([t.DeleteElements("few", elements[:1]), t.AddElements("few", elements[2:])])

    alone.run(work)


def test_more_refusals_than_the_answers_have_room_for(alone: LoneNamespace) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        table.commit([t.AddTable()])
        error = refused(table, [t.DeleteChain(f"absent-{i}") for i in range(20_000)])
        assert (error.code, error.change) == (errno.ENOENT, 0)
        table.commit([t.AddSet(SET)])

    alone.run(work)


def test_only_after_what_was_read(alone: LoneNamespace) -> None:
    def work() -> None:
        table, other = KernelTable(Family.V4), KernelTable(Family.V6)
        table.commit([t.AddTable()])
        seen = table.generation()
        other.commit([t.AddTable()])
        error = refused(table, [t.AddSet(SET)], seen)
        assert (error.code, error.change) == (errno.ERESTART, None)
        assert not table.sets()
        table.commit([t.AddSet(SET)], table.generation())
        assert table.sets() == {SET.name: SET}

    alone.run(work)


def test_a_set_that_changes_while_it_is_read(alone: LoneNamespace) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        filled(table, 20_000)
        reading = table.elements(SET.name)
        next(reading)
        table.commit([t.AddChain(t.Chain("services"))])
        with pytest.raises(DumpInterrupted):
            list(reading)
        assert held(table) == 20_000

    alone.run(work)


def test_nothing_to_do_is_no_transaction(alone: LoneNamespace) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        before = table.generation()
        assert table.commit([]) == 0
        assert table.commit(iter([t.Split()])) == 0
        assert table.generation() == before
        assert not table.exists()
        assert (table.chains(), table.sets(), table.rules("services")) == ({}, {}, [])
        with pytest.raises(Refused) as caught:
            list(table.elements(SET.name))
        assert caught.value.code == errno.ENOENT

    alone.run(work)


def test_tables_of_other_names_and_families_are_apart(alone: LoneNamespace) -> None:
    def work() -> None:
        ours, other, six = KernelTable(Family.V4), KernelTable(Family.V4, "other"), KernelTable(Family.V6)
        for table in (ours, other, six):
            table.commit([t.AddTable()])
        other.commit([t.AddSet(SET), t.AddChain(t.Chain("services")), t.AddRule(t.Rule("services", ()))])
        assert (ours.sets(), ours.chains(), six.sets(), six.chains()) == ({}, {}, {}, {})
        ours.commit([t.DeleteTable()])
        assert not ours.exists()
        assert other.exists()
        assert other.rules("services") == [t.Rule("services", ())]

    alone.run(work)


def test_rules_have_handles(alone: LoneNamespace) -> None:
    def work() -> None:
        table = KernelTable(Family.V4)
        rules = [t.Rule("services", (), comment) for comment in ("first", "second")]
        table.commit([t.AddTable(), t.AddChain(t.Chain("services")), *(t.AddRule(each) for each in rules)])
        numbered = table.numbered_rules("services")
        assert [rule for _, rule in numbered] == rules
        assert len({handle for handle, _ in numbered}) == 2

    alone.run(work)
