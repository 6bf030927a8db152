"""Whether the kernel still holds what was written, looked at every few seconds and so at little cost.

Every transaction in the network namespace, anybody's, raises one number. Unless others raised it there is nothing
to look at; and when they did, what they changed is mostly some other table.
"""

from collections.abc import Iterable

from kubeproxy.dataplane.nftables.books import Books
from kubeproxy.dataplane.nftables.reading import survey
from kubeproxy.dataplane.nftables.survey import Correction
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.types import AddElements, DeleteElements
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState

ELEMENTS_A_LOOK = 20_000
"""With more of them in the table, their listing comes at every second, third ... look."""


class Commits:
    """How many transactions this process has done; each family's thread counts its own."""

    def __init__(self) -> None:
        self._of = dict.fromkeys(Family, 0)

    def add(self, family: Family, count: int) -> None:
        """Count some."""
        self._of[family] += count

    def total(self) -> int:
        """Return the number of both families'."""
        return sum(self._of.values())


class Watch:
    """Looks at one family's table; methods raise KernelError and OSError."""

    def __init__(self, table: NfTable, commits: Commits) -> None:
        self._table = table
        self._commits = commits
        self._seen = 0
        """The number that others' transactions had brought it to when all was well."""
        self._until_listing = 0

    def begin(self) -> None:
        """Note that all is as it should be: call it before the table is read or written as a whole."""
        self._seen = self._others()
        self._until_listing = 0

    def drift(self, books: Books, states: Iterable[ServiceState]) -> str:
        """Return how the table differs from the books, "" when nothing shows; ``states``: all that stand."""
        others = self._others()
        if others == self._seen:
            return ""
        drift = self._in_structure(books) or self._in_rules(books)
        if drift:
            return drift
        if self._until_listing > 0:
            self._until_listing -= 1
            return ""
        try:
            drift = self._in_elements(books, states)
        except DumpInterrupted:
            return ""  # others are at it; the next look is soon enough
        if not drift:
            self._seen = others
        return drift

    def _others(self) -> int:
        own = self._commits.total()  # before: one that is counted late makes a look too many
        return self._table.generation() - own

    def _in_structure(self, books: Books) -> str:
        found = survey(self._table, deep=False)
        if not found.stands:
            return "the table was deleted by somebody"
        if found.strange:
            return found.strange
        missing = sorted((books.set_names() - found.sets) | (books.chain_names() - found.chains))
        return f"{missing[0]} was deleted by somebody" if missing else ""

    def _in_rules(self, books: Books) -> str:
        for chain, rules in sorted(books.rules().items()):
            if self._table.rules(chain) != rules:
                return f"rules of chain {chain} were changed by somebody"
        return ""

    def _in_elements(self, books: Books, states: Iterable[ServiceState]) -> str:
        found = survey(self._table)
        if found.strange:
            return found.strange
        self._until_listing = sum(map(len, found.elements.values())) // ELEMENTS_A_LOOK
        correction = Correction(found)
        for step in (*correction.towards(books.standing(states)), *correction.rest()):
            assert isinstance(step, AddElements | DeleteElements)
            return f"{len(step.elements)} elements of {step.set} were changed by somebody"
        return ""
