"""The model of nf_tables answers as the real kernel does, whatever transactions there are."""

from collections.abc import Iterator

import pytest
from hypothesis import given

from kubeproxy.kernel.nf_tables import types as t
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.fake import FakeTable
from kubeproxy.kernel.nf_tables.table import KernelTable
from kubeproxy.model.addresses import Family
from tests.netns.lone_namespace import LoneNamespace, lone_namespace
from tests.netns.nf_tables_contents import contents
from tests.property.runs import HISTORIES, PATIENCE, runs
from tests.property.strategies_nf_tables import everything, some_transactions

pytestmark = [pytest.mark.netns, PATIENCE]


@pytest.fixture(scope="module")
def alone() -> Iterator[LoneNamespace]:
    with lone_namespace() as namespace:
        yield namespace


def answer(table: NfTable, changes: list[t.Change]) -> tuple[int, int | None, int | None]:
    try:
        table.commit(changes)
    except Refused as error:
        return error.code, error.change, error.element
    return 0, None, None


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("prepared", [True, False])
def test_the_model_answers_as_the_kernel_does(alone: LoneNamespace, family: Family, prepared: bool) -> None:
    @runs(HISTORIES)
    @given(some_transactions(family))
    def history(transactions: list[list[t.Change]]) -> None:
        real, model = KernelTable(family), FakeTable(family)
        try:
            for changes in [[*everything()], *transactions] if prepared else transactions:
                before = real.generation(), model.generation()
                assert answer(real, changes) == answer(model, changes), changes
                assert real.generation() - before[0] == model.generation() - before[1]
            assert contents(real) == contents(model)
        finally:
            if real.exists():
                real.commit([t.DeleteTable()])
            real.close()

    alone.run(history)


ASLEEP, AWAKE = t.AddTable(dormant=True), t.AddTable()
BASE, PLAIN = t.AddChain(t.Chain("base", t.Base("filter", t.Hook.INPUT, 0))), t.AddChain(t.Chain("plain"))


@pytest.mark.parametrize(
    ("before", "steps"),
    [
        ([ASLEEP, BASE], [AWAKE, BASE, PLAIN]),
        ([ASLEEP], [ASLEEP, BASE]),
        ([ASLEEP], [AWAKE, BASE]),
        ([ASLEEP], [BASE, AWAKE]),
        ([AWAKE], [ASLEEP, BASE]),
        ([AWAKE], [ASLEEP, AWAKE]),
        ([ASLEEP, BASE], [AWAKE, t.DeleteChain("base")]),
        ([ASLEEP, BASE], [t.DeleteChain("base"), AWAKE]),
        ([ASLEEP, BASE], [t.DeleteTable(), AWAKE, BASE]),
    ],
)
def test_the_model_sleeps_and_wakes_as_the_kernel_does(
    alone: LoneNamespace, before: list[t.Change], steps: list[t.Change]
) -> None:
    def story() -> None:
        real, model = KernelTable(Family.V4), FakeTable()
        for changes in (before, steps):
            began = real.generation(), model.generation()
            assert answer(real, changes) == answer(model, changes)
            assert real.generation() - began[0] == model.generation() - began[1]
        assert contents(real) == contents(model)
        real.commit([t.DeleteTable()])
        real.close()

    alone.run(story)
