"""An agent that lives through a history, for both IP families, over a model of the kernel or over the real one.

It syncs as `sync.syncer` does (partial where it may, full where it must, again at once where that helps), but in
steps and in the calling thread.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from kubeproxy.dataplane.base import Backend, SyncFailed
from kubeproxy.dataplane.iptables.backend import IptablesBackend
from kubeproxy.dataplane.iptables.fake import FakeTables
from kubeproxy.dataplane.ipvs.rule_writer import Tables
from kubeproxy.kernel.exec import Result
from kubeproxy.kernel.fake_ipset import FakeSets
from kubeproxy.kernel.sysctl import FakeSysctls
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import wanted
from kubeproxy.model.ident import Key
from kubeproxy.model.node import NodeState, node_state
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from kubeproxy.sync.syncer import RESCUES
from tests.property.saved_tables import Chains, normal_table, parse
from tests.property.shares import folded
from tests.property.strategies_histories import Batch, Cluster, History, Step, Turn

T = TypeVar("T")

TABLES = ("nat", "filter", "mangle")
FOREIGN = {
    Family.V4: ("POSTROUTING", "-s 172.17.0.0/16 -j MASQUERADE"),
    Family.V6: ("POSTROUTING", "-s fd00:17::/64 -j MASQUERADE"),
}
"""A rule of somebody else's, which must stand whatever happens."""


class Kernel(Protocol):
    """Where an agent's state goes."""

    def backend(self, family: Family) -> Backend:
        """Make a new agent's backend over what there is."""
        ...

    def run(self, function: Callable[[], T]) -> T:
        """Call what touches the kernel."""
        ...

    def spoil(self, family: Family, at_commit: int) -> None:
        """Let the next write be refused at its so-manieth table; 0: do not any more."""
        ...

    def flush(self, family: Family, table: str) -> None:
        """Do what somebody does who empties a table and then adds the foreign rule again."""
        ...

    def saved(self, family: Family) -> dict[str, Chains]:
        """Return all tables."""
        ...

    def sets(self, family: Family) -> dict[str, set[object]]:
        """Return all sets of ours."""
        ...


