"""Whether the kernel still holds what was written, looked at often and so at little cost.

The looks come every few seconds, and soon after the kernel tells of a change (addresses, routes, rules).

Sets tell by their size, the device by its number, rules by their canary. Virtual servers and routes are listed,
the more rarely the more there are; so are the entries of one set after the other, as its size does not tell of an
entry that was exchanged. Of the servers' destinations a few are looked at each time, all in turn.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import cycle

from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.kernel_state import KernelState
from kubeproxy.dataplane.ipvs.names import DEVICE, Set, set_name
from kubeproxy.dataplane.ipvs.refusals import key_text
from kubeproxy.dataplane.ipvs.rulebook import Rulebook
from kubeproxy.dataplane.ipvs.steps import Spot, spot
from kubeproxy.dataplane.ipvs.work import Work
from kubeproxy.kernel.ipvs_types import ServerKey
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

    def written(self) -> None:
        """Note that we have just changed virtual servers, or may have."""
        self._counted = self._state.count()

    def glance(self) -> str:
        """Return what others may have changed, "" when numbers show nothing."""
        count = self._state.count()
        if count != self._counted:
            return f"there are {count} virtual servers instead of {self._counted}"
        return self._rules.glance()

    def drift(self, books: Books) -> str:
        """Return how the kernel's state differs from the books, "" when nothing shows."""
        count = self._state.count()
        if count != self._counted:
            self._until_listing = 0
        looks: tuple[Callable[[Books], str], ...] = (
            self._in_addresses,
            self._in_sets,
            self._in_entries,
            lambda _: self._rules.drift(),
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

    def _in_lists(self, books: Books) -> str:
        """Look at what takes time in proportion to all Services."""
        if self._until_listing > 0:
            self._until_listing -= 1
            return ""
        self._until_listing = len(books.servers) // LISTED_A_LOOK
        return self._in_servers(books) or self._in_routes(books)

    def _in_routes(self, books: Books) -> str:
        missing = sorted(books.routed - self._state.routes().keys())
        return f"local address {missing[0]} on device {DEVICE} was deleted by somebody" if missing else ""

    def _in_servers(self, books: Books) -> str:
        found = self._state.servers()
        for key, server in books.servers.items():
            if key not in found:
                return f"virtual server {key_text(key)} was deleted by somebody"
            if found[key] != server:
                return f"virtual server {key_text(key)} was changed by somebody"
        for key in books.foreign:
            if key not in found:
                return f"somebody's virtual server {key_text(key)}, which was in the way, is gone"
        return ""

    def _in_destinations(self, books: Books) -> str:
        for key in self._next(books.servers):
            found = {spot(each.destination): each.destination.weight for each in self._state.destinations(key)}
            if _serving(found) != _serving(books.expected(key)):
                return f"destinations of virtual server {key_text(key)} were changed by somebody"
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


def _serving(weights: Mapping[Spot, int]) -> dict[Spot, int]:
    """Leave out what drains: if somebody deletes that, all the better."""
    return {place: weight for place, weight in weights.items() if weight}
