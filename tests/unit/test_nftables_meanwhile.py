"""The nftables backend while others are at it: what it cannot read, and what happens during its own work."""

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator

import msgspec
import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.reading import PATIENCE
from kubeproxy.dataplane.nftables.watch import Commits
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.fields import number
from kubeproxy.kernel.nf_tables.types import (
    AddElements,
    AddTable,
    Change,
    DeleteElements,
    DeleteTable,
    Element,
    FlushChain,
)
from kubeproxy.model.addresses import Family
from tests.nftables_node import Node, web, web_slice

pytestmark = pytest.mark.unit

HTTP = "10.96.0.1 . tcp . 80"


def _puts_in_what_we_cannot_read(node: Node) -> None:
    """Let somebody add a verdict that we have no word for; it goes with the table."""
    elements = node.table.elements

    def undecodable(name: str) -> Iterator[Element]:
        if name == "picks" and not any(isinstance(step, DeleteTable) for step in node.table.commits[-1]):
            raise Refused(errno.EBADMSG, "an element without -1")
        return elements(name)

    node.table.elements = undecodable  # type: ignore[method-assign]
    node.tamper(AddElements("cluster-ips", [Element(bytes((192, 0, 2, 1)))]))


def test_a_table_with_what_cannot_be_read_is_replaced() -> None:
    node = Node(web(), web_slice())
    node.full()
    _puts_in_what_we_cannot_read(node)
    assert "cannot be read" in node.backend.observe()
    node.full()
    assert isinstance(node.table.commits[-1][0], DeleteTable)
    assert node.held("service-classes") == {HTTP: "cluster-2"}
    assert set(node.held("cluster-ips")) == {"10.96.0.1"}
    assert node.backend.observe() == ""


def test_an_agent_that_starts_replaces_a_table_with_what_cannot_be_read() -> None:
    node = Node(web(), web_slice())
    node.full()
    _puts_in_what_we_cannot_read(node)
    node.restart()
    assert node.full().ports == 1
    assert node.held("service-classes") == {HTTP: "cluster-2"}


@pytest.mark.parametrize("chain", ["services", "cluster-2", "firewall-sources", "filter-forward"])
def test_what_happens_between_a_full_sync_and_the_first_look_is_noticed(chain: str) -> None:
    node = Node(web(), web_slice())
    node.full()
    node.tamper(FlushChain(chain))
    assert node.backend.observe() == f"rules of chain {chain} were changed by somebody"
    node.full()
    assert node.table.rules(chain)
    assert node.backend.observe() == ""


def test_rules_that_are_changed_before_anybody_looks_at_a_new_chain_are_noticed() -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.backend.observe() == ""
    node.put(web("api", "10.96.0.2"), web_slice("10.244.1.1@node1", name="api"))
    node.tamper(FlushChain("cluster-1"))
    assert "cluster-1" in node.backend.observe()


class _OtherFamily:
    """A thread that brings in IPv6, in the same kernel and process."""

    def __init__(self, node: Node) -> None:
        self._commits = Commits()
        self._table = FakeTable(Family.V6, kernel=node.table.kernel)
        node.backend = NftablesBackend(node.table, node.sysctls, Family.V4, self._commits)

    def commit(self, meanwhile: Callable[[], object]) -> None:
        """Commit, ``meanwhile`` when the kernel has done it and the thread has not heard of that yet."""

        def commit() -> int:
            done = self._table.commit([AddTable()])
            meanwhile()
            return done

        self._commits.count(Family.V6, commit)


def test_a_commit_of_the_other_family_that_is_in_flight_at_a_full_sync_hides_nobody() -> None:
    node = Node(web(), web_slice())
    other = _OtherFamily(node)
    other.commit(node.full)
    node.tamper(FlushChain("services"))
    assert "services" in node.backend.observe()


def test_a_commit_of_the_other_family_that_is_in_flight_at_a_look_hides_nobody() -> None:
    node = Node(web(), web_slice())
    other = _OtherFamily(node)
    node.full()
    other.commit(lambda: node.backend.observe())
    node.tamper(FlushChain("services"))
    assert "services" in node.backend.observe()


def test_a_commit_of_the_other_family_between_the_two_numbers_hides_nobody() -> None:
    node = Node(web(), web_slice())
    other = _OtherFamily(node)
    generation = node.table.generation

    def later() -> int:
        other.commit(lambda: None)
        return generation()

    node.table.generation = later  # type: ignore[method-assign]
    node.full()
    node.table.generation = generation  # type: ignore[method-assign]
    node.tamper(FlushChain("services"))
    assert "services" in node.backend.observe()


def test_commits_of_the_other_family_are_nobody_elses() -> None:
    node = Node(web(), web_slice())
    other = _OtherFamily(node)
    node.full()
    other.commit(lambda: None)
    node.table.chains = node.table.sets = None  # type: ignore[method-assign, assignment]
    assert node.backend.observe() == ""


def _never_rests(node: Node) -> None:
    """Let others commit whenever the table is being read."""
    elements = node.table.elements

    def disturbed(name: str) -> Iterator[Element]:
        for each in elements(name):
            node.table.kernel.disturbed()
            yield each

    node.table.elements = disturbed  # type: ignore[method-assign]


