"""Classes of nftables mode: which numbers they have, and when the chains that serve them come and go."""

import errno
from collections import Counter
from collections.abc import Iterator
from itertools import product
from sys import byteorder

import msgspec
import pytest

from kubeproxy.dataplane.nftables.layout import CHAINS
from kubeproxy.dataplane.nftables.names import FIRST_CLASS, FIRST_ENDPOINT
from kubeproxy.dataplane.nftables.phrases import by_class, go
from kubeproxy.kernel.nf_tables.expressions import Decide, VerdictWord
from kubeproxy.kernel.nf_tables.fields import number
from kubeproxy.kernel.nf_tables.model import Contents
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddElements,
    AddRule,
    Base,
    Chain,
    DeleteChain,
    DeleteElements,
    Element,
    Rule,
)
from kubeproxy.model.objects import EndpointSlice, Service, ServiceType, TrafficPolicy
from tests.nftables_node import Node, web, web_slice

pytestmark = pytest.mark.unit

HTTP = "10.96.0.1 . tcp . 80"
PICKS = ("picks", "short-circuit-picks")


def test_another_number_of_endpoints_is_another_class() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    node.put(web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    assert node.held("service-classes") == {HTTP: "cluster-2"}
    assert {"cluster-1", "cluster-2"} <= node.chains()
    node.backend.observe()
    assert "cluster-1" not in node.chains()
    assert set(node.held("picks").values()) == {"cluster-2"}
    node.put(web_slice("10.244.1.1@node2"))
    assert node.held("service-classes") == {HTTP: "cluster-1"}
    assert not node.backend.observe()


def test_a_class_gets_a_number_that_no_other_has() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    for count in (2, 3, 4, 1, 2):
        node.put(web_slice(*(f"10.244.1.{i}@node2" for i in range(count))))
        assert node.backend.observe() == ""
        assert node.held("service-classes") == {HTTP: f"cluster-{count}"}
        assert len(node.held("picks")) == 1


def test_a_chain_that_packets_are_still_in_is_deleted_later() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    node.put(web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.table.refuses = lambda step: errno.EBUSY if isinstance(step, DeleteChain) else 0
    assert node.backend.observe() == ""
    assert "cluster-1" in node.chains()
    node.table.refuses = lambda step: 0
    assert node.backend.observe() == ""
    assert "cluster-1" not in node.chains()


def test_a_chain_that_waits_for_its_end_may_be_needed_again() -> None:
    node = Node(web(), web_slice("10.244.1.1@node2"))
    node.full()
    node.put(web_slice("10.244.1.1@node2", "10.244.1.2@node2"))
    node.table.refuses = lambda step: errno.EBUSY if isinstance(step, DeleteChain) else 0
    node.backend.observe()
    node.put(web_slice("10.244.1.1@node2"))
    node.table.refuses = lambda step: 0
    assert node.backend.observe() == ""
    assert node.held("service-classes") == {HTTP: "cluster-1"}
    assert "cluster-1" in node.chains()
    assert node.table.rules("cluster-1")


@pytest.mark.parametrize("code", [0, FIRST_CLASS - 1, FIRST_ENDPOINT, FIRST_ENDPOINT + 5])
def test_a_class_keeps_no_number_that_is_not_for_classes(code: int) -> None:
    node = Node(web(), web_slice())
    node.full()
    (pick,) = node.table.elements("picks")
    entry = node.element("service-classes", HTTP)
    foreign = number(code)
    node.tamper(
        DeleteElements("service-classes", [entry]),
        DeleteElements("picks", [pick]),
        AddElements("picks", [msgspec.structs.replace(pick, key=foreign)]),
        AddElements("service-classes", [msgspec.structs.replace(entry, data=foreign)]),
    )
    node.restart()
    node.full()
    (pick,) = node.table.elements("picks")
    assert FIRST_CLASS <= int.from_bytes(pick.key, byteorder) < FIRST_ENDPOINT
    assert node.held("service-classes") == {HTTP: "cluster-2"}
    assert node.backend.observe() == ""


def test_a_class_keeps_no_number_that_leads_where_another_class_is() -> None:
    """Somebody made one number of two."""
    node = Node(web(external_ips=("203.0.113.1",), external_policy=TrafficPolicy.LOCAL), web_slice())
    node.full()
    codes = {verdict.data.chain: verdict for name in PICKS for verdict in node.table.elements(name)}  # type: ignore[union-attr]
    ours, others = codes["local-1"], codes["pick-2"]
    node.tamper(
        DeleteElements("short-circuit-picks", [others]),
        AddElements("short-circuit-picks", [msgspec.structs.replace(others, key=ours.key)]),
    )
    node.restart()
    node.full()
    found = [verdict.key for name in PICKS for verdict in node.table.elements(name)]
    assert len(found) == len(set(found)) == 3
    assert node.held("short-circuit-ips") == {"203.0.113.1 . tcp . 80": "pick-2"}
    assert node.backend.observe() == ""


@pytest.mark.parametrize("edit", ["word", "chain", "gone"])
def test_a_choice_that_somebody_changed_is_put_right(edit: str) -> None:
    sticky = {"session_affinity": True, "affinity_seconds": 60}
    node = Node(
        web(**sticky), web_slice(), web("b", "10.96.0.2", **sticky), web_slice("10.244.1.9@node2", name="b")
    )
    node.full()
    before = node.held("choosers")
    (choice, *_) = node.table.elements("choosers")
    node.tamper(DeleteElements("choosers", [choice]))
    if edit != "gone":
        assert isinstance(choice.data, Decide)
        word = VerdictWord.GOTO if edit == "word" else VerdictWord.JUMP
        chain = choice.data.chain if edit == "word" else "firewall-sources"
        node.tamper(AddElements("choosers", [msgspec.structs.replace(choice, data=Decide(word, chain))]))
    assert node.backend.observe()
    node.restart()
    node.full()
    assert sorted(node.held("choosers").values()) == sorted(before.values()) == ["choose-1", "choose-2"]
    assert node.backend.observe() == ""


def test_the_chains_of_affinity_stay_as_long_as_some_service_needs_them() -> None:
    sticky = {"session_affinity": True, "affinity_seconds": 60}
    node = Node(
        web(**sticky), web_slice(), web("b", "10.96.0.2", **sticky), web_slice("10.244.1.9@node2", name="b")
    )
    node.full()
    node.put(web_slice("10.244.1.9@node2"))
    assert node.backend.observe() == ""
    assert "choose-2" not in node.chains()
    assert node.table.rules("cluster-sticky-60")
    assert node.table.rules("choose-1")
    assert set(node.held("choosers").values()) == {"choose-1"}
    node.put(web(), web("b", "10.96.0.2"))
    assert node.backend.observe() == ""
    assert not node.chains() & {"choose-1", "cluster-sticky-60"}
    assert node.held("choosers") == {}


@pytest.mark.parametrize("count", [5, 20])
def test_the_kernel_meets_each_class_few_times_when_it_follows_all_paths(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Before it takes a class in; a kernel that forgets what it has followed goes every path anew (6.1 does)."""
    node = Node(*_of_all_kinds(count))
    node.full()
    assert node.table.contents is not None
    met: Counter[str] = Counter()
    follow = Contents._follow

    def counted(self: Contents, name: str, base: Base, depth: int) -> None:
        met[name] += 1
        follow(self, name, base, depth)

    monkeypatch.setattr(Contents, "_follow", counted)
    node.table.contents.validate()
    lists = {name for name in met if "choose-" in name}
    places = met.keys() - CHAINS.keys() - lists
    assert len(places) > 6 * count
    # From two hooks; those behind `short-circuit-picks` by the rule for pods and the one for the node itself.
    assert max(met[name] for name in places) <= 4
    # Each from all times of its own list, and of no other.
    times = Counter("local" in name for name in places if "sticky" in name for _ in range(met[name]))
    assert all(met[name] <= times["local" in name] for name in lists)


def _of_all_kinds(count: int) -> Iterator[Service | EndpointSlice]:
    """Yield Services under either policy, with affinity and without; each number and each time is another one."""
    for kind, (policy, is_sticky) in enumerate(product(TrafficPolicy, (False, True))):
        for n in range(count):
            name, seconds = f"web-{kind}-{n}", 10 + n if is_sticky else 0
            yield web(
                name,
                f"10.96.{kind}.{n}",
                type=ServiceType.LOAD_BALANCER,
                load_balancer_ips=(f"203.0.{kind}.{n}",),
                external_policy=policy,
                session_affinity=is_sticky,
                affinity_seconds=seconds,
            )
            yield web_slice(*(f"10.244.1.{i}@node1" for i in range(1 + n)), name=name)


def test_chains_that_earlier_versions_had_go_and_clients_stay_remembered() -> None:
    """Theirs had policy Local's exceptions in a chain of its own, to which the chains of classes led."""
    service = web(
        external_ips=("203.0.113.1",),
        external_policy=TrafficPolicy.LOCAL,
        session_affinity=True,
        affinity_seconds=60,
    )
    node = Node(service, web_slice())
    node.full()
    assert node.table.contents is not None
    client = Element(bytes((198, 51, 100, 7)) + bytes(12), number(FIRST_ENDPOINT), timeout=60000)
    node.table.contents.learn("affinity", client)
    node.tamper(
        AddChain(Chain("short-circuit")),
        AddRule(Rule("short-circuit", by_class("short-circuit-picks"))),
        AddChain(Chain("local-1-sticky-60")),
        AddRule(Rule("local-1-sticky-60", (go("short-circuit"),))),
        AddElements("picks", [Element(number(FIRST_ENDPOINT - 1), go("local-1-sticky-60"))]),
    )
    node.restart()
    node.full()
    assert node.backend.observe() == ""
    assert not node.chains() & {"short-circuit", "local-1-sticky-60"}
    assert list(node.table.elements("affinity")) == [client]
