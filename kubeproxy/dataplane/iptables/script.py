"""Plan → the text of one iptables-restore, as a stream.

The kernel commits a table when its COMMIT line has been read, so everything that must precede the commit (the
hairpin set's new entries) is done while the text streams, through the ``before_commit`` hook. Full and
changed text come out of the same code; a full one has the fixed chains in front, and deletes what it found
in the kernel and does not know, where a partial one deletes what the plan's ports have given up.

A script is run once. Pure but for its hooks.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping

from kubeproxy.dataplane.base import Change, Plan
from kubeproxy.dataplane.iptables import dispatch, names
from kubeproxy.dataplane.iptables.render import NOTHING, Fragment, Renderer, UnsafeName
from kubeproxy.dataplane.iptables.tables import Saved, Skeleton
from kubeproxy.model.ident import ServicePortName

PIECE = 64
"""Ports a piece of text: large enough that handing it over costs nothing, small enough to start early."""


class Script:
    """The restore text for a Plan, and which line of it belongs to whom."""

    def __init__(
        self,
        plan: Plan,
        renderer: Renderer,
        skeleton: Skeleton,
        observed: Mapping[str, Saved],
        on_change: Callable[[Change], None],
        before_commit: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._renderer = renderer
        self._skeleton = skeleton
        self._observed = observed
        self._on_change = on_change
        self._before_commit = before_commit
        self._line = 1
        self._starts: list[int] = []
        self._owners: list[ServicePortName | None] = []
        self._filter: list[tuple[ServicePortName, str]] = []
        self.unsafe: list[tuple[Change, str]] = []
        """Ports that were left out because they cannot be rendered."""

    def pieces(self) -> Iterator[str]:
        """Yield the text."""
        yield from self._nat()
        if self._plan.full or self._filter:
            yield self._count("*filter\n", None)
            if self._plan.full:
                yield self._count(self._skeleton.filter(self._observed["filter"]), None)
            for name, text in self._filter:
                yield self._count(text, name)
            yield self._count("COMMIT\n", None)
        if self._plan.full:
            # Last, so that a canary in mangle means that everything before it was written.
            yield self._count(f"*mangle\n{self._skeleton.mangle()}COMMIT\n", None)

    def owner(self, line: int) -> ServicePortName | None:
        """Return whose port a line of the text (from 1) belongs to, None if nobody's."""
        found = bisect_right(self._starts, line) - 1
        return self._owners[found] if found >= 0 else None

    def _count(self, text: str, owner: ServicePortName | None) -> str:
        self._starts.append(self._line)
        self._owners.append(owner)
        self._line += text.count("\n")
        return text

    def _nat(self) -> Iterator[str]:
        yield self._count("*nat\n", None)
        written: set[str] = set()
        gone: list[str] = []
        if self._plan.full:
            yield self._count(self._skeleton.nat(self._observed["nat"]), None)
        piece: list[str] = []
        for change in self._plan.changes:
            fragments = self._fragments(change)
            if fragments is None:
                continue
            before, after = fragments
            text = _nat_text(before, after)
            if text:
                piece.append(self._count(text, change.name))
            if self._plan.full:
                written.update(after.chains)
            elif before.chains != after.chains:
                gone += [chain for chain in before.chains if chain not in after.chains]
            moved = dispatch.moved(before.filter_rules, after.filter_rules)
            if moved:
                self._filter.append((change.name, moved))
            self._on_change(change)
            if len(piece) >= PIECE:
                yield "".join(piece)
                piece.clear()
        if self._plan.full:
            gone = sorted(
                c for c in self._observed["nat"].chains if names.is_service_chain(c) and c not in written
            )
        yield "".join(piece)
        yield self._count(_removal(gone), None)
        self._before_commit()
        yield self._count("COMMIT\n", None)

    def _fragments(self, change: Change) -> tuple[Fragment, Fragment] | None:
        try:
            before = self._renderer.render(change.before) if change.before else NOTHING
            after = self._renderer.render(change.after) if change.after else NOTHING
        except UnsafeName as error:
            self.unsafe.append((change, str(error)))
            return None
        return before, after


def _nat_text(before: Fragment, after: Fragment) -> str:
    body = after.body if after.body != before.body else ""
    return body + dispatch.moved(before.nat_rules, after.nat_rules)


def _removal(chains: list[str]) -> str:
    # All are emptied before the first is deleted: they lead to each other.
    empty = "".join([f":{chain} - [0:0]\n" for chain in chains])
    return empty + "".join([f"-X {chain}\n" for chain in chains])