def test_a_table_that_others_leave_no_time_to_read_is_replaced_in_one_transaction() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.restart()
    _never_rests(node)
    before = len(node.table.commits)
    assert node.full().ports == 1
    (commit,) = node.table.commits[before:]
    assert isinstance(commit[0], DeleteTable)
    assert node.held("service-classes") == {HTTP: "cluster-2"}


def test_a_look_for_which_others_leave_no_time_finds_nothing() -> None:
    node = Node(web(), web_slice())
    node.full()
    _never_rests(node)
    node.table.kernel.disturbed()
    assert node.backend.observe() == ""
    assert not node.backend.needs_full


class _Interrupted:
    """A question whose first answers are broken off, since somebody else commits."""

    def __init__(self, ask: Callable[..., object], times: int) -> None:
        self._ask = ask
        self._times = times

    def __call__(self, *what: object) -> object:
        if self._times > 0:
            self._times -= 1
            raise DumpInterrupted("changed while it was read")
        return self._ask(*what)


@pytest.mark.parametrize("question", ["chains", "sets", "rules"])
def test_a_look_at_the_structure_that_is_interrupted_finds_nothing(question: str) -> None:
    node = Node(web(), web_slice())
    node.full()
    node.tamper(FlushChain("services"))
    setattr(node.table, question, _Interrupted(getattr(node.table, question), PATIENCE))
    assert node.backend.observe() == ""
    assert not node.backend.needs_full
    assert "services" in node.backend.observe()


@pytest.mark.parametrize("question", ["chains", "sets"])
def test_a_full_sync_asks_again_when_an_answer_is_interrupted(question: str) -> None:
    node = Node(web(), web_slice())
    node.full()
    setattr(node.table, question, _Interrupted(getattr(node.table, question), PATIENCE - 1))
    node.full()
    assert not any(isinstance(step, DeleteTable) for step in node.table.commits[-1])


def _races(node: Node, times: int) -> None:
    """Let somebody put a Service's place in, and take it out, between our reading and each of so many commits."""
    commit, theirs = node.table.commit, node.element("service-classes", HTTP)
    left = iter(range(times))

    def raced(steps: Iterable[Change], after: int | None = None) -> int:
        if next(left, None) is not None:
            there = theirs.key in {each.key for each in node.table.elements("service-classes")}
            other = msgspec.structs.replace(theirs, data=number(0x6B0000FF))
            commit(
                [DeleteElements("service-classes", [other]) if there else AddElements("service-classes", [other])]
            )
        return commit(steps, after)

    node.table.commit = raced  # type: ignore[method-assign]


def _racing(times: int) -> Node:
    """Return an agent that starts with a Service that is not there yet."""
    node = Node(web(), web_slice())
    node.full()
    place = node.element("service-classes", HTTP)
    _races(node, times)
    node.restart()
    FakeTable(kernel=node.table.kernel).commit([DeleteElements("service-classes", [place])])
    return node


@pytest.mark.parametrize("times", [1, 2, 3])
def test_no_port_is_to_blame_for_a_race(times: int) -> None:
    node = _racing(times)
    assert not node.full().quarantined
    assert node.held("service-classes") == {HTTP: "cluster-2"}
    assert node.backend.observe() == ""


def test_who_races_without_end_fails_the_sync_and_no_port_is_left_out() -> None:
    node = _racing(1000)
    with pytest.raises(SyncFailed, match="somebody else changed nf_tables") as failed:
        node.full()
    assert failed.value.culprits == ()


def _sized() -> Node:
    """Return an agent that starts, and whose Services do not fit into one transaction together."""
    objects = [web(f"web{i}", f"10.96.1.{i}") for i in range(1, 60)]
    slices = [web_slice(*[f"10.244.1.{k}@node1" for k in range(i)], name=f"web{i}") for i in range(1, 60)]
    node = Node(*objects, *slices)
    node.table.most_steps = 150
    return node


def test_who_changes_something_all_the_time_keeps_nobody_from_sending_in_pieces() -> None:
    node = _sized()
    commit = node.table.commit

    def disturbed(steps: Iterable[Change], after: int | None = None) -> int:
        node.table.kernel.disturbed()
        return commit(steps, after)

    node.table.commit = disturbed  # type: ignore[method-assign]
    assert node.full().ports == 59
    assert len(node.table.commits) > 1


def test_no_port_is_to_blame_for_a_race_behind_the_first_of_several_transactions() -> None:
    node = _sized()

    def raced(step: Change) -> int:
        if step == FlushChain("cluster-1"):
            node.table.kernel.disturbed()
        return 0

    node.table.refuses = raced
    node.table.refuses_element = lambda each: errno.EEXIST if each.comment == "default/web58:http" else 0
    with pytest.raises(SyncFailed) as failed:
        node.full()
    assert failed.value.culprits == ()
    node.table.refuses_element = lambda each: 0  # whoever was there has gone
    assert node.full().ports == 59


def test_a_port_that_is_refused_behind_the_first_of_several_transactions_is_found_in_the_end() -> None:
    node = _sized()
    node.table.refuses_element = lambda each: errno.EINVAL if each.comment == "default/web58:http" else 0
    culprits: list[str] = []
    for _ in range(2):
        with contextlib.suppress(SyncFailed):
            applied = node.full()
            culprits = [str(name) for name in applied.quarantined]
    assert culprits == ["default/web58:http"]
    assert node.backend.observe() == ""
