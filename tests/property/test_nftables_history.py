"""nftables mode's state depends on the World as it is now, never on the path taken to it.

Histories (with failures of every kind, restarts and other people's edits strewn in) are played against the model
kernel. Afterwards it must hold what a fresh agent writes for the same cluster into an empty one.
"""

import msgspec
import pytest
from hypothesis import given

from kubeproxy.dataplane.nftables.names import Way
from kubeproxy.kernel.nf_tables.types import AddElements, DeleteElements
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import Agent
from tests.property.nftables_bed import FakeNftKernel, fresh, in_nftables_mode, live
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import Batch, Cluster, History, histories

pytestmark = [pytest.mark.unit, PATIENCE]


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_any_history_leads_where_a_fresh_start_leads(large: bool, history: History) -> None:
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
    cluster, agent = Cluster(), Agent(kernel, in_nftables_mode(history.settings))
    agent.settle()
    for step in history.steps:
        agent.sync()
        before = {family: desired(agent.world, agent.settings, family) for family in Family}
        batches = [event.happen(cluster) for event in step.events]
        for batch in batches:
            agent.hear(batch)
        commits = {family: len(table.commits) for family, table in kernel.fakes.items()}
        agent.sync()
        if any(batch.node is not None or batch.cidrs for batch in batches):
            continue
        for family, table in kernel.fakes.items():
            after = desired(agent.world, agent.settings, family)
            changed = {
                name
                for name in before[family].keys() | after.keys()
                if before[family].get(name) != after.get(name)
            }
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
    for key, service in list(agent.world.services.items()):
        other = msgspec.structs.replace(service, affinity_seconds=1, session_affinity=True)
        for each in (other, service):
            agent.hear(Batch(services={key: each}))
    agent.sync()
    assert commits == {family: len(table.commits) for family, table in kernel.fakes.items()}
