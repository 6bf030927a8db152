"""Whatever others do to chains of iptables mode, and whenever: after a repair stands what stood before.

Each step of a history is followed by edits of somebody's, which are repaired, refused once in a while, and go on
to a full sync where the repairer says so. With iptables-nft each edit is told; without, a look counts.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubeproxy.dataplane.base import Repairer
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.machine import others_changes
from kubeproxy.dataplane.iptables.tables import is_ours
from kubeproxy.dataplane.iptables.told import Told
from kubeproxy.kernel.notice_messages import TableNotice
from kubeproxy.model.addresses import Family
from tests.large_services import SIZES, treated_as_large
from tests.property.agent_bed import FOREIGN, Agent, FakeKernel, fresh
from tests.property.runs import HISTORIES, PATIENCE, STEPS, runs
from tests.property.saved_tables import Chains, normal_table
from tests.property.strategies_histories import Cluster, History, histories
from tests.property.test_iptables_history import is_tallied

pytestmark = [pytest.mark.unit, PATIENCE]

MOST_EDITS = 3


def _delete(chains: Chains, chain: str, at: int) -> None:
    del chains[chain][at % len(chains[chain])]


def _empty(chains: Chains, chain: str, _: int) -> None:
    chains[chain].clear()


def _vanish(chains: Chains, chain: str, _: int) -> None:
    """Delete a chain and all that leads to it."""
    del chains[chain]
    for rules in chains.values():
        rules[:] = [rule for rule in rules if chain not in rule.split()]


def _add(chains: Chains, chain: str, at: int) -> None:
    chains[chain].insert(at % (len(chains[chain]) + 1), "-s 192.0.2.1/32 -j RETURN")


def _replace(chains: Chains, chain: str, at: int) -> None:
    _delete(chains, chain, at)
    _add(chains, chain, at)


TAKEN: tuple[Callable[[Chains, str, int], None], ...] = (_delete, _empty, _vanish)
"""What takes rules away. A count that is the same afterwards is not seen, so in one turn all take, or all add."""


class Edits(NamedTuple):
    """What somebody does between two syncs."""

    takes: bool
    replaces: bool
    places: list[tuple[str, int, int]]
    """A table; the number of a chain, and of a rule, among those that are there."""
    is_refused: bool
    """Whether the repair is."""


EDITS = st.builds(
    Edits,
    st.booleans(),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["nat", "filter"]), st.integers(0, 999), st.integers(0, 99)),
        max_size=MOST_EDITS,
    ),
    st.sampled_from([False] * 5 + [True]),
)


class Edited(FakeKernel):
    """The model kernel, where somebody edits chains; with ``told`` that is told as iptables-nft's kernel does."""

    def __init__(self, is_told: bool) -> None:
        self.told = {family: others_changes() for family in Family} if is_told else dict[Family, Told]()
        super().__init__()

    def backend(self, family: Family) -> IptablesBackend:
        backend = super().backend(family)
        if family in self.told:
            # The listener of a new agent has heard of nothing.
            told = self.told[family] = others_changes()
            backend = IptablesBackend(backend._tables, backend._sets, backend._sysctls, family, told=told)
        return backend

    def edit(self, family: Family, edits: Edits) -> None:
        for table, which, at in edits.places:
            chains = self.tables[family].tables[table]
            ours = [chain for chain in chains if is_ours(table, chain) or self._only_jumps(family, chains[chain])]
            found = [chain for chain in ours if chains[chain]] if edits.takes else ours
            found = [chain for chain in found if is_ours(table, chain) or edits.takes]
            if not found:
                continue
            chain = found[which % len(found)]
            before = {name: list(rules) for name, rules in chains.items()}
            if not edits.takes:
                _add(chains, chain, at)
            elif edits.replaces and self.told and is_ours(table, chain):
                _replace(chains, chain, at)
            else:
                can_go = names.varies(table, chain)
                TAKEN[at % (len(TAKEN) if can_go else len(TAKEN) - 1)](chains, chain, at)
            if family in self.told:
                self._tell(self.told[family], table, before, chains)

    def _only_jumps(self, family: Family, rules: list[str]) -> bool:
        return bool(rules) and FOREIGN[family][1] not in rules

    def _tell(self, told: Told, table: str, before: Chains, after: Chains) -> None:
        for chain, old in before.items():
            for rule in old:
                if rule not in after.get(chain, []):
                    body = b"\0".join(word.encode() for word in rule.split()) + b"\0"
                    told.note(TableNotice(1, "rule", True, table, chain, body))
            if chain not in after:
                told.note(TableNotice(1, "chain", True, table, chain, chain.encode()))
            elif len(after[chain]) > len(old) or after[chain] != old:
                told.note(TableNotice(1, "rule", False, table, chain, b""))


@pytest.mark.parametrize("is_told", [False, True], ids=["legacy", "nft"])
@pytest.mark.parametrize("large", SIZES)
@runs(HISTORIES // 2)
@given(histories(steps=STEPS, crowds=True), st.lists(EDITS, min_size=STEPS + 1, max_size=STEPS + 1))
def test_what_others_edit_between_any_syncs_is_put_right(
    large: int, is_told: bool, history: History, edits: list[Edits]
) -> None:
    with treated_as_large(large):
        kernel = Edited(is_told)
        cluster, agent = Cluster(), Agent(kernel, history.settings)
        for step, edited in zip(history.steps, edits, strict=False):
            for event in step.events:
                agent.hear(event.happen(cluster))
            agent.turn(step)
            for family in Family:
                _meet(agent, kernel, family, edited)
        agent.settle()
        assert _ordered(agent) == _ordered(fresh(cluster, agent.settings, FakeKernel()))
        assert all(is_tallied(agent, family) for family in Family)


def _meet(agent: Agent, kernel: Edited, family: Family, edits: Edits) -> None:
    """Let somebody edit what is in sync, and have it repaired as the syncer does."""
    backend = agent.backends[family]
    backend.observe()
    if backend.needs_full:
        return
    before, written = _saved(kernel, family), kernel.saved(family)
    kernel.edit(family, edits)
    if kernel.saved(family) == written:
        return
    assert backend.observe()
    kernel.spoil(family, int(edits.is_refused))
    repairer = backend.repairer
    assert isinstance(repairer, IptablesBackend)
    is_done = _repaired(repairer)
    kernel.spoil(family, 0)
    if is_done:
        assert _saved(kernel, family) == before
        assert backend.needs_full is (family not in kernel.told), "who counts has not seen all"
        agent.settle()
    else:
        agent._written_for[family] = None  # the syncer distrusts it: the next sync is a full one
        agent.settle()


def _saved(kernel: Edited, family: Family) -> dict[str, Chains]:
    return {table: _jumps_sorted(normal_table(chains)) for table, chains in kernel.saved(family).items()}


def _ordered(agent: Agent) -> object:
    state = agent.state()
    return {
        family: ({table: _jumps_sorted(chains) for table, chains in tables.items()}, sets)
        for family, (tables, sets) in state.items()
    }


def _jumps_sorted(chains: Chains) -> Chains:
    """Return a table without the order of jumps: one that is added anew goes to the head, as with a full sync."""
    return {chain: sorted(rules) if chain.isalpha() else rules for chain, rules in chains.items()}


def _repaired(repairer: Repairer) -> bool:
    return repairer.repair(whole=False)
