"""The chains that all Services share: how rules that lead to a Service, or refuse for it, enter and leave them.

Each such chain is the root of a tree by destination (`tree.py`), so a packet meets a few rules, not one for every
Service, and a change writes the chains on the way to its place. With few Services the root is all that there is.
None of the rules depends on another's place in its chain, but for two: fixed rules of a root stand behind the
rules of addresses, and who is let past a refusal (RETURN) is asked before it.

`Dispatch` is a value: what stands in the kernel. `moved` gives the next one, and the lines that lead there; who
cannot bring them in keeps the old one.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.places import PORT_DIGITS, match
from kubeproxy.dataplane.iptables.tree import EMPTY, Changes, Content, changes
from kubeproxy.model.addresses import Family
from kubeproxy.model.objects import Record


@dataclass(frozen=True, eq=False, slots=True)
class Shared:
    """A chain that Services share, as far as it is about one kind of place; compared by identity."""

    table: str
    chain: str
    letter: str
    """In the names of its branches."""
    by_port: bool = False
    """Whether its places are node ports: any address."""
    ahead: bool = False
    """Whether its rules stand in front of all others of the chain, else behind them."""


SERVICES = Shared("nat", names.SERVICES, "S", ahead=True)
NODEPORTS = Shared("nat", names.NODEPORTS, "N", by_port=True)
ELSEWHERE = Shared("filter", names.SERVICES, "S", ahead=True)
EXTERNAL = Shared("filter", names.EXTERNAL_SERVICES, "E", ahead=True)
EXTERNAL_PORTS = Shared("filter", names.EXTERNAL_SERVICES, "P", by_port=True)
FIREWALL = Shared("filter", names.PROXY_FIREWALL, "F")
HEALTH_CHECKS = Shared("filter", names.NODEPORTS, "H", by_port=True)
EVERY = (SERVICES, NODEPORTS, ELSEWHERE, EXTERNAL, EXTERNAL_PORTS, FIREWALL, HEALTH_CHECKS)

FEW = 100
"""So many rules are put in, or taken out, one by one."""


class Rule(Record, frozen=True):
    """A rule in a chain that Services share."""

    shared: Shared
    entry: str
    """Its place, a space, and its text as iptables-save would print it, without verb and chain."""

    @property
    def text(self) -> str:
        """Return what it says, wherever in the tree it stands."""
        return self.entry.partition(" ")[2]

    def __str__(self) -> str:
        """Return it as if it stood at the root."""
        return f"{self.shared.chain} {self.text}"


class Edit(msgspec.Struct):
    """How a table's shared chains change."""

    declared: list[str]
    """Chains to make."""
    lines: list[str]
    """Lines that take out rules, then those that put some in."""
    gone: list[str]
    """Chains that nothing leads to any more; their rules are not taken out."""
    added: int = 0
    """So many rules are written."""
    removed: int = 0
    """So many go, with their chains or alone."""


