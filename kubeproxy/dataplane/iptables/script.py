"""Plan → the text of one iptables-restore, as a stream.

The kernel commits a table when its COMMIT line has been read, so everything that must precede the commit (the
new entries of the sets that its rules name) is done while the text streams, through the ``before_commit`` hook.
What is done after nat's takes no time from anybody: nat keeps the kernel busy longest. Full and changed text come
out of the same code; a full one has the fixed chains in front, and in the end deletes what it found in the kernel
and does not know, where a partial one deletes what the plan's ports have given up. What was found is asked for
late (``observed`` may still be reading it while the first half of the text streams).
Services' own chains come first; how the chains that they share change is known when all have been rendered.

A script is run once. Pure but for its hooks.
"""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from itertools import chain, islice

from kubeproxy.dataplane.base import Change, Plan
from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.dispatch import Dispatch, Edit, Rule
from kubeproxy.dataplane.iptables.jumps import Saved, declare, missing_jumps, target
from kubeproxy.dataplane.iptables.render import NOTHING as UNWRITTEN
from kubeproxy.dataplane.iptables.render import Fragment, Renderer, Unrenderable
from kubeproxy.dataplane.iptables.tables import JUMPS, Skeleton
from kubeproxy.dataplane.iptables.tally import Tally
from kubeproxy.dataplane.iptables.touched import given_up, touched
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName

BATCH = 64
"""Ports that are computed, then rendered, then written together: going to and fro between these would double what
each costs (the processor's caches hold one of them). Many more would let the program that reads wait, for the last
batch above all."""

Move = tuple[ServicePortName, Sequence[Rule], Sequence[Rule]]
"""What a port had in shared chains, and what it will have."""

Part = tuple[ServicePortName | None, str]
"""Some lines, and the port that they are about."""


