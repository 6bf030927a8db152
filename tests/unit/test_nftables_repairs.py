"""What somebody else does to our table is undone by what the kernel told of it, and nothing is read for that."""

import contextlib
import errno
from collections.abc import Callable, Iterable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kubeproxy.dataplane.base import SyncFailed
from kubeproxy.dataplane.nftables import edits
from kubeproxy.dataplane.nftables.layout import CHAINS
from kubeproxy.dataplane.nftables.names import VERDICT_MAPS
from kubeproxy.dataplane.nftables.phrases import ACCEPT, go, jump
from kubeproxy.dataplane.nftables.sets import SPECS
from kubeproxy.kernel.nf_tables.attributes import u32
from kubeproxy.kernel.nf_tables.base import NAME, Refused
from kubeproxy.kernel.nf_tables.expressions import LoadMeta, Lookup, Meta
from kubeproxy.kernel.nf_tables.fields import data_bytes, fields_bytes, number
from kubeproxy.kernel.nf_tables.numbers import Chain as ChainAttribute
from kubeproxy.kernel.nf_tables.numbers import ChainFlag, SetFlag
from kubeproxy.kernel.nf_tables.numbers import Set as SetAttribute
from kubeproxy.kernel.nf_tables.object_messages import encode_chain_name, encode_set_name
from kubeproxy.kernel.nf_tables.types import (
    VERDICTS,
    AddChain,
    AddElements,
    AddRule,
    AddSet,
    AddTable,
    Base,
    Chain,
    Change,
    DeleteChain,
    DeleteElements,
    DeleteTable,
    Element,
    Field,
    FlushChain,
    FlushSet,
    Hook,
    Rule,
    SetSpec,
)
from kubeproxy.kernel.notice_messages import TableNotice
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import EndpointSlice, Service, ServiceType, TrafficPolicy
from tests.nftables_node import sizes, web, web_slice
from tests.nftables_told import ToldNode

pytestmark = pytest.mark.unit

HTTP = "10.96.0.1 . tcp . 80"
STRANGER = Element(bytes((192, 0, 2, 1)))


def cluster() -> list[Service | EndpointSlice]:
    """Return Services that use every kind of set."""
    return [
        web(),
        web_slice(),
        web(
            "shop",
            "10.96.0.2",
            node_port=30080,
            type=ServiceType.LOAD_BALANCER,
            load_balancer_ips=("203.0.113.1",),
            source_ranges=("198.51.100.0/24",),
            external_policy=TrafficPolicy.LOCAL,
        ),
        web_slice(name="shop"),
        web("db", "10.96.0.3", session_affinity=True),
        web_slice(name="db"),
        web("none", "10.96.0.4"),
    ]


def state(node: ToldNode) -> object:
    """Return all that the table holds but for what packets fill."""
    held = node.table.contents
    assert held is not None
    elements = {name: set(found.values()) for name, found in held.elements.items() if not held.sets[name].dynamic}
    return held.chains, held.rules, held.sets, elements