class Dispatch:
    """The rules in every shared chain of one family."""

    def __init__(self, family: Family, rules: Mapping[Shared, list[str]] | None = None) -> None:
        """See the module; without ``rules`` there are none."""
        self._family = family
        self._rules = rules or {}

    def moved(self, moves: Iterable[tuple[Sequence[Rule], Sequence[Rule]]]) -> tuple["Dispatch", dict[str, Edit]]:
        """Replace rules, (old, new) for each Service port; return what then stands, and how each table changes."""
        gone: dict[Shared, list[str]] = {shared: [] for shared in EVERY}
        come: dict[Shared, list[str]] = {shared: [] for shared in EVERY}
        for old, new in moves:
            if not old and len(new) == 1:  # nearly all, at a start
                come[new[0].shared].append(new[0].entry)
                continue
            was, will = dict.fromkeys(old), dict.fromkeys(new)
            for rule in was:
                if rule not in will:
                    gone[rule.shared].append(rule.entry)
            for rule in will:
                if rule not in was:
                    come[rule.shared].append(rule.entry)
        after = dict(self._rules)
        edits = {table: Edit([], [], []) for table in ("nat", "filter")}
        for shared in EVERY:
            leaving, coming = gone[shared], come[shared]
            if leaving or coming:
                before = self._rules.get(shared, [])
                after[shared] = _exchanged(before, leaving, coming)
                self._edit(shared, before, after[shared], sorted(leaving + coming), edits[shared.table])
        return Dispatch(self._family, after), edits

    def sizes(self, table: str) -> Counter[str]:
        """Return how many rules of Services, and branches for them, each chain of a table has."""
        sizes: Counter[str] = Counter()
        for writer, tree in self._trees(table):
            for prefix, found in tree.items():
                sizes[writer.chain(prefix)] += len(found.rules) + len(found.branches)
        return sizes

    def filling(self, table: str, chains: Container[str]) -> Iterator[str]:
        """Yield the lines that fill these chains of a table, which hold their fixed rules and no others."""
        for writer, tree in self._trees(table):
            for prefix, found in tree.items():
                if writer.chain(prefix) in chains:
                    yield from writer.filling(prefix, found)

    def _trees(self, table: str) -> Iterator[tuple["_Writer", Mapping[str, Content]]]:
        for shared, rules in self._rules.items():
            if shared.table == table and rules:
                tree = changes([], rules, rules, self._width(shared)).after
                yield _Writer(shared, self._family), tree

    def _width(self, shared: Shared) -> int:
        return PORT_DIGITS + (0 if shared.by_port else self._family.host_bits // 4)

    def _edit(self, shared: Shared, before: list[str], after: list[str], touched: list[str], edit: Edit) -> None:
        found = changes(before, after, touched, self._width(shared))
        _Writer(shared, self._family).write(found, edit)


def _exchanged(before: Sequence[str], leaving: Sequence[str], coming: Sequence[str]) -> list[str]:
    # Each that leaves or comes alone moves all behind it: of many at once, all are gone through once.
    if len(leaving) > FEW:
        after = _without(before, Counter(leaving))
    else:
        after = list(before)
        for entry in leaving:
            at = bisect_left(after, entry)
            if after[at : at + 1] == [entry]:
                del after[at]
    if len(coming) > FEW:
        after += coming
        after.sort()
    else:
        for entry in coming:
            insort(after, entry)
    return after


def _without(entries: Iterable[str], leaving: Counter[str]) -> list[str]:
    """Return what stays when so many of each leave."""
    stay: list[str] = []
    for entry in entries:
        if leaving[entry] > 0:
            leaving[entry] -= 1
        else:
            stay.append(entry)
    return stay


class _Writer:
    """Writes one tree, and how it changes."""

    def __init__(self, shared: Shared, family: Family) -> None:
        self._shared = shared
        self._family = family

    def write(self, found: Changes, edit: Edit) -> None:
        """Add the lines to an edit; no rule may lead to a chain that is not there yet, or any more."""
        deleted: list[str] = []
        added: list[str] = []
        for prefix, content in found.after.items():
            old = found.before.get(prefix, EMPTY)
            chain = self.chain(prefix)
            if prefix in found.before or not prefix:
                had, has = Counter(self._rules(prefix, old)), Counter(self._rules(prefix, content))
                gone, new = list((had - has).elements()), list((has - had).elements())
                deleted += [f"-D {chain} {rule}\n" for rule in gone]
                ahead = not prefix and self._shared.ahead
                added += self._additions(chain, new, ahead=ahead)
                edit.removed += len(gone)
                edit.added += len(new)
            else:
                edit.declared.append(chain)
                new = list(self._rules(prefix, content))
                added += self._additions(chain, new)
                edit.added += len(new)
        for prefix, content in found.before.items():
            if prefix not in found.after:
                edit.gone.append(self.chain(prefix))
                edit.removed += len(content.rules) + len(content.branches)
        edit.lines += deleted
        edit.lines += added

    def _additions(self, chain: str, rules: Iterable[str], *, ahead: bool = False) -> list[str]:
        """Return the lines that put rules in, so that they stand in the order in which they leave.

        iptables looks for each that leaves from the front: 5,000 source ranges, the last first, took nft 34 s.
        """
        front: list[str] = []
        behind: list[str] = []
        for rule in rules:
            (front if ahead or rule.endswith("-j RETURN") else behind).append(rule)
        return [f"-I {chain} {rule}\n" for rule in reversed(front)] + [f"-A {chain} {rule}\n" for rule in behind]

    def filling(self, prefix: str, content: Content) -> list[str]:
        """Return the lines that fill one chain."""
        ahead = not prefix and self._shared.ahead
        return self._additions(self.chain(prefix), self._rules(prefix, content), ahead=ahead)

    def chain(self, prefix: str) -> str:
        """Return the name of the chain of a prefix."""
        return names.branch_chain(self._shared.letter, prefix) if prefix else self._shared.chain

    def _rules(self, prefix: str, content: Content) -> Iterator[str]:
        # A packet that finds nothing below comes back to the root, which may have more to say.
        verb = "-g" if prefix else "-j"
        for branch in content.branches:
            where = match(branch, self._family, by_port=self._shared.by_port)
            yield f"{where}{verb} {self.chain(branch)}"
        for entry in content.rules:
            yield entry.partition(" ")[2]
