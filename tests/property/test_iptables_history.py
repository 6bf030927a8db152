"""iptables' state depends on the World as it is now, never on the path taken to it.

Histories (with failures, restarts and external flushes strewn in) are played against the model kernel, which
refuses dangling jumps and deletions of chains in use; `tests/netns/test_iptables_histories.py` plays them
against the real one. Afterwards the kernel must hold what a fresh agent writes for the same cluster into an
empty one.
"""

import msgspec
import pytest
from hypothesis import given

from kubeproxy.dataplane.iptables.names import port_hash
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import FOREIGN, Agent, FakeKernel, live
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import Batch, Cluster, History, histories

pytestmark = [pytest.mark.unit, PATIENCE]


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_any_history_leads_where_a_fresh_start_leads(large: bool, history: History) -> None:
    with treated_as_large(large):
        cluster, agent = live(history, FakeKernel())
        fresh = Agent(FakeKernel(), agent.settings, cluster.world(backwards=True))
        fresh.settle()
        assert agent.state() == fresh.state()

        agent.cleanup()
        for family, (chain, rule) in FOREIGN.items():
            saved = agent.kernel.saved(family)
            assert saved["nat"] == {"PREROUTING": [], "INPUT": [], "OUTPUT": [], chain: [rule]}
            assert not any(saved["filter"].values())
            assert agent.kernel.sets(family) == {}


@runs()
@given(histories(steps=STEPS, crowds=True))
def test_a_change_writes_only_chains_of_services_that_changed(history: History) -> None:
    kernel = FakeKernel()
    cluster, agent = Cluster(), Agent(kernel, history.settings)
    agent.settle()
    for step in history.steps:
        agent.sync()
        before = {family: desired(agent.world, agent.settings, family) for family in Family}
        counts = {family: len(tables.restored) for family, tables in kernel.tables.items()}
        saved = {family: kernel.saved(family) for family in Family}
        batches = [event.happen(cluster) for event in step.events]
        for batch in batches:
            agent.hear(batch)
        concerns_all = any(batch.node is not None or batch.cidrs for batch in batches)
        agent.sync()
        for family in Family:
            after = desired(agent.world, agent.settings, family)
            union = before[family].keys() | after.keys()
            changed = {name for name in union if before[family].get(name) != after.get(name)}
            new = kernel.tables[family].restored[counts[family] :]
            if concerns_all:
                continue
            assert len(new) == (kernel.saved(family) != saved[family])
            text = "".join(new)
            # A shared chain that branches, or need not any more, takes others' rules along.
            written = {line.split()[1] if line[0] == "-" else line for line in text.splitlines()}
            others = [port_hash(name) for name in after.keys() - changed]
            assert not [chain for chain in written if any(each in chain for each in others)]
            assert ":KUBE-SERVICES" not in text


@runs(200 if LONG else 20)
@given(histories(steps=2))
def test_there_and_back_again_costs_nothing(history: History) -> None:
    kernel = FakeKernel()
    _, agent = live(history, kernel)
    restored = [len(tables.restored) for tables in kernel.tables.values()]
    for key, service in list(agent.world.services.items()):
        other = msgspec.structs.replace(service, affinity_seconds=1, session_affinity=True)
        for each in (other, service):
            agent.hear(Batch(services={key: each}))
    agent.sync()
    assert [len(tables.restored) for tables in kernel.tables.values()] == restored