class Script:
    """The restore text for a Plan."""

    def __init__(
        self,
        plan: Plan,
        renderer: Renderer,
        skeleton: Skeleton,
        dispatch: Dispatch,
        observed: Callable[[str], Saved],
        *,
        held: Mapping[ServicePortName, ServiceState] | None = None,
        prepare: Callable[[Change], str] = lambda change: "",
        on_written: Callable[[Change], None] = lambda written: None,
        on_batch: Callable[[Sequence[Change], Sequence[Change]], None] = lambda changes, written: None,
        before_commit: Callable[[str], None] = lambda table: None,
    ) -> None:
        """See `backend`; ``dispatch`` is what stands; for ``held`` states no rules may stand (quarantine).

        ``prepare`` makes what a change's new rules rely on, before they are text; it returns why there is none.
        ``on_written`` is told what of each change is written: with None where no rules stand for a state;
        ``on_batch`` is told many changes, and the same of them, before their text is handed over.
        """
        self._plan = plan
        self._renderer = renderer
        self._skeleton = skeleton
        self._observed = observed
        self._held = held or {}
        self._prepare = prepare
        self._on_written = on_written
        self._on_batch = on_batch
        self._before_commit = before_commit
        self._moves: list[Move] = []
        self._edits: dict[str, Edit] = {}
        self.dispatch = dispatch
        """What stands after the text, when it has been written."""
        self.tally = Tally(full=plan.full)
        self.unsafe: list[tuple[Change, str]] = []
        """Ports whose new state cannot be rendered, and so has no rules."""
        self.crowded: list[tuple[Change, str]] = []
        """Ports for which there is no room, and so have no rules."""

    def pieces(self) -> Iterator[str]:
        """Yield the text; nothing when there is nothing to write."""
        for parts in self._parts():
            if text := "".join([text for _, text in parts]):
                yield text
        self._moves.clear()  # while the kernel is still at work

    def owner(self, line: int) -> ServicePortName | None:
        """Write the text once more and return whose port a line (from 1) is about, None if nobody's."""
        last = 0
        for owner, text in chain.from_iterable(self._parts()):
            first, last = last, last + text.count("\n")
            if line <= last:
                return owner or self._whose(text.splitlines()[line - first - 1])
        return None

    def _whose(self, line: str) -> ServicePortName | None:
        """Return the port that has a rule in a shared chain."""
        rule = line.split(" ", 2)[-1]
        for name, before, after in self._moves:
            if any(rule == each.text for each in (*before, *after)):
                return name
        return None

    def _parts(self) -> Iterator[list[Part]]:
        yield from self._transaction("nat", self._nat())
        yield from self._transaction("filter", self._filter())
        if self._plan.full:
            # Last, so that a canary in mangle means that everything before it was written.
            yield _nobodys(f"*mangle\n{self._skeleton.mangle()}COMMIT\n")

    def _transaction(self, table: str, lines: Iterator[list[Part]]) -> Iterator[list[Part]]:
        """Yield the lines of one table as a transaction; without any none, for legacy replaces the whole table."""
        is_open = False
        for parts in lines:
            if not is_open and any(text for _, text in parts):
                is_open = True
                yield _nobodys(f"*{table}\n")
            yield parts
        if is_open:
            self._before_commit(table)
            yield _nobodys("COMMIT\n")

    def _filter(self) -> Iterator[list[Part]]:
        if self._plan.full:
            yield _nobodys(self._fixed("filter"))
        edit = self._edits["filter"]
        yield from self._shared("filter", edit)
        yield _nobodys(self._ending("filter", edit.declared, edit.gone))

    def _nat(self) -> Iterator[list[Part]]:
        if self._plan.full:
            yield _nobodys(self._fixed("nat"))
        written: list[str] = []
        gone: list[str] = []
        while changes := list(islice(self._plan.changes, BATCH)):
            yield self._own(changes, written, gone)
        self.dispatch, self._edits = self.dispatch.moved((before, after) for _, before, after in self._moves)
        edit = self._edits["nat"]
        yield from self._shared("nat", edit)
        yield _nobodys(self._ending("nat", written + edit.declared, gone + edit.gone))

    def _own(self, changes: list[Change], written: list[str], gone: list[str]) -> list[Part]:
        """Return the ports' own chains that differ; add to those that a full plan writes, and to those that go."""
        found = [self._rendered(change) for change in changes]
        self._on_batch(changes, [done for done, _, _ in found])
        self._moves += [(done.name, before.rules, after.rules) for done, before, after in found]
        if self._plan.full:
            texts = [after.text for _, _, after in found]
            self.tally.own(texts)
            for _, _, after in found:
                written += after.every_chain
        else:
            moves = [(before, after) for _, before, after in found]
            texts = [touched(before, after) for before, after in moves]
            self.tally.own(texts, moves)
            for before, after in moves:
                gone += given_up(before, after)
        return [(done.name, text) for (done, _, _), text in zip(found, texts, strict=True) if text]

    def _shared(self, table: str, edit: Edit) -> Iterator[list[Part]]:
        """Yield how a table's shared chains change."""
        self.tally.shared(table, edit)
        yield _nobodys(declare(edit.declared))
        for start in range(0, len(edit.lines), BATCH):
            yield _nobodys(*edit.lines[start : start + BATCH])

    def _ending(self, table: str, written: list[str], gone: list[str]) -> str:
        """Return the lines that add what jumps are missing and remove the chains that nobody needs any more."""
        if not self._plan.full:
            return removal(gone, set())
        found = self._observed(table)
        stale = sorted(chain for chain in found.chains.difference(written) if names.varies(table, chain))
        return missing_jumps(JUMPS, table, found) + removal(stale, {target(rule) for rule in found.rules})

    def _fixed(self, table: str) -> str:
        lines = self._skeleton.lines(table)
        self.tally.fixed(table, lines)
        return lines

    def _rendered(self, change: Change) -> tuple[Change, Fragment, Fragment]:
        """Return what of a change is written, and the port's rules before and after."""
        before = UNWRITTEN if change.before is None else self._fragment(change.before, None)
        after = UNWRITTEN if change.after is None else self._fragment(change.after, change)
        done = _written(change, before, after)
        self._on_written(done)
        return done, before, after

    def _fragment(self, state: ServiceState, wanted_by: Change | None) -> Fragment:
        if self._held and self._held.get(state.name) == state:
            return UNWRITTEN
        try:
            fragment = self._renderer.render(state)
        except Unrenderable as error:
            if wanted_by is not None:
                self.unsafe.append((wanted_by, str(error)))
            return UNWRITTEN
        if wanted_by is not None and (why := self._prepare(wanted_by)):
            self.crowded.append((wanted_by, why))
            return UNWRITTEN
        return fragment


def _nobodys(*texts: str) -> list[Part]:
    return [(None, text) for text in texts]


def _written(change: Change, before: Fragment, after: Fragment) -> Change:
    if (before is UNWRITTEN) is (change.before is None) and (after is UNWRITTEN) is (change.after is None):
        return change
    return Change(
        change.name,
        None if before is UNWRITTEN else change.before,
        None if after is UNWRITTEN else change.after,
    )


def removal(chains: Sequence[str], needed: Container[str]) -> str:
    """Return the lines that delete chains, but of those that are ``needed`` only the rules."""
    # All are emptied before the first is deleted: they lead to each other. What a foreign rule leads to cannot go.
    empty = "".join([f":{chain} - [0:0]\n" for chain in chains])
    return empty + "".join([f"-X {chain}\n" for chain in chains if chain not in needed])
