"""Whether the kernel still holds what was written, looked at every few seconds and so at little cost.

Every transaction in the network namespace, anybody's, raises one number. Unless others raised it there is nothing
to look at; and when they did, what they changed is mostly some other table.
"""

from collections.abc import Callable, Iterable

from kubeproxy.dataplane.nftables.books import Books
from kubeproxy.dataplane.nftables.reading import read_rules, survey
from kubeproxy.dataplane.nftables.survey import Correction
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.types import AddElements, DeleteElements
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState

ELEMENTS_A_LOOK = 20_000
"""With more of them in the table, their listing comes at every second, third ... look."""


class Commits:
    """How many transactions this process has done; each family's thread counts its own, and may read all."""

    def __init__(self) -> None:
        self._done = dict.fromkeys(Family, 0)
        self._in_flight = dict.fromkeys(Family, False)

    def count(self, family: Family, commit: Callable[[], int]) -> None:
        """Do what returns how many it has done, and count them. Raises what it raises."""
        self._in_flight[family] = True
        try:
            self._done[family] += commit()
        finally:
            self._in_flight[family] = False

    def total(self) -> int | None:
        """Return the number of both families', None while one is in flight: the kernel may have counted it."""
        # In this order: one that begins and ends in between is in the number.
        return None if any(self._in_flight.values()) else sum(self._done.values())


class Watch:
    """Looks at one family's table; methods raise KernelError and OSError."""

    def __init__(self, table: NfTable, commits: Commits) -> None:
        self._table = table
        self._commits = commits
        self._seen: int | None = None
        """The number that others' transactions had brought it to when all was well, None when it is not known."""
        self._until_listing = 0

    def begin(self) -> None:
        """Note that all is as it should be: call it before the table is read or written as a whole."""
        self._seen = self._others()
        self._until_listing = 0

    def drift(self, books: Books, states: Iterable[ServiceState]) -> str:
        """Return how the table differs from the books, "" when nothing shows; ``states``: all that stand."""
        others = self._others()
        if others is not None and others == self._seen:
            return ""
        try:
            return self._look(books, states, others)
        except DumpInterrupted:
            return ""  # others are at it; the next look is soon enough

    def _look(self, books: Books, states: Iterable[ServiceState], others: int | None) -> str:
        drift = self._in_structure(books) or self._in_rules(books)
        if drift:
            return drift
        if self._until_listing > 0:
            self._until_listing -= 1
            return ""
        drift = self._in_elements(books, states)
        if not drift:
            self._seen = others
        return drift

    def _others(self) -> int | None:
        """Return how many transactions were others', but for a constant; None when ours come between."""
        own = self._commits.total()
        generation = self._table.generation()
        return generation - own if own is not None and own == self._commits.total() else None

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
            if read_rules(self._table, chain) != rules:
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
