"""ipvs mode's state depends on the World as it is now, never on the path taken to it.

Histories (with failures of every part of the kernel, restarts and other people's edits strewn in, while endpoints
have connections) are played against the model kernel. Afterwards, and once the connections have ended, it must
hold what a fresh agent writes for the same cluster into an empty one.
"""

import pytest
from hypothesis import given

from kubeproxy.model.addresses import Family
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import FOREIGN, Agent
from tests.property.changes_bed import hear_there_and_back, heard
from tests.property.ipvs_bed import OTHERS, FakeIpvsKernel, fresh, in_ipvs_mode, live
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import History, histories

pytestmark = [pytest.mark.unit, PATIENCE]


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_any_history_leads_where_a_fresh_start_leads(large: int, history: History) -> None:
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
    agent = Agent(kernel, in_ipvs_mode(history.settings))
    for step in heard(history, agent):
        restored = {family: len(tables.restored) for family, tables in kernel.tables.items()}
        runs_before = len(kernel.servers.runs)
        agent.sync()
        if step.concerns_all:
            continue
        addresses: set[str] = set()
        for family in Family:
            assert len(kernel.tables[family].restored) == restored[family]
            for state in (each for states in step.changed(family).values() for each in states):
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
    hear_there_and_back(agent)
    agent.sync()
    assert len(kernel.servers.runs) == count
