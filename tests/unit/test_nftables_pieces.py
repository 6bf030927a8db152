"""A full sync of which no one transaction can hold all."""

import pytest

from kubeproxy.dataplane.nftables import backend, pieces
from kubeproxy.kernel.nf_tables.types import AddChain, AddElements, Chain, DeleteElements, Element, Split
from tests.nftables_node import Node, web, web_slice

pytestmark = pytest.mark.unit


def test_a_table_in_pieces_holds_the_same_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "PORTS_A_PIECE", 10)
    objects = [web(f"web{i}", f"10.96.1.{i}", node_port=30000 + i) for i in range(200)]
    objects += [web_slice(name=f"web{i}") for i in range(200)]
    whole, pieces = Node(*objects), Node(*objects)
    whole.full()
    pieces.table.most_steps = len(whole.table.commits[0]) - 1
    pieces.full()
    assert len(pieces.table.commits) > 1
    assert whole.table.contents is not None
    assert pieces.table.contents is not None
    assert whole.table.contents.elements == pieces.table.contents.elements
    assert pieces.backend.observe() == ""


def test_what_is_divided_has_many_elements_and_comes_first() -> None:
    few, many = [Element(bytes(4))], [Element(bytes(4))] * (pieces.MOST_ELEMENTS + 1)
    chain, lead = AddChain(Chain("cluster-1001")), AddElements("service-classes", few)
    stale = DeleteElements("endpoints", few)
    assert pieces.divided([chain, lead, stale]) == [chain, lead, stale]
    assert (
        pieces.divided([chain, lead, stale, AddElements("endpoints", many)])
        == [
            stale,  # what comes may have the key of what goes
            Split(),
            AddElements("endpoints", many[:-1]),
            Split(),
            AddElements("endpoints", few),
            Split(),
            chain,
            lead,
        ]
    )
