"""What `agent_bed.py` needs to let an agent live through a history in nftables mode, over a model or the kernel.

What somebody does who "flushes a table" is told by its name: `nat` deletes the whole table, `filter` takes single
elements and rules out and puts others in, `mangle` empties sets.
"""

import errno
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from kubeproxy.dataplane.nftables.backend import NftablesBackend
from kubeproxy.dataplane.nftables.names import VERDICT_MAPS
from kubeproxy.dataplane.nftables.sets import DYNAMIC, SPECS
from kubeproxy.dataplane.nftables.watch import Commits
from kubeproxy.kernel.nf_tables.base import NfTable, Refused
from kubeproxy.kernel.nf_tables.expressions import Counter, Decide
from kubeproxy.kernel.nf_tables.fake import FakeNftables, FakeTable
from kubeproxy.kernel.nf_tables.types import (
    AddChain,
    AddRule,
    Chain,
    Change,
    DeleteElements,
    DeleteTable,
    Field,
    FlushChain,
    FlushSet,
    Rule,
)
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.settings import Settings
from tests.property.agent_bed import Agent, Kernel
from tests.property.saved_tables import Chains
from tests.property.strategies_histories import Cluster, History

T = TypeVar("T")


class Spoiled:
    """A table that may fail its next commit, in one of three ways: refused, not sent, or done and not answered."""

    def __init__(self, table: NfTable) -> None:
        self._table = table
        self.failure = 0
        """Which, 0: none."""
        self.exists, self.is_dormant, self.handle = table.exists, table.is_dormant, table.handle
        self.chains, self.rules = table.chains, table.rules
        self.sets, self.elements, self.generation = table.sets, table.elements, table.generation

    @property
    def family(self) -> Family:
        """See `NfTable`."""
        return self._table.family

    def commit(self, changes: Iterable[Change], after: int | None = None) -> int:
        """See `NfTable`."""
        failure, self.failure = self.failure, 0
        if failure == 1:
            raise Refused(errno.EINTR, "interrupted")
        if failure == 2:
            raise OSError(errno.EBADF, "the socket is gone")
        done = self._table.commit(changes, after)
        if failure == 3:
            raise OSError(errno.ENOBUFS, "the answer is lost")
        return done


class NftKernel:
    """See `agent_bed.Kernel`; everything happens where ``run`` calls it."""

    def __init__(self, tables: dict[Family, NfTable], run: Callable[[Callable[[], T]], T]) -> None:
        self.tables = tables
        self._run = run
        self._spoiled = {family: Spoiled(table) for family, table in tables.items()}
        self._commits = Commits()

    def run(self, function: Callable[[], T]) -> T:
        """See `agent_bed.Kernel.run`."""
        return self._run(function)  # type: ignore[arg-type, return-value]

    def backend(self, family: Family) -> NftablesBackend:
        """See `agent_bed.Kernel.backend`."""
        return NftablesBackend(self._spoiled[family], FakeSysctls(), family, self._commits)

    def spoil(self, family: Family, at_commit: int) -> None:
        """See `agent_bed.Kernel.spoil`."""
        self._spoiled[family].failure = at_commit

    def flush(self, family: Family, table: str) -> None:
        """See the module."""
        self.run(lambda: self._meddle(self.tables[family], table))

    def _meddle(self, table: NfTable, how: str) -> None:
        if not table.exists():
            return
        sets = sorted(table.sets().keys() - DYNAMIC)
        if how == "nat":
            table.commit([DeleteTable()])
        elif how == "mangle":
            table.commit([FlushSet(name) for name in sets if name not in VERDICT_MAPS])
        else:
            steps: list[Change] = [AddChain(Chain("debugging")), AddRule(Rule("services", (Counter(),)))]
            for name in sets[::2]:
                some = list(table.elements(name))[::2]
                steps += [DeleteElements(name, some)] if some else []
            table.commit([*steps, FlushChain("masquerading")])

    def saved(self, family: Family) -> dict[str, Chains]:
        """See `agent_bed.Kernel.saved`: there are no tables of iptables."""
        return {}

    def sets(self, family: Family) -> dict[str, set[object]]:
        """See `agent_bed.Kernel.sets`; and all chains, by their rules."""
        return described(self.tables[family])


class FakeNftKernel(NftKernel):
    """Over a model of the kernel."""

    def __init__(self) -> None:
        kernel = FakeNftables()
        self.fakes = {family: FakeTable(family, kernel=kernel) for family in Family}
        super().__init__(dict(self.fakes), lambda function: function())


def described(table: NfTable) -> dict[str, set[object]]:
    """Return all that a table holds, each class's number written as the chain that it leads to.

    Which of a place's endpoints has which slot is history; that they have the first slots is not.
    """
    if not table.exists():
        return {}
    found: dict[str, set[object]] = {}
    chains: dict[bytes, str] = {}
    for name in VERDICT_MAPS:
        for each in table.elements(name):
            assert isinstance(each.data, Decide)
            chains[each.key] = f"{chains.get(each.key, '')} {name} {each.data.chain}"
    for name in table.sets().keys() - DYNAMIC:
        elements = table.elements(name)
        if name in VERDICT_MAPS:
            found[name] = {each.data for each in elements}
        else:
            named = (msgspec.structs.replace(each, data=chains.get(each.data, each.data)) for each in elements)  # type: ignore[call-overload]
            has_slots = SPECS[name].key[-1] is Field.SLOT if name in SPECS else False
            if has_slots:
                found[f"{name}: slots"] = {each.key for each in table.elements(name)}
            found[name] = {
                (each.key[:-4] if has_slots else each.key, each.data, each.end, each.comment) for each in named
            }
    for chain in table.chains():
        found[f"chain {chain}"] = set(enumerate(table.rules(chain)))
    return found


def in_nftables_mode(settings: Settings) -> Settings:
    """Return settings as they are in nftables mode."""
    return msgspec.structs.replace(settings, ipvs=None, localhost_nodeports=False)


def live(history: History, kernel: Kernel) -> tuple[Cluster, Agent]:
    """Play a history, up to its last write, and let chains go that nobody needs any more."""
    cluster, agent = Cluster(), Agent(kernel, in_nftables_mode(history.settings))
    for step in history.steps:
        for event in step.events:
            agent.hear(event.happen(cluster))
        agent.turn(msgspec.structs.replace(step, settings=in_nftables_mode(step.settings)))
        agent.observe()
    agent.settle()
    agent.observe()
    agent.settle()
    return cluster, agent


def fresh(cluster: Cluster, settings: Settings, kernel: Kernel | None = None) -> Agent:
    """Return an agent that has written a cluster's state into an empty kernel."""
    agent = Agent(kernel or FakeNftKernel(), settings, cluster.world(backwards=True))
    agent.settle()
    return agent
