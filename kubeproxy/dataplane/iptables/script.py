"""Plan → the text of one iptables-restore, as a stream.

The kernel commits a table when its COMMIT line has been read, so everything that must precede the commit (the
sets' new entries) is done while the text streams, through the ``before_commit`` hook. Full and
changed text come out of the same code; a full one has the fixed chains in front, and in the end deletes what it
found in the kernel and does not know, where a partial one deletes what the plan's ports have given up. What
was found is asked for late (``observed`` may still be reading it while the first half of the text streams).

A script is run once. Pure but for its hooks.
"""

from collections.abc import Callable, Iterator, Mapping

from kubeproxy.dataplane.base import Change, Plan
from kubeproxy.dataplane.iptables import dispatch, names
from kubeproxy.dataplane.iptables.jumps import Saved, missing_jumps, target
from kubeproxy.dataplane.iptables.render import NOTHING as UNWRITTEN
from kubeproxy.dataplane.iptables.render import Fragment, Renderer, Unrenderable
from kubeproxy.dataplane.iptables.tables import JUMPS, Skeleton
from kubeproxy.dataplane.iptables.tally import Tally
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName

PIECE = 64
"""Ports a piece of text: large enough that handing it over costs nothing, small enough to start early."""

Part = tuple[ServicePortName | None, str]
"""Some lines, and the port that they are about."""


class Script:
    """The restore text for a Plan."""

    def __init__(
        self,
        plan: Plan,
        renderer: Renderer,
        skeleton: Skeleton,
        observed: Callable[[str], Saved],
        *,
        held: Mapping[ServicePortName, ServiceState] | None = None,
        prepare: Callable[[Change], str] = lambda change: "",
        on_change: Callable[[Change, Change], None] = lambda change, written: None,
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """See `backend`; ``held`` are states that no rules may stand for (quarantine).

        ``prepare`` makes what a change's new rules rely on, before they are text; it returns why there is none.
        ``on_change`` is told each change, and what of it is written: with None where no rules stand for a state.
        """
        self._plan = plan
        self._renderer = renderer
        self._skeleton = skeleton
        self._observed = observed
        self._held = held or {}
        self._prepare = prepare
        self._on_change = on_change
        self._before_commit = before_commit
        self._filter: list[Part] = []
        self.tally = Tally(full=plan.full)
        self.unsafe: list[tuple[Change, str]] = []
        """Ports whose new state cannot be rendered, and so has no rules."""
        self.crowded: list[tuple[Change, str]] = []
        """Ports for which there is no room, and so have no rules."""

    def pieces(self) -> Iterator[str]:
        """Yield the text."""
        piece: list[str] = []
        for _, text in self._parts():
            piece.append(text)
            if len(piece) == PIECE:
                yield "".join(piece)
                piece.clear()
        yield "".join(piece)

    def owner(self, line: int) -> ServicePortName | None:
        """Write the text once more and return whose port a line (from 1) is about, None if nobody's."""
        last = 0
        for owner, text in self._parts():
            last += text.count("\n")
            if line <= last:
                return owner
        return None

    def _parts(self) -> Iterator[Part]:
        full = self._plan.full
        yield from self._nat()
        if full or self._filter:
            yield None, "*filter\n" + (self._fixed("filter", self._skeleton.filter()) if full else "")
            yield from self._filter
            if full:
                yield None, missing_jumps(JUMPS, "filter", self._observed("filter"))
            yield None, "COMMIT\n"
        if full:
            # Last, so that a canary in mangle means that everything before it was written.
            yield None, f"*mangle\n{self._skeleton.mangle()}COMMIT\n"

    def _nat(self) -> Iterator[Part]:
        full = self._plan.full
        yield None, "*nat\n" + (self._fixed("nat", self._skeleton.nat()) if full else "")
        written: list[str] = []
        gone: list[str] = []
        needed: set[str] = set()
        for change in self._plan.changes:
            before, after = self._rendered(change.before), self._rendered(change.after, change)
            self._on_change(change, _written(change, before, after))
            body = after.body if after.body != before.body else ""
            self.tally.port(before, after)
            yield change.name, body + dispatch.moved(before.nat_rules, after.nat_rules)
            written += after.chains
            gone += [chain for chain in before.chains if chain not in after.chains]
            if before.filter_rules != after.filter_rules:
                self._filter.append((change.name, dispatch.moved(before.filter_rules, after.filter_rules)))
        if full:
            found = self._observed("nat")
            yield None, missing_jumps(JUMPS, "nat", found)
            gone = sorted(c for c in found.chains.difference(written) if names.is_service_chain(c))
            needed = {target(rule) for rule in found.rules}
        yield None, _removal(gone, needed)
        self._before_commit()
        yield None, "COMMIT\n"

    def _fixed(self, table: str, lines: str) -> str:
        self.tally.fixed(table, lines)
        return lines

    def _rendered(self, state: ServiceState | None, wanted_by: Change | None = None) -> Fragment:
        if state is None or (self._held and self._held.get(state.name) == state):
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


def _written(change: Change, before: Fragment, after: Fragment) -> Change:
    if (before is UNWRITTEN) is (change.before is None) and (after is UNWRITTEN) is (change.after is None):
        return change
    return Change(
        change.name,
        None if before is UNWRITTEN else change.before,
        None if after is UNWRITTEN else change.after,
    )


def _removal(chains: list[str], needed: set[str]) -> str:
    # All are emptied before the first is deleted: they lead to each other. What a foreign rule leads to cannot go.
    empty = "".join([f":{chain} - [0:0]\n" for chain in chains])
    return empty + "".join([f"-X {chain}\n" for chain in chains if chain not in needed])
