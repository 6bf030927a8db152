"""The nftables backend when something goes wrong: refusals, faults, foreign edits, and what is left out."""

import errno

import msgspec
import pytest

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.nftables import limits
from kubeproxy.kernel.nf_tables.base import Refused
from kubeproxy.kernel.nf_tables.expressions import Counter, Decide, VerdictWord
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Chain,
    Change,
    DeleteElements,
    DeleteTable,
    Element,
    Field,
    FlushChain,
    FlushSet,
    Rule,
    SetSpec,
)
from kubeproxy.model.objects import EndpointSlice
from kubeproxy.testing.build import endpoint_slice, service
from tests.nftables_node import Node, web, web_slice

pytestmark = pytest.mark.unit

HTTP = "10.96.0.1 . tcp . 80"
PICKS = ("picks", "short-circuit-picks")
FAULTS = (errno.EINTR, errno.EBUSY, errno.ENOBUFS, errno.ENOMEM, errno.EEXIST, errno.ENOENT)


@pytest.mark.parametrize("code", FAULTS)
def test_a_change_that_fails_is_followed_by_a_full_sync(code: int) -> None:
    node = Node(web(), web_slice())
    node.full()
    node.table.failures = [Refused(code, "not now")]
    with pytest.raises(SyncFailed, match="a full sync will follow"):
        node.put(web_slice("10.244.1.9@node2"))
    assert node.backend.needs_full
    assert node.held("service-classes") == {HTTP: "cluster-2"}
    applied = node.full()
    assert not applied.quarantined
    assert node.held("endpoints") == {f"{HTTP} . 0": "10.244.1.9 . 8080"}
    assert not node.backend.needs_full


def test_a_broken_socket_is_a_failed_sync() -> None:
    node = Node(web(), web_slice())
    node.table.failures = [OSError(errno.ENOBUFS, "No buffer space available")]
    with pytest.raises(SyncFailed, match="No buffer space"):
        node.full()
    assert node.full().ports == 1


def test_a_kernel_without_nf_tables_says_so() -> None:
    node = Node(web())
    node.table.kernel.present = False
    with pytest.raises(SyncFailed, match="nf_tables"):
        node.full()
    assert node.backend.needs_full
    node.backend.cleanup()


def _refuse(node: Node, address: bytes) -> None:
    node.table.refuses_element = lambda each: errno.EINVAL if each.key.startswith(address) else 0


@pytest.mark.parametrize("names_elements", [True, False])
def test_a_port_that_the_kernel_refuses_is_left_out_and_the_others_are_served(names_elements: bool) -> None:
    bad = web("bad", "10.96.0.66")
    node = Node(web(), web_slice(), bad, web_slice(name="bad"), web("api", "10.96.0.2"))
    node.table.kernel.names_elements = names_elements
    _refuse(node, bytes((10, 96, 0, 66, 6)))
    with pytest.raises(SyncFailed) as failed:
        node.full()
    assert [str(name) for name in failed.value.culprits] == ["default/bad:http"]
    applied = node.full()
    assert [str(name) for name in applied.quarantined] == ["default/bad:http"]
    assert (applied.ports, applied.endpoints) == (2, 2)
    assert set(node.held("service-classes")) == {HTTP, "10.96.0.2 . tcp . 80"}


@pytest.mark.parametrize("step", [AddChain(Chain("cluster-1")), FlushChain("cluster-1")])
def test_a_port_whose_class_the_kernel_refuses_is_left_out_and_the_others_are_served(step: Change) -> None:
    odd = web("odd", "10.96.0.9")
    node = Node(web(), web_slice(), odd, web_slice("10.244.1.1@node2", name="odd"), web("api", "10.96.0.2"))
    node.table.refuses = lambda each: errno.EINVAL if each == step else 0
    with pytest.raises(SyncFailed) as failed:
        node.full()
    assert [str(name) for name in failed.value.culprits] == ["default/odd:http"]
    assert [str(name) for name in node.full().quarantined] == ["default/odd:http"]
    assert set(node.held("service-classes")) == {HTTP, "10.96.0.2 . tcp . 80"}
    node.table.refuses = lambda each: 0
    assert not node.put(web_slice("10.244.1.7@node2", name="odd")).quarantined
    assert node.backend.observe() == ""


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EINTR, errno.EPERM])
def test_a_refusal_that_is_about_the_moment_puts_nobody_aside(code: int) -> None:
    node = Node(web(), web_slice())
    node.table.refuses_element = lambda each: code
    with pytest.raises(SyncFailed) as failed:
        node.full()
    assert failed.value.culprits == ()
    node.table.refuses_element = lambda each: 0
    assert not node.full().quarantined


