"""iptables' state depends on the World as it is now, never on the path taken to it.

Histories (with failures, restarts and external flushes strewn in) are played against the model kernel, which
refuses dangling jumps and deletions of chains in use; `tests/netns/test_iptables_histories.py` plays them
against the real one. Afterwards the kernel must hold what a fresh agent writes for the same cluster into an
empty one.
"""

import pytest
from hypothesis import given

from kubeproxy.dataplane.iptables.census import census
from kubeproxy.dataplane.iptables.names import port_hash
from kubeproxy.dataplane.iptables.render import Renderer
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import desired
from kubeproxy.model.node import node_state
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import FOREIGN, Agent, FakeKernel, fresh, live
from tests.property.changes_bed import hear_there_and_back, heard
from tests.property.runs import LONG, PATIENCE, STEPS, runs
from tests.property.strategies_histories import History, histories

pytestmark = [pytest.mark.unit, PATIENCE]


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_any_history_leads_where_a_fresh_start_leads(large: int, history: History) -> None:
    with treated_as_large(large):
        cluster, agent = live(history, FakeKernel())
        assert agent.state() == fresh(cluster, agent.settings, FakeKernel()).state()
        assert all(is_tallied(agent, family) for family in Family)

        agent.cleanup()
        for family, (chain, rule) in FOREIGN.items():
            saved = agent.kernel.saved(family)
            assert saved["nat"] == {"PREROUTING": [], "INPUT": [], "OUTPUT": [], chain: [rule]}
            assert not any(saved["filter"].values())
            assert agent.kernel.sets(family) == {}


def is_tallied(agent: Agent, family: Family) -> bool:
    """Return whether the backend knows how many rules of its own there are in each table."""
    backend, tables = agent.backends[family], agent.kernel.tables[family]  # type: ignore[attr-defined]
    counts = [(each.standing, census(each.table, tables.save(each.table)).total) for each in backend._rules]  # type: ignore[attr-defined]
    return len(counts) == 2 and all(known == found for known, found in counts)


@pytest.mark.parametrize("large", SIZES)
@runs()
@given(histories(steps=STEPS, crowds=True))
def test_a_change_writes_only_chains_of_services_that_changed(large: int, history: History) -> None:
    with treated_as_large(large):
        writes_only_what_changed(history)


def writes_only_what_changed(history: History) -> None:
    kernel = FakeKernel()
    agent = Agent(kernel, history.settings)
    for step in heard(history, agent):
        counts = {family: len(tables.restored) for family, tables in kernel.tables.items()}
        saved = {family: kernel.saved(family) for family in Family}
        agent.sync()
        if step.concerns_all:
            continue
        for family in Family:
            new = kernel.tables[family].restored[counts[family] :]
            assert len(new) == (kernel.saved(family) != saved[family])
            text = "".join(new)
            # A shared chain that branches, or need not any more, takes others' rules along.
            written = {line.split()[1] if line[0] == "-" else line for line in text.splitlines()}
            ports = desired(agent.world, agent.settings, family)
            others = ports.keys() - step.changed(family).keys()
            hashes = [port_hash(name) for name in others]
            assert not [chain for chain in written if any(each in chain for each in hashes)]
            render = Renderer(node_state(agent.world, agent.settings, family)).render
            assert not written & {chain for name in others for chain in render(ports[name]).every_chain}
            assert ":KUBE-SERVICES" not in text


@pytest.mark.parametrize("large", SIZES)
@runs(200 if LONG else 20)
@given(histories(steps=2))
def test_there_and_back_again_costs_nothing(large: int, history: History) -> None:
    with treated_as_large(large):
        kernel = FakeKernel()
        _, agent = live(history, kernel)
        restored = [len(tables.restored) for tables in kernel.tables.values()]
        hear_there_and_back(agent)
        agent.sync()
        assert [len(tables.restored) for tables in kernel.tables.values()] == restored