class Spoiled:
    """The iptables programs, with a line that they refuse slipped into one text."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.at_commit = 0
        """Before which COMMIT of the next text the line is put; 0: before none."""
        self.save, self.save_all, self.in_use = tables.save, tables.save_all, tables.in_use
        self.fingerprint, self.has_match = tables.fingerprint, tables.has_match

    def restore(self, text: str | Iterable[str]) -> None:
        """See `backend.Tables.restore`."""
        pieces = [text] if isinstance(text, str) else text
        self._tables.restore(self._with_mistake(pieces) if self.at_commit else pieces)

    def _with_mistake(self, pieces: Iterable[str]) -> Iterator[str]:
        for piece in pieces:
            for line in piece.splitlines(keepends=True):
                if line == "COMMIT\n" and self.at_commit:
                    self.at_commit -= 1
                    if not self.at_commit:
                        yield "-A NO-SUCH-CHAIN -j ACCEPT\n"
                yield line
        self.at_commit = 0

    def run(self, *arguments: str, check: bool = True) -> Result:
        """See `backend.Tables.run`."""
        return self._tables.run(*arguments, check=check)


class FakeKernel:
    """The model kernel."""

    def __init__(self) -> None:
        self._sets = {family: FakeSets() for family in Family}
        self.tables = {family: FakeTables(self._sets[family]) for family in Family}
        self._spoiled = {family: Spoiled(tables) for family, tables in self.tables.items()}
        for family in Family:
            self._add_foreign(family)

    def backend(self, family: Family) -> IptablesBackend:
        """See `Kernel.backend`."""
        return IptablesBackend(self._spoiled[family], self._sets[family], FakeSysctls(), family)

    def run(self, function: Callable[[], T]) -> T:
        """See `Kernel.run`."""
        return function()

    def spoil(self, family: Family, at_commit: int) -> None:
        """See `Kernel.spoil`."""
        self._spoiled[family].at_commit = at_commit

    def flush(self, family: Family, table: str) -> None:
        """See `Kernel.flush`."""
        self.tables[family].flush(table)
        if table == "nat":
            self._add_foreign(family)

    def saved(self, family: Family) -> dict[str, Chains]:
        """See `Kernel.saved`."""
        return {table: parse(self.tables[family].save(table)) for table in TABLES}

    def sets(self, family: Family) -> dict[str, set[object]]:
        """See `Kernel.sets`."""
        return {name: set(members) for name, members in self._sets[family].sets.items()}

    def _add_foreign(self, family: Family) -> None:
        chain, rule = FOREIGN[family]
        self.tables[family].tables["nat"][chain].append(rule)


class Agent:
    """One agent after another on one node."""

    def __init__(self, kernel: Kernel, settings: Settings, world: World | None = None) -> None:
        self.kernel = kernel
        self.settings = settings
        self.world = world or World()
        self._touched: dict[Family, set[Key]] = {family: set() for family in Family}
        self._written_for: dict[Family, NodeState | None] = {}
        self.backends: dict[Family, Backend] = {}
        self.restart(settings)

    def restart(self, settings: Settings) -> None:
        """Forget everything but the World (a new agent is told of it again), with other settings."""
        self.settings = settings
        self.backends = {family: self.kernel.backend(family) for family in Family}
        self._written_for = dict.fromkeys(Family)

    def hear(self, batch: Batch) -> None:
        """Take over what informers deliver."""
        touched, _ = batch.deliver(self.world)
        for each in self._touched.values():
            each |= touched

    def sync(self) -> bool:
        """Bring both families up to date; return whether that succeeded."""
        done = [self._sync(family) for family in Family]
        return all(done)

    def _sync(self, family: Family) -> bool:
        backend, full = self.backends[family], False
        node = node_state(self.world, self.settings, family)
        for _ in range(RESCUES):
            full = full or backend.needs_full or node != self._written_for[family]
            keys, self._touched[family] = self._touched[family], set()
            scope = None if full else keys
            try:
                self.kernel.run(lambda scope=scope: self._write(backend, family, scope))  # type: ignore[misc]
            except SyncFailed as failure:
                self._touched[family] |= keys
                if full and not failure.culprits:
                    return False
                full = True
                continue
            self._written_for[family] = node
            return True
        return False

    def _write(self, backend: Backend, family: Family, scope: set[Key] | None) -> None:
        part = self.world.part(scope)
        plan = backend.diff(wanted(part, self.settings, family, scope), scope)
        if plan is not None:
            applied = backend.apply(plan)
            assert not applied.quarantined, applied.quarantined

    def observe(self) -> None:
        """Look for drift, as the syncer does every few seconds."""
        for backend in self.backends.values():
            self.kernel.run(backend.observe)

    def turn(self, step: Step) -> None:
        """Do what a step says."""
        if step.turn is Turn.RESTART:
            self.restart(step.settings)
        if step.turn in (Turn.FLUSH, Turn.SURPRISE):
            for family in Family:
                self.kernel.flush(family, step.table)
            if step.turn is Turn.FLUSH:
                self.observe()
        if step.turn is Turn.FAIL:
            for family in Family:
                self.kernel.spoil(family, 1 + TABLES.index(step.table))
        if step.turn is not Turn.SKIP:
            self.sync()
        for family in Family:
            self.kernel.spoil(family, 0)
        if step.turn is Turn.SURPRISE:
            self.observe()
            self.sync()

    def settle(self) -> None:
        """Sync until everything is in, as the retries do."""
        assert self.sync() or self.sync()

    def cleanup(self) -> None:
        """Remove everything."""
        for backend in self.backends.values():
            self.kernel.run(backend.cleanup)

    def state(self) -> dict[Family, tuple[dict[str, Chains], dict[str, set[object]]]]:
        """Return what the kernel holds, in a form that is equal when it means the same."""
        return {family: self._state(family) for family in Family}

    def _state(self, family: Family) -> tuple[dict[str, Chains], dict[str, set[object]]]:
        saved = self.kernel.run(lambda: self.kernel.saved(family))
        sets = self.kernel.run(lambda: self.kernel.sets(family))
        return {table: normal_table(folded(chains)) for table, chains in saved.items()}, sets


def live(history: History, kernel: Kernel) -> tuple[Cluster, Agent]:
    """Play a history, up to its last write."""
    cluster, agent = Cluster(), Agent(kernel, history.settings)
    for step in history.steps:
        for event in step.events:
            agent.hear(event.happen(cluster))
        agent.turn(step)
    agent.settle()
    return cluster, agent


def fresh(cluster: Cluster, settings: Settings, kernel: Kernel) -> Agent:
    """Return an agent that has written a cluster's state into an empty kernel."""
    agent = Agent(kernel, settings, cluster.world(backwards=True))
    agent.settle()
    return agent