def test_a_port_is_tried_again_when_it_changes() -> None:
    node = Node(web(), web_slice())
    node.full()
    _refuse(node, bytes((10, 96, 0, 66, 6)))
    with pytest.raises(SyncFailed):
        node.put(web("bad", "10.96.0.66"))
    with pytest.raises(SyncFailed):
        node.full()
    assert node.full().quarantined
    node.table.refuses_element = lambda each: 0
    assert node.put(web("api", "10.96.0.2")).quarantined
    assert not node.put(web("bad", "10.96.0.67")).quarantined
    assert "10.96.0.67 . tcp . 80" in node.held("service-classes")
    node.remove("bad")
    assert set(node.held("service-classes")) == {HTTP, "10.96.0.2 . tcp . 80"}


def test_a_port_is_tried_again_by_a_full_sync_that_mends_nothing() -> None:
    node = Node(web(), web_slice(), web("bad", "10.96.0.66"), web_slice(name="bad"))
    _refuse(node, bytes((10, 96, 0, 66, 6)))
    for _ in range(2):  # as each hour
        with pytest.raises(SyncFailed, match="default/bad"):
            node.full()
        assert len(node.full().quarantined) == 1
    node.table.refuses_element = lambda each: 0
    assert node.full().quarantined == {}
    assert "10.96.0.66 . tcp . 80" in node.held("service-classes")


def test_a_port_in_quarantine_that_goes_takes_nothing_with_it() -> None:
    node = Node(web(), web_slice(), web("bad", "10.96.0.66"), web_slice(name="bad"))
    _refuse(node, bytes((10, 96, 0, 66, 6)))
    with pytest.raises(SyncFailed):
        node.full()
    node.full()
    assert not node.remove("bad").quarantined
    assert len(node.held("hairpin-connections")) == 1
    node.remove("web")
    assert not node.held("hairpin-connections")
    assert not node.backend.observe()


def test_an_unspeakable_name_never_reaches_the_kernel() -> None:
    node = Node(web(), web_slice(), web('evil"; flush ruleset', "10.96.0.9"))
    applied = node.full()
    assert len(applied.quarantined) == 1
    assert set(node.held("service-classes")) == {HTTP}
    assert node.put(web("api", "10.96.0.2")).quarantined


def test_a_table_that_is_deleted_is_noticed_and_made_again() -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.backend.observe() == ""
    node.tamper(DeleteTable())
    assert "the table was deleted" in node.backend.observe()
    assert node.backend.needs_full
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-2"}


def test_a_table_that_is_deleted_before_anybody_looks_makes_the_next_change_fail() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.tamper(DeleteTable())
    with pytest.raises(SyncFailed):
        node.put(web_slice("10.244.1.9@node2"))
    node.full()
    assert node.held("endpoints") == {f"{HTTP} . 0": "10.244.1.9 . 8080"}


def test_a_table_that_is_deleted_while_a_full_sync_reads_it_is_made_again() -> None:
    node = Node(web(), web_slice())
    node.full()
    chains = node.table.chains

    def deleted() -> dict[str, Chain]:
        found = chains()
        node.table.chains = chains  # type: ignore[method-assign]
        node.tamper(DeleteTable())
        return found

    node.table.chains = deleted  # type: ignore[method-assign]
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-2"}


