"""Whether the kernel still holds what was written, looked at every few seconds and so at little cost.

Every transaction in the network namespace, anybody's, raises one number. Unless others raised it there is nothing
to look at; and when they did, what they changed is mostly some other table.
"""

from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from kubeproxy.dataplane.nftables.books import Books
from kubeproxy.dataplane.nftables.edits import Edits
from kubeproxy.dataplane.nftables.journal import Journal
from kubeproxy.dataplane.nftables.reading import read_rules, survey
from kubeproxy.dataplane.nftables.survey import Correction
from kubeproxy.kernel.netlink import DumpInterrupted
from kubeproxy.kernel.nf_tables.base import NfTable
from kubeproxy.kernel.nf_tables.types import AddElements, DeleteElements
from kubeproxy.model.addresses import Family
from kubeproxy.model.desired import ServiceState

ELEMENTS_A_LOOK = 20_000
"""With more of them in the table, their listing comes at every second, third ... look while nobody listens."""


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


class _Moment(NamedTuple):
    """A point in the table's history."""

    generation: int
    hearing: int
    """See `Journal.hearing`."""
    others: int | None
    """How many transactions were others' until then, but for a constant; None when ours came between."""


class Watch:
    """Looks at one family's table; methods raise KernelError and OSError.

    ``journal``: what was heard of others' changes. What was heard of in full need not be looked for.
    """

    def __init__(self, table: NfTable, commits: Commits, journal: Journal) -> None:
        self._table = table
        self._commits = commits
        self._journal = journal
        self._well: _Moment | None = None
        """When all was as it should be, None when that is not known."""
        self._undone: _Moment | None = None
        """Until when all will be well once what was taken is undone."""
        self._seen = 0
        """The generation at the last look: up to there all has been told by the next, if nothing was lost."""
        self._has_waited = False
        """Whether the last look left it to others to undo what was heard."""
        self._until_listing = 0
        """How many looks are to come first, while nobody listens."""

    def begin(self) -> None:
        """Note that all is as it should be: call it before the table is read or written as a whole."""
        self._journal.take()  # the kernel tells of what is done already: it will be read
        self._well = self._now()
        self._until_listing = 0

    def drift(self, books: Books, states: Iterable[ServiceState], unneeded: Set[str]) -> str:
        """Return how the table differs from the books, "" when nothing shows.

        ``states``: all that stand; ``unneeded``: chains that are still to be deleted.
        """
        now = self._now()
        seen, self._seen = self._seen, now.generation
        if self._is_well(now):
            self._well = now
            return ""
        if self._is_heard(now, seen):
            return ""  # What others do just now will be told; `_well` stays where that is known.
        if self._journal.has_edits and not self._has_waited:
            self._has_waited = True
            return ""  # They are on their way to whoever undoes them, unless their end is never told.
        self._has_waited = False
        try:
            return self._look(books, states, unneeded, now)
        except DumpInterrupted:
            return ""  # others are at it; the next look is soon enough

    def take(self) -> Edits | None:
        """Return what others have changed since all was well, None when not all of it is known.

        All is well only when it has been undone: see `undone`.
        """
        well, now = self._well, self._now()
        taken = self._journal.take()
        self._well = self._undone = None
        if well is None or not taken.hearing or taken.hearing != well.hearing:
            return None
        if not taken.heard.goes_on_from(well.generation):
            return None
        until = max(well.generation, taken.heard.last)
        self._undone = now if until >= now.generation else now._replace(generation=until, others=None)
        return taken.edits

    def undone(self) -> None:
        """Note that what was taken last has been undone."""
        self._well = self._undone

    @property
    def has_edits(self) -> bool:
        """Return whether something of others' waits to be undone."""
        return self._journal.has_edits

    def _is_well(self, now: _Moment) -> bool:
        well = self._well
        if well is None:
            return False
        if well.others is not None and well.others == now.others:
            return True
        return self._is_heard(now, now.generation)

    def _is_heard(self, now: _Moment, until: int) -> bool:
        """Return whether nothing was missed since all was well, and all until a generation was told and well."""
        well = self._well
        if well is None or not now.hearing or now.hearing != well.hearing:
            return False
        return self._journal.is_quiet(well.generation, until)

    def _look(self, books: Books, states: Iterable[ServiceState], unneeded: Set[str], now: _Moment) -> str:
        drift = self._in_structure(books, unneeded) or self._in_rules(books)
        if drift:
            return drift
        # Who listens has come here because something was missed, and looks no more once it was compared. What a
        # neighbour costs who makes us miss more all the time is bounded by the share of time that looks have.
        if not now.hearing and self._until_listing > 0:
            self._until_listing -= 1
            return ""
        drift = self._in_elements(books, states)
        if not drift:
            self._well = now
        return drift

    def _now(self) -> _Moment:
        hearing, own = self._journal.hearing, self._commits.total()
        generation = self._table.generation()
        is_known = own is not None and own == self._commits.total()
        return _Moment(generation, hearing, generation - own if is_known and own is not None else None)

    def _in_structure(self, books: Books, unneeded: Set[str]) -> str:
        found = survey(self._table, deep=False)
        if not found.stands:
            return "the table was deleted by somebody"
        if found.strange:
            return found.strange
        if found.dormant:
            return "the table was put to sleep (flags dormant) by somebody"
        missing = sorted((books.set_names() - found.sets) | (books.chain_names() - found.chains))
        if missing:
            return f"{missing[0]} was deleted by somebody"
        added = sorted(found.chains - books.chain_names() - unneeded)
        return f"chain {added[0]} was added by somebody" if added else ""

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
