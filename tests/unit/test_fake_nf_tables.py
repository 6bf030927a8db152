"""The model of nf_tables does what its knobs say; tests/netns compares what it does with the real kernel."""

import errno

import pytest

from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables import expressions as ex
from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.fake import FakeNftables, FakeTable
from kubeproxy.model.addresses import Family

pytestmark = pytest.mark.unit

SET = t.SetSpec(name="cluster-ips", key=(t.Field.ADDRESS,))
PICKS = t.SetSpec(name="picks", key=(t.Field.CLASS,), data=t.VERDICTS)
MADE = [t.AddTable(), t.AddSet(SET), t.AddSet(PICKS), t.AddChain(t.Chain("pick-3"))]
ONE, TWO = t.Element(bytes((10, 96, 0, 1))), t.Element(bytes((10, 96, 0, 2)), comment='"quoted"')
PICK = t.Element(b"1234", ex.Decide(ex.VerdictWord.GOTO, "pick-3"))


def made(kernel: FakeNftables | None = None) -> FakeTable:
    table = FakeTable(kernel=kernel)
    table.commit(MADE)
    return table


def refused(table: NfTable, *changes: t.Change, after: int | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        table.commit(changes, after)
    return caught.value


def test_all_or_nothing() -> None:
    table = made()
    before = table.generation()
    error = refused(table, t.AddElements("cluster-ips", [ONE]), t.DeleteElements("cluster-ips", [ONE, TWO]))
    assert (error.code, error.change, error.element, error.done) == (errno.ENOENT, 1, 1, 0)
    assert (
        str(error) == 'nf_tables ip kube-proxy, set cluster-ips, element 10.96.0.2 ("quoted"): is not in the set'
    )
    assert list(table.elements("cluster-ips")) == []
    assert table.generation() == before
    assert table.commits == [MADE]


def test_comments_are_read_as_they_are_written() -> None:
    table = made()
    table.commit([t.AddElements("cluster-ips", [TWO])])
    assert [each.comment for each in table.elements("cluster-ips")] == ["'quoted'"]


def test_two_tables_over_one_kernel() -> None:
    kernel = FakeNftables()
    one, other, six = made(kernel), FakeTable(kernel=kernel), FakeTable(Family.V6, kernel=kernel)
    other.commit([t.AddElements("cluster-ips", [ONE])])
    assert list(one.elements("cluster-ips")) == [ONE]
    assert one.generation() == six.generation() == 3
    assert not six.exists()
    assert refused(one, t.FlushSet("cluster-ips"), after=2).code == errno.ERESTART
    one.commit([t.FlushSet("cluster-ips")], after=3)


def test_splits_are_made_use_of_only_when_it_does_not_fit() -> None:
    table = made()
    steps: list[t.Change] = [t.AddElements("cluster-ips", [ONE]), t.Split(), t.AddElements("cluster-ips", [TWO])]
    assert table.commit([*steps, t.Split()]) == 1
    table.commit([t.FlushSet("cluster-ips")])
    table.most_steps = 1
    assert table.commit(steps) == 2
    assert refused(table, *steps[::2]).code == errno.EMSGSIZE
    error = refused(table, t.FlushSet("cluster-ips"), t.Split(), t.FlushSet("absent"))
    assert (error.code, error.change, error.done) == (errno.ENOENT, 2, 1)
    assert list(table.elements("cluster-ips")) == []


def test_failures_are_raised_once_and_nothing_is_done() -> None:
    table = made()
    table.failures = [TimeoutError("no answer"), Refused(errno.ENOBUFS, "lost")]
    with pytest.raises(TimeoutError):
        table.commit([t.AddElements("cluster-ips", [ONE])])
    assert refused(table, t.AddElements("cluster-ips", [ONE])).code == errno.ENOBUFS
    assert list(table.elements("cluster-ips")) == []
    table.commit([t.AddElements("cluster-ips", [ONE])])


@pytest.mark.parametrize("names_elements", [True, False])
def test_what_the_kernel_is_told_to_refuse(names_elements: bool) -> None:
    table = made()
    table.kernel.names_elements = names_elements
    table.refuses_element = lambda element: errno.EINVAL if element is TWO else 0
    error = refused(table, t.AddElements("cluster-ips", [ONE, TWO]))
    assert (error.code, error.change, error.element) == (errno.EINVAL, 0, 1 if names_elements else None)
    assert refused(table, t.AddElements("cluster-ips", [TWO])).element == 0
    table.refuses = lambda change: errno.ENOMEM if isinstance(change, t.FlushSet) else 0
    assert refused(table, t.FlushSet("cluster-ips")).code == errno.ENOMEM


@pytest.mark.parametrize("releases_at_once", [True, False])
def test_a_chain_and_what_leads_to_it_go_together(releases_at_once: bool) -> None:
    kernel = FakeNftables()
    kernel.releases_at_once = releases_at_once
    table = made(kernel)
    table.commit([t.AddElements("picks", [PICK])])
    assert refused(table, t.DeleteChain("pick-3")).code == errno.EBUSY
    both = [t.DeleteElements("picks", [PICK]), t.DeleteChain("pick-3")]
    if releases_at_once:
        table.commit(both)
    else:
        assert refused(table, *both).code == errno.EBUSY
        table.commit(both[:1])
        table.commit(both[1:])
    assert not table.chains()


def test_a_set_that_changes_while_it_is_read() -> None:
    table = made()
    table.commit([t.AddElements("cluster-ips", [ONE, TWO])])
    reading = table.elements("cluster-ips")
    next(reading)
    table.kernel.disturbed()
    with pytest.raises(DumpInterrupted):
        list(reading)


def test_packets_add_elements_without_a_transaction() -> None:
    table = FakeTable()
    affinity = t.SetSpec(name="affinity", key=(t.Field.SOURCE,), data=(t.Field.CLASS,), dynamic=True)
    table.commit([t.AddTable(), t.AddSet(affinity)])
    before = table.generation()
    learnt = t.Element(b"\x0a\0\0\1", b"1234", timeout=10_000)
    table.learn("affinity", learnt)
    assert list(table.elements("affinity")) == [learnt]
    assert table.generation() == before


def test_a_kernel_without_nf_tables() -> None:
    table = FakeTable()
    table.kernel.present = False
    for ask in (table.exists, table.generation, table.chains, table.sets, lambda: table.commit(MADE)):
        with pytest.raises(Refused, match="modprobe nf_tables"):
            ask()
