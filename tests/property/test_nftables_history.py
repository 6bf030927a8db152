"""nftables mode's state depends on the World as it is now, never on the path taken to it.

Histories (with failures of every kind, restarts and other people's edits strewn in) are played against the model
kernel. Afterwards it must hold what a fresh agent writes for the same cluster into an empty one.
"""

import pytest
from hypothesis import given

from kubeproxy.dataplane.nftables.names import Way
from kubeproxy.kernel.nf_tables.types import AddElements, DeleteElements
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import Agent
from tests.property.changes_bed import hear_there_and_back, heard
from tests.property.nftables_bed import FakeNftKernel, fresh, in_nftables_mode, live
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import History, histories

pytestmark = [pytest.mark.unit, PATIENCE]


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_any_history_leads_where_a_fresh_start_leads(large: int, history: History) -> None:
    with treated_as_large(large):
        kernel = FakeNftKernel()
        cluster, agent = live(history, kernel)
        assert agent.state() == fresh(cluster, agent.settings).state()
        agent.cleanup()
        assert not any(table.exists() for table in kernel.fakes.values())


@runs()
@given(histories(steps=STEPS, crowds=True))
def test_a_change_concerns_only_places_of_services_that_changed(history: History) -> None:
    kernel = FakeNftKernel()
    agent = Agent(kernel, in_nftables_mode(history.settings))
    for step in heard(history, agent):
        commits = {family: len(table.commits) for family, table in kernel.fakes.items()}
        agent.sync()
        if step.concerns_all:
            continue
        for family, table in kernel.fakes.items():
            changed = step.changed(family)
            assert bool(table.commits[commits[family] :]) <= bool(changed)
            named = {
                element.comment
                for done in table.commits[commits[family] :]
                for each in done
                if isinstance(each, AddElements | DeleteElements)
                if each.set in {way.value.services for way in Way}
                for element in each.elements
            }
            assert named <= {str(name) for name in changed}


@runs(200 if LONG else 20)
@given(histories(steps=2))
def test_there_and_back_again_costs_nothing(history: History) -> None:
    kernel = FakeNftKernel()
    _, agent = live(history, kernel)
    commits = {family: len(table.commits) for family, table in kernel.fakes.items()}
    hear_there_and_back(agent)
    agent.sync()
    assert commits == {family: len(table.commits) for family, table in kernel.fakes.items()}
