"""Service ports that the kernel refused, which nothing stands for, and when they are tried again. Pure.

Each is when its Service changes. One for whose entries a set had no room is too as soon as there is; and while
there is none, whoever comes next waits as well, and no sync fails for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

from kubeproxy.dataplane.ipvs.books import Books
from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import NOTHING, Part
from kubeproxy.dataplane.ipvs.work import entries_of
from kubeproxy.model.desired import ServiceState
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Record

Room = Mapping[Set, int]
"""How many entries are wanted of sets, or may come into them."""


class Held(Record, frozen=True):
    """A port in quarantine."""

    state: ServiceState
    why: str
    needs: Room
    """How many entries it needs room for in sets that were full; empty when that was not the matter."""


class Quarantine:
    """The ports of one family."""

    def __init__(self) -> None:
        self.held: dict[ServicePortName, Held] = {}
        self._capacities: dict[Set, int] = {}
        """How many entries a set had when it was full."""

    def hold(self, name: ServicePortName, state: ServiceState, why: str, needs: Room) -> None:
        """Leave a port out; ``needs``: see `Held`."""
        self.held[name] = Held(state, why, needs)

    def holds(self, name: ServicePortName, state: ServiceState) -> bool:
        """Return whether nothing may stand for this state of a port."""
        held = self.held.get(name)
        return held is not None and held.state == state

    def keep(self, states: Mapping[ServicePortName, ServiceState]) -> None:
        """Let go of all ports that have changed since or are gone: ``states`` are those of now."""
        for name in [name for name, held in self.held.items() if states.get(name) != held.state]:
            del self.held[name]

    def clear(self) -> None:
        """Have everything tried again."""
        self.held.clear()
        self._capacities.clear()

    def note_full(self, sizes: Room) -> None:
        """Note that sets took no more entries when they had so many."""
        self._capacities |= sizes

    def fitting(self, books: Books) -> dict[ServicePortName, ServiceState]:
        """Return ports that there is room for now, as many as fit together."""
        room = self._room(books) if any(held.needs for held in self.held.values()) else {}
        waiting = ((name, held) for name, held in self.held.items() if held.needs)
        return {name: held.state for name, held in waiting if _take(room, held.needs)}

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
