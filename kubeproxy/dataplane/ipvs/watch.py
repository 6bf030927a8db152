"""Whether the kernel still holds what was written, looked at often and so at little cost.

The looks come every few seconds, and soon after the kernel tells of a change (addresses, routes, rules).

Sets tell by their size, the device by its number, rules by their canary; IPv4's virtual servers by how they were
made and how many destinations each has (`overviews`), and who differs is looked at. IPv6's, and routes, are
listed, the more rarely the more there are; so are the entries of one set after the other, as its size does not
tell of an entry that was exchanged. Of the servers' destinations a few are looked at each time, all in turn: that
finds weights, destinations that were exchanged, and whatever others do to IPv6's.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import cycle

from kubeproxy.dataplane.ipvs.books import Books, standing_of
from kubeproxy.dataplane.ipvs.kernel_state import KernelState
from kubeproxy.dataplane.ipvs.names import DEVICE, Set, set_name
from kubeproxy.dataplane.ipvs.overviews import Overviews
from kubeproxy.dataplane.ipvs.refusals import key_text
from kubeproxy.dataplane.ipvs.rulebook import Rulebook
from kubeproxy.dataplane.ipvs.steps import Spot, Standing, spot
from kubeproxy.dataplane.ipvs.work import Work
from kubeproxy.kernel.ipvs_types import Server, ServerKey
from kubeproxy.kernel.sets import entry_text
from kubeproxy.model.addresses import Family

LISTED_A_LOOK = 1000
"""With more of them, a listing comes at every second, third ... look."""
ENTRIES_A_LOOK = 1000
"""After a set with more of them, so many looks pass by without one as it has thousands."""
DESTINATIONS_A_LOOK = 20
"""Virtual servers whose destinations are looked at each time."""
DRAINING_A_LOOK = 200
"""Virtual servers that may be asked each time whether their last connections have ended."""
MOST_MENDED = 200
"""Virtual servers. Who changes more has mostly changed other things too, and a full sync finds all."""
MOST_NAMED = 3
"""Of them in a text."""

Amiss = Mapping[ServerKey, Standing | None]
"""Virtual servers of ours that others have changed, or deleted (None)."""


class Watch:
    """Looks at one family's state; methods raise KernelError and OSError."""

    def __init__(self, family: Family, state: KernelState, rules: Rulebook) -> None:
        self._family = family
        self._state = state
        self._rules = rules
        self._turns: Iterator[ServerKey] = iter(())
        self._until_listing = 0
        self._sets = cycle(Set)
        self._until_entries = 0
        self._counted: int | None = None
        """How many virtual servers there were when all was well."""
        self._overviews = Overviews(state)
        self._is_told = False
        """Whether the last look had an overview of all virtual servers, so that they need not be listed."""
        self._amiss: Amiss = {}

    def writing(self, work: Work) -> None:
        """Note what we are about to change."""
        self._overviews.writing(work)

    def written(self, *, full: bool = False) -> None:
        """Note that we have just changed virtual servers, or may have; ``full``: that all were corrected."""
        self._counted = self._state.count()
        if full:
            self._overviews.written_anew()

    @property
    def is_mendable(self) -> bool:
        """Whether the last look has found virtual servers of ours amiss and nothing else; until they are taken."""
        return bool(self._amiss)

    def take_amiss(self) -> Amiss:
        """Return, once, what the last look has found amiss if it was nothing but virtual servers of ours."""
        amiss, self._amiss = self._amiss, {}
        return amiss

    def glance(self, books: Books) -> str:
        """Return what others may have changed, "" when numbers show nothing."""
        count = self._state.count()
        if count != self._counted or self._overviews.is_due:
            suspects = self._overviews.suspects(books)
            if suspects:
                return f"{len(suspects)} virtual servers are not as they were"
            if suspects is None and count != self._counted:
                return f"there are {count} virtual servers instead of {self._counted}"
            self._counted = count  # somebody else's came or went
        return self._rules.glance()

    def drift(self, books: Books) -> str:
        """Return how the kernel's state differs from the books, "" when nothing shows."""
        self._amiss = {}
        count = self._state.count()
        looks: tuple[Callable[[Books], str], ...] = (
            self._in_addresses,
            self._in_sets,
            self._in_entries,
            lambda _: self._rules.drift(),
            lambda books: self._in_overview(books, is_count_same=count == self._counted),
            self._in_lists,
            self._in_destinations,
        )
        drift = next(filter(None, (look(books) for look in looks)), "")
        if not drift:
            self._counted = count
        return drift

    def end_drained(self, books: Books) -> None:
        """Delete destinations and virtual servers whose last connections have ended."""
        due = books.draining.due(DRAINING_A_LOOK)
        if due:
            work = Work()
            for key in due:
                books.drained(key, self._state.destinations(key), work)
            self.writing(work)
            self._state.perform(work)
            self.written()

    def _in_addresses(self, books: Books) -> str:
        if self._state.elsewhere() != books.elsewhere:
            return "this node's addresses have changed"
        if not self._state.has_device():
            return f"device {DEVICE} was deleted by somebody"
        return ""

    def _in_sets(self, books: Books) -> str:
        found = self._state.set_sizes()
        for which, size in books.sizes().items():
            name = set_name(self._family, which)
            if name not in found:
                return f"set {name} was destroyed by somebody"
            if found[name] != size:
                return f"set {name} has {found[name]} entries instead of {size}"
        return ""

    def _in_entries(self, books: Books) -> str:
        """Look into one set, whose size is right."""
        if self._until_entries > 0:
            self._until_entries -= 1
            return ""
        which = next(self._sets)
        found = self._state.members(which)
        self._until_entries = len(found) // ENTRIES_A_LOOK
        for member in found:
            if not books.wants_entry(which, member):
                return f"set {set_name(self._family, which)} has somebody's entry {entry_text(member)}"
        return ""

    def _in_overview(self, books: Books, *, is_count_same: bool) -> str:
        """Look at all virtual servers by what is told of them at once, and at the destinations of who differs."""
        suspects = self._overviews.suspects(books)
        self._is_told = suspects is not None
        if not self._is_told and not is_count_same:
            self._until_listing = 0
        if not suspects:
            return ""
        amiss: dict[ServerKey, Standing | None] = {}
        texts: list[str] = []
        for key, told in suspects.items():  # all, as what is harmless with one says nothing of the next
            standing = standing_of(told.server, self._state.destinations(key)) if told else None
            why = _is_otherwise(books, key, told.server if told else None)
            if not why and standing and _serving(standing.weights) != _serving(books.expected(key)):
                why = _leads_elsewhere(key)
            if why:
                amiss[key] = standing
                texts.append(why)
            if len(amiss) > MOST_MENDED:
                break
        self._overviews.settle()
        if len(amiss) <= MOST_MENDED and amiss.keys().isdisjoint(books.foreign):
            self._amiss = amiss
        return _joined(texts)

    def _in_lists(self, books: Books) -> str:
        """Look at what takes time in proportion to all Services."""
        if self._until_listing > 0:
            self._until_listing -= 1
            return ""
        self._until_listing = len(books.servers) // LISTED_A_LOOK
        return ("" if self._is_told else self._in_servers(books)) or self._in_routes(books)

    def _in_routes(self, books: Books) -> str:
        missing = sorted(books.routed - self._state.routes().keys())
        return f"local address {missing[0]} on device {DEVICE} was deleted by somebody" if missing else ""

    def _in_servers(self, books: Books) -> str:
        found = self._state.servers()
        texts = (_is_otherwise(books, key, found.get(key)) for key in (*books.servers, *books.foreign))
        return next(filter(None, texts), "")

    def _in_destinations(self, books: Books) -> str:
        for key in self._next(books.servers):
            found = {spot(each.destination): each.destination.weight for each in self._state.destinations(key)}
            if _serving(found) != _serving(books.expected(key)):
                return _leads_elsewhere(key)
        return ""

    def _next(self, servers: Collection[ServerKey]) -> list[ServerKey]:
        """Return whose turn it is."""
        chosen: list[ServerKey] = []
        while len(chosen) < min(DESTINATIONS_A_LOOK, len(servers)):
            key = next(self._turns, None)
            if key is None:
                self._turns = iter(list(servers))
            elif key in servers:
                chosen.append(key)
        return chosen


def _is_otherwise(books: Books, key: ServerKey, server: Server | None) -> str:
    """Return what somebody did to a virtual server of ours, or to one in our way, by how it stands; or ""."""
    if key in books.foreign:
        return "" if server else f"somebody's virtual server {key_text(key)}, which was in the way, is gone"
    if server is None:
        return f"virtual server {key_text(key)} was deleted by somebody"
    return f"virtual server {key_text(key)} was changed by somebody" if server != books.servers[key] else ""


def _leads_elsewhere(key: ServerKey) -> str:
    return f"destinations of virtual server {key_text(key)} were changed by somebody"


def _joined(texts: Sequence[str]) -> str:
    more = (f"and {len(texts) - MOST_NAMED} more",) if len(texts) > MOST_NAMED else ()
    return "; ".join((*texts[:MOST_NAMED], *more))


def _serving(weights: Mapping[Spot, int]) -> dict[Spot, int]:
    """Leave out what drains: if somebody deletes that, all the better."""
    return {place: weight for place, weight in weights.items() if weight}