def reads(node: ToldNode, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return which sets are read from now on."""
    found: list[str] = []
    elements = node.table.elements
    monkeypatch.setattr(node.table, "elements", lambda name: (found.append(name), elements(name))[1])
    return found


EDITS: dict[str, Callable[[ToldNode], list[Change]]] = {
    "an element deleted": lambda node: [DeleteElements("endpoints", [node.element("endpoints", f"{HTTP} . 0")])],
    "a map flushed": lambda node: [FlushSet("service-classes")],
    "an element added": lambda node: [AddElements("cluster-ips", [STRANGER])],
    "an element's data changed": lambda node: [
        DeleteElements("endpoints", [node.element("endpoints", f"{HTTP} . 1")]),
        AddElements(
            "endpoints", [msgspec.structs.replace(node.element("endpoints", f"{HTTP} . 1"), data=bytes(8))]
        ),
    ],
    "a pick replaced": lambda node: [FlushSet("picks")],
    "node ports gone": lambda node: [FlushSet("nodeport-classes"), FlushSet("nodeport-local-endpoints")],
    "source ranges gone": lambda node: [FlushSet("firewall-sources-24"), FlushSet("guarded-ips")],
    "hairpins gone": lambda node: [FlushSet("hairpin-connections")],
    "a rule added": lambda node: [AddRule(Rule("services", (ACCEPT,)))],
    "rules replaced": lambda node: [FlushChain("masquerading"), AddRule(Rule("masquerading", (ACCEPT,)))],
    "a class's rules flushed": lambda node: [FlushChain("cluster-2")],
    "the source ranges' rules flushed": lambda node: [FlushChain("firewall-sources")],
    "a chain added": lambda node: [AddChain(Chain("somebodys")), AddRule(Rule("somebodys", (ACCEPT,)))],
    "a chain added and led to": lambda node: [
        AddChain(Chain("somebodys")),
        AddRule(Rule("services", (jump("somebodys"),))),
        AddElements("picks", [Element(number(0x6B012345), go("somebodys"))]),
    ],
    "a base chain deleted": lambda node: [FlushChain("nat-prerouting"), DeleteChain("nat-prerouting")],
    "a map added, a chain that it leads to and a rule that asks it": lambda node: [
        AddChain(Chain("somebodys")),
        AddSet(SetSpec(name="theirs", key=(Field.ADDRESS,), data=VERDICTS)),
        AddElements("theirs", [Element(bytes((192, 0, 2, 1)), go("somebodys"))]),
        AddRule(Rule("services", (LoadMeta(Meta.MARK, 1), Lookup("theirs", 1, verdicts=True)))),
    ],
    "a set added": lambda node: [AddSet(SetSpec(name="theirs", key=(Field.ADDRESS,)))],
}


@pytest.mark.parametrize("what", EDITS)
def test_what_was_told_is_undone_and_nothing_is_read(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.tamper(*EDITS[what](node))
    assert state(node) != before
    read = reads(node, monkeypatch)
    assert node.is_put_right()
    assert state(node) == before
    assert node.backend.observe() == ""
    assert read == []
    node.put(web("api", "10.96.0.9"), web_slice(name="api"))


@pytest.mark.parametrize(
    "steps",
    [
        [DeleteTable()],
        [DeleteTable(), AddTable("theirs")],
        [FlushChain("masquerading"), FlushChain("services"), FlushChain("cluster-ips-check")],
    ],
    ids=["deleted", "another", "rules"],
)
def test_a_table_that_is_gone_is_written_from_what_is_known(steps: list[Change]) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.tamper(*steps)
    assert node.is_put_right() or node.is_put_right(whole=True)
    assert state(node) == before
    assert node.backend.observe() == ""
    assert not node.backend.needs_full


def test_a_base_chain_that_came_may_be_ours_by_another_name() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.rename("nat-output", "theirs")
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert state(node) == before
    node.tamper(AddChain(Chain("theirs", Base("filter", Hook.INPUT, 0))))
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert state(node) == before
    assert node.backend.observe() == ""


def test_a_chain_that_is_renamed_to_one_that_we_make_then_leads_nobody_there() -> None:
    node = ToldNode(*cluster())
    node.rename("cluster-2", "cluster-3")
    node.put(web("api", "10.96.0.9"), web_slice(*[f"10.244.1.{i}@node1" for i in (1, 2, 3)], name="api"))
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert node.held("service-classes")[HTTP] == "cluster-2"
    assert node.held("service-classes")["10.96.0.9 . tcp . 80"] == "cluster-3"
    assert node.backend.observe() == ""


def test_what_nobody_needs_is_not_swept_while_somebodys_edits_wait() -> None:
    node = ToldNode(*cluster())
    after = state(ToldNode(*(each for each in cluster() if each.name != "db")))
    node.remove("db")
    class_chain = next(name for name in node.table.chains() if name.startswith("cluster-sticky"))
    leads = [each for each in node.table.elements("picks") if getattr(each.data, "chain", "") == class_chain]
    node.tamper(DeleteElements("picks", leads))
    assert node.backend.observe() == ""
    assert not node.backend.needs_full
    assert node.is_put_right()
    assert node.backend.observe() == ""
    assert set(state(node)[0]) == set(after[0])  # type: ignore[index]


@pytest.mark.parametrize("what", EDITS)
def test_what_was_not_told_is_put_right_and_no_client_is_forgotten(what: str) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    key = bytes(fields_bytes(SPECS["affinity"].key, Family.V4))
    node.table.learn("affinity", Element(key, bytes(data_bytes(SPECS["affinity"], Family.V4)), timeout=1000))
    node.table.tampered(EDITS[what](node))
    node.journal.lost()
    assert node.backend.observe() != ""
    assert node.is_put_right(whole=True)
    assert state(node) == before
    assert [each.key for each in node.table.elements("affinity")] == [key]
    assert node.backend.observe() == ""


@pytest.mark.parametrize(
    ("what", "name", "body", "content"),
    [
        (
            "set",
            "__map0",
            encode_set_name(Family.V4, NAME, "__map0") + u32(SetAttribute.FLAGS, SetFlag.ANONYMOUS),
            "element",
        ),
        (
            "chain",
            "__chain0",
            encode_chain_name(Family.V4, NAME, "__chain0") + u32(ChainAttribute.FLAGS, ChainFlag.BINDING),
            "rule",
        ),
    ],
    ids=["set", "chain"],
)
def test_what_is_part_of_a_rule_goes_with_it(
    monkeypatch: pytest.MonkeyPatch, what: str, name: str, body: bytes, content: str
) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.journal.note(TableNotice(1, what, is_gone=False, table=NAME, name=name, body=body))
    node.journal.note(TableNotice(1, content, is_gone=False, table=NAME, name=name, body=b"?"))
    node.tamper(AddRule(Rule("services", (ACCEPT,))))
    read = reads(node, monkeypatch)
    assert node.is_put_right()
    assert state(node) == before
    assert read == []


def test_one_element_is_one_step() -> None:
    node = ToldNode(*cluster())
    node.tamper(DeleteElements("endpoints", [node.element("endpoints", f"{HTTP} . 0")]))
    assert node.is_put_right()
    assert sizes(node.table.commits[-1]) == {"endpoints": 1}


def test_what_packets_have_filled_is_nobodys_business() -> None:
    node = ToldNode(*cluster())
    node.tamper(FlushSet("affinity"))
    assert node.backend.observe() == ""
    assert not node.journal.has_edits


def test_much_at_once_is_found_by_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "MOST_EDITS", 2)
    node = ToldNode(*cluster())
    before = state(node)
    node.tamper(FlushSet("endpoints"))
    assert node.journal.is_full
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_what_is_changed_once_more_meanwhile_is_not_made_worse() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.tamper(AddElements("cluster-ips", [STRANGER]))
    later = node.table.tampered([DeleteElements("cluster-ips", [STRANGER])])  # told later
    assert not node.is_put_right()
    for each in later:
        node.journal.note(each)
    node.journal.ended(node.table.generation())
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_another_edit_during_a_repair_is_the_next_one() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    commit = node.table.commit

    def meanwhile(changes: Iterable[Change], after: int | None = None) -> int:
        node.table.commit = commit  # type: ignore[method-assign]
        node.tamper(FlushChain("services"))
        return commit(changes, after)

    node.tamper(AddElements("cluster-ips", [STRANGER]))
    node.table.commit = meanwhile  # type: ignore[method-assign]
    assert node.is_put_right()
    assert state(node) != before
    assert node.is_put_right()
    assert state(node) == before


def test_an_edit_before_our_own_change_fails_that_and_is_undone_with_it() -> None:
    node = ToldNode(*cluster())
    node.tamper(FlushSet("endpoints"))
    with pytest.raises(SyncFailed):
        node.put(web_slice("10.244.1.7@node1"))
    assert not node.is_put_right()
    assert not node.is_put_right(whole=True)  # the books are not known to be true any more
    node.full()
    assert node.held("endpoints")[f"{HTTP} . 0"] == "10.244.1.7 . 8080"
    assert node.backend.observe() == ""


def test_an_edit_beside_our_own_change_is_undone_after_it() -> None:
    node = ToldNode(*cluster())
    node.tamper(AddElements("cluster-ips", [STRANGER]), FlushChain("cluster-2"))
    node.put(web("api", "10.96.0.9"), web_slice(name="api"))
    after = state(ToldNode(*cluster(), web("api", "10.96.0.9"), web_slice(name="api")))
    assert node.is_put_right()
    assert names_of(state(node)) == names_of(after)
    assert node.backend.observe() == ""


def names_of(held: object) -> object:
    """Return what does not depend on which class came first."""
    chains, rules, sets, elements = held  # type: ignore[misc]
    return (
        chains,
        rules,
        sets,
        {name: {each.key for each in found} for name, found in elements.items() if "picks" not in name},
    )  # type: ignore[has-type]


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EBUSY, errno.ENOMEM])
def test_a_repair_that_the_kernel_refuses_is_left_to_others(code: int) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.tamper(FlushChain("services"))
    node.table.failures = [Refused(code, "no"), Refused(code, "no")]
    assert not node.is_put_right()
    assert not node.is_put_right(whole=True)
    assert node.is_put_right(whole=True)
    assert state(node) == before


def test_a_drift_that_a_look_has_found_is_put_right_without_a_full_sync() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.table.tampered([FlushSet("endpoints")])
    node.journal.lost()
    assert "elements of endpoints" in node.backend.observe()
    assert node.backend.needs_full
    assert not node.is_put_right()
    assert node.is_put_right(whole=True)
    assert not node.backend.needs_full
    assert state(node) == before


def test_a_table_that_sleeps_is_woken_and_no_client_is_forgotten() -> None:
    node = ToldNode(*cluster())
    key = bytes(fields_bytes(SPECS["affinity"].key, Family.V4))
    node.table.learn("affinity", Element(key, bytes(data_bytes(SPECS["affinity"], Family.V4)), timeout=1000))
    node.table.tampered([AddTable(dormant=True)])
    node.journal.lost()
    assert "to sleep" in node.backend.observe()
    assert node.is_put_right(whole=True)
    assert not node.table.is_dormant()
    assert [each.key for each in node.table.elements("affinity")] == [key]
    assert node.backend.observe() == ""


@pytest.mark.parametrize(
    "steps", [[FlushChain("nat-output"), DeleteChain("nat-output")], [DeleteTable(), AddTable()]]
)
def test_a_table_that_sleeps_and_lacks_base_chains_is_replaced(steps: list[Change]) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.table.tampered(steps)
    node.table.tampered([AddTable(dormant=True)])
    node.journal.lost()
    assert node.backend.observe() != ""
    assert node.is_put_right(whole=True)
    assert not node.table.is_dormant()
    assert state(node) == before
    assert node.backend.observe() == ""


def test_an_agent_that_starts_replaces_a_table_that_sleeps_and_lacks_base_chains() -> None:
    node = ToldNode(*cluster())
    before = state(node)
    node.table.tampered([DeleteTable(), AddTable(dormant=True)])
    node.full()
    assert not node.table.is_dormant()
    assert state(node) == before


def test_a_chain_that_somebody_made_by_a_name_of_ours_goes() -> None:
    node = ToldNode(*cluster())
    node.table.tampered([AddChain(Chain("cluster-77"))])
    node.journal.lost()
    assert "cluster-77 was added by somebody" in node.backend.observe()
    assert node.is_put_right(whole=True)
    assert node.backend.observe() == ""
    assert "cluster-77" not in node.chains()


def test_what_was_heard_and_nobody_undoes_is_found_by_the_next_look_but_one() -> None:
    node = ToldNode(*cluster())
    node.tamper(FlushSet("endpoints"))
    assert node.backend.observe() == ""
    assert "elements of endpoints" in node.backend.observe()


def test_chains_that_wait_to_be_deleted_are_looked_at() -> None:
    node = ToldNode(*cluster())
    node.remove("db")
    node.tamper(AddRule(Rule("cluster-sticky-10800", (ACCEPT,))))
    assert not node.is_put_right() or node.backend.observe() == ""
    assert node.backend.observe() == ""
    assert node.backend.observe() == ""


CHAIN_NAMES = [*CHAINS, "cluster-2", "untranslated", "theirs"]
SET_NAMES = [name for name, spec in SPECS.items() if not spec.dynamic]


@st.composite
def edit(draw: st.DrawFn, node: ToldNode) -> Change | None:
    """Draw something that somebody may do to the table as it is, None when the kernel may not take it."""
    held = node.table.contents
    if held is None:
        return AddTable("theirs")
    kind = draw(st.sampled_from(["delete", "add", "flush set", "flush chain", "rule", "chain", "table"]))
    name = draw(st.sampled_from(SET_NAMES))
    elements = list(held.elements.get(name, {}).values())
    match kind:
        case "delete" | "flush set" if elements:
            return DeleteElements(name, [draw(st.sampled_from(elements))]) if kind == "delete" else FlushSet(name)
        case "add" if elements and name not in VERDICT_MAPS:
            like = draw(st.sampled_from(elements))
            key = bytes(draw(st.lists(st.integers(0, 255), min_size=4, max_size=4))) + like.key[4:]
            return AddElements(name, [msgspec.structs.replace(like, key=key)])
        case "flush chain" | "rule" if held.chains:
            chain = draw(st.sampled_from(sorted(held.chains)))
            return FlushChain(chain) if kind == "flush chain" else AddRule(Rule(chain, (ACCEPT,)))
        case "chain":
            return AddChain(Chain(draw(st.sampled_from(["theirs", "others"]))))
        case "table" if draw(st.integers(0, 9)) == 0:
            return DeleteTable()
    return None


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_others_do_the_kernel_holds_what_it_held(data: st.DataObject) -> None:
    node = ToldNode(*cluster())
    before = state(node)
    for _ in range(data.draw(st.integers(1, 4))):
        for _ in range(data.draw(st.integers(1, 6))):
            step = data.draw(edit(node))
            with contextlib.suppress(Refused):
                if step is not None:
                    node.tamper(step)
        assert node.is_put_right() or node.is_put_right(whole=True)
        assert state(node) == before
        assert node.backend.observe() == ""