def _edits(node: Node) -> dict[str, tuple[object, ...]]:
    place, slot = node.element("service-classes", HTTP), node.element("endpoints", f"{HTTP} . 0")
    other = msgspec.structs.replace(slot, data=bytes((192, 0, 2, 1, 0, 80, 0, 0)))
    return {
        "an element is deleted": (DeleteElements("service-classes", [place]),),
        "an element leads elsewhere": (DeleteElements("endpoints", [slot]), AddElements("endpoints", [other])),
        "an element is added": (AddElements("cluster-ips", [Element(bytes((192, 0, 2, 1)))]),),
        "a set is emptied": (FlushSet("cluster-ips"),),
        "a chain is emptied": (FlushChain("services"),),
        "a rule is added": (AddRule(Rule("filter-input", (Counter(), Decide(VerdictWord.ACCEPT)))),),
        "a rule of a class is added": (AddRule(Rule("cluster-2", (Decide(VerdictWord.DROP),))),),
        "a chain is added": (AddChain(Chain("debugging")),),
        "a set is added": (AddSet(SetSpec(name="debugging", key=(Field.ADDRESS,))),),
    }


EDITS = (
    "an element is deleted",
    "an element leads elsewhere",
    "an element is added",
    "a set is emptied",
    "a chain is emptied",
    "a rule is added",
    "a rule of a class is added",
    "a chain is added",
    "a set is added",
)


@pytest.mark.parametrize("edit", EDITS)
def test_a_foreign_edit_is_noticed_and_undone(edit: str) -> None:
    node = Node(web(), web_slice())
    node.full()
    assert node.backend.observe() == ""
    before = node.table.contents
    assert before is not None
    node.tamper(*_edits(node)[edit])  # type: ignore[arg-type]
    assert node.backend.observe()
    node.full()
    after = node.table.contents
    assert after is not None
    assert after.elements == before.elements
    assert after.rules == before.rules
    assert after.sets.keys() == before.sets.keys()
    assert node.backend.observe() == ""


def test_what_others_do_elsewhere_is_no_drift() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.table.kernel.disturbed()
    assert node.backend.observe() == ""
    commits = len(node.table.commits)
    node.put(web("api", "10.96.0.2"))
    assert node.backend.observe() == ""
    assert len(node.table.commits) == commits + 1


def test_nothing_is_read_while_nobody_else_changes_anything() -> None:
    node = Node(web(), web_slice())
    node.full()
    node.backend.observe()
    node.put(web_slice("10.244.1.9@node2", "10.244.1.8@node2"))
    node.table.elements = node.table.sets = None  # type: ignore[method-assign, assignment]
    assert node.backend.observe() == ""


def test_the_table_of_an_older_agent_without_a_set_gets_it() -> None:
    node = Node(web(), web_slice())
    node.table.commit([AddTable(), AddChain(Chain("services"))])
    node.full()
    assert node.held("service-classes") == {HTTP: "cluster-2"}


def _crowd(count: int, name: str = "web") -> EndpointSlice:
    return endpoint_slice(
        name, "http=80>8080,more=81>8081", [f"10.244.{i // 250}.{i % 250}@far" for i in range(count)]
    )


def test_a_service_that_wants_too_much_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_ELEMENTS", 100)
    node = Node(service("web", "10.96.0.1", "http=80>8080,more=81>8081"), _crowd(60), web("api", "10.96.0.2"))
    applied = node.full()
    (name,) = applied.quarantined
    assert name.key == ("default", "web")
    assert "room" in applied.quarantined[name]
    assert (applied.ports, applied.endpoints) == (2, 60)
    assert len(node.held("service-classes")) == 2
    assert node.backend.observe() == ""
    assert node.put(web("api", "10.96.0.3")).quarantined == applied.quarantined


def test_it_is_served_when_another_of_its_ports_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_ELEMENTS", 100)
    node = Node(service("web", "10.96.0.1", "http=80>8080,more=81>8081"), _crowd(60))
    assert len(node.full().quarantined) == 1
    applied = node.put(_crowd(40))
    assert not applied.quarantined
    assert set(node.held("service-classes").values()) == {"cluster-40"}
    assert len(node.put(_crowd(60)).quarantined) == 1
    kept = {"http": "http=80>8080", "more": "more=81>8081"}
    (left_out,) = node.full().quarantined
    assert not node.put(service("web", "10.96.0.1", kept[left_out.port])).quarantined
    assert set(node.held("service-classes").values()) == {"cluster-60"}
    assert node.backend.observe() == ""
