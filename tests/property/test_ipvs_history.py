"""ipvs mode's state depends on the World as it is now, never on the path taken to it.

Histories (with failures of every part of the kernel, restarts and other people's edits strewn in, while endpoints
have connections) are played against the model kernel. Afterwards, and once the connections have ended, it must
hold what a fresh agent writes for the same cluster into an empty one.
"""

import msgspec
import pytest
from hypothesis import given

from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import FOREIGN, Agent
from tests.property.ipvs_bed import OTHERS, FakeIpvsKernel, fresh, in_ipvs_mode, live
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import Batch, Cluster, History, histories

pytestmark = [pytest.mark.unit, PATIENCE]


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_any_history_leads_where_a_fresh_start_leads(large: bool, history: History) -> None:
    with treated_as_large(large):
        kernel = FakeIpvsKernel()
        cluster, agent = live(history, kernel)
        assert agent.state() == fresh(cluster, agent.settings).state()

        agent.cleanup()
        for family, (chain, rule) in FOREIGN.items():
            saved = kernel.saved(family)
            assert saved["nat"] == {"PREROUTING": [], "INPUT": [], "OUTPUT": [], chain: [rule]}
            assert not any(saved["filter"].values())
            assert not any(saved["mangle"].values())
            assert set(kernel.servers.servers(family)) == {OTHERS[family].key}
        assert kernel.device.kind is None
        assert all(agent.kernel.sets(family)["addresses"] == set() for family in Family)


@runs()
@given(histories(steps=STEPS, crowds=True))
def test_a_change_concerns_only_services_that_changed(history: History) -> None:
    kernel = FakeIpvsKernel()
    cluster, agent = Cluster(), Agent(kernel, in_ipvs_mode(history.settings))
    agent.settle()
    for step in history.steps:
        agent.sync()
        before = {family: desired(agent.world, agent.settings, family) for family in Family}
        batches = [event.happen(cluster) for event in step.events]
        for batch in batches:
            agent.hear(batch)
        restored = {family: len(tables.restored) for family, tables in kernel.tables.items()}
        runs_before = len(kernel.servers.runs)
        agent.sync()
        if any(batch.node is not None or batch.cidrs for batch in batches):
            continue
        addresses: set[str] = set()
        for family in Family:
            assert len(kernel.tables[family].restored) == restored[family]
            after = desired(agent.world, agent.settings, family)
            for name in before[family].keys() | after.keys():
                if before[family].get(name) != after.get(name):
                    for state in filter(None, (before[family].get(name), after.get(name))):
                        addresses |= {state.cluster_ip, *state.external_ips, *state.load_balancer_ips}
                        if state.node_port:
                            addresses.add(str(state.node_port))
        for run in kernel.servers.runs[runs_before:]:
            for command in run:
                key = command.server.key
                assert key.mark or key.address in addresses or str(key.port) in addresses


@runs(200 if LONG else 20)
@given(histories(steps=2))
def test_there_and_back_again_costs_nothing(history: History) -> None:
    kernel = FakeIpvsKernel()
    _, agent = live(history, kernel, busy=False)
    count = len(kernel.servers.runs)
    for key, service in list(agent.world.services.items()):
        other = msgspec.structs.replace(service, affinity_seconds=1, session_affinity=True)
        for each in (other, service):
            agent.hear(Batch(services={key: each}))
    agent.sync()
    assert len(kernel.servers.runs) == count
