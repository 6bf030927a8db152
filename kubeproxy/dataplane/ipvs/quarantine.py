"""Service ports that the kernel refused, which nothing stands for, and when they are tried again. Pure.

Each is when its Service changes. One for whose entries a set had no room is too as soon as there is; and while
there is none, whoever comes next waits as well, and no sync fails for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from kubeproxy.dataplane import remarks
from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import NOTHING, Part
from kubeproxy.dataplane.ipvs.work import entries_of
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName

Room = Mapping[Set, int]
"""How many entries are wanted of sets, or may come into them."""


class Quarantine(remarks.Quarantine):
    """The ports of one family."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[ServicePortName, Room] = {}
        """Ports that wait for room in sets that were full, and what they need."""
        self._capacities: dict[Set, int] = {}
        """How many entries a set had when it was full."""

    def hold(self, name: ServicePortName, state: ServiceState, why: str, needs: Room | None = None) -> None:
        """Leave a port out; ``needs``: how many entries it needs room for in sets that were full, if it does."""
        super().hold(name, state, why)
        if needs:
            self._waiting[name] = needs

    def release(self, name: ServicePortName) -> bool:
        """See `remarks.Quarantine.release`."""
        self._waiting.pop(name, None)
        return super().release(name)

    def clear(self) -> None:
        """Have everything tried again."""
        super().clear()
        self._capacities.clear()

    def note_full(self, sizes: Room) -> None:
        """Note that sets took no more entries when they had so many."""
        self._capacities |= sizes

    def fitting(self, books: Books) -> dict[ServicePortName, ServiceState]:
        """Return ports that there is room for now, as many as fit together."""
        room = self._room(books) if self._waiting else {}
        if not any(left > 0 for left in room.values()):
            return {}
        return {name: self.states[name] for name, needs in self._waiting.items() if _take(room, needs)}

    def crowded(
        self, parts: Mapping[ServicePortName, Part | None], books: Books
    ) -> Iterator[tuple[ServicePortName, Room]]:
        """Yield the ports among those to be changed that there is no room for, with what they need."""
        if not self._capacities:
            return
        room = self._room(books)
        for name, part in parts.items():
            needs = self._needs(part or NOTHING, books)
            if not _take(room, needs):
                yield name, needs

    def _needs(self, part: Part, books: Books) -> Room:
        """Return how many entries a Part would bring into sets that were full once."""
        come = (which for which, member in entries_of(part) if not books.has_entry(which, member))
        return Counter(which for which in come if which in self._capacities)

    def _room(self, books: Books) -> dict[Set, int]:
        sizes = books.sizes()
        return {which: most - sizes[which] for which, most in self._capacities.items()}


def _take(room: dict[Set, int], needs: Room) -> bool:
    """Take what is needed of the room, all of it or nothing; return whether there was enough."""
    if any(count > room[which] for which, count in needs.items()):
        return False
    for which, count in needs.items():
        room[which] -= count
    return True
