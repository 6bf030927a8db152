"""Destinations that nobody wants any more and that keep their connections until these have ended. Pure.

They stand in the kernel with weight 0, and so are found again after a restart. `Draining` says what is to be
looked at next, and what a look means.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from itertools import islice

from kubeproxy.dataplane.ipvs.steps import Spot, spot
from kubeproxy.kernel.ipvs_types import Command, Destination, Found, Server, ServerKey, Verb


class Draining:
    """What drains, by virtual server."""

    def __init__(self) -> None:
        self.spots: dict[ServerKey, frozenset[Spot]] = {}
        """Destinations; the virtual server that was looked at longest ago comes first."""
        self.unwanted: dict[ServerKey, Server] = {}
        """Virtual servers that go with their last destination."""
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many destinations drain."""
        return sum(map(len, self.spots.values()))

    def holds(self, address: str) -> bool:
        """Return whether a virtual address is still needed for connections of a virtual server that goes."""
        return self._addresses[address] > 0

    def note(self, key: ServerKey, spots: Collection[Spot], unwanted: Server | None) -> None:
        """Replace what drains of a virtual server; ``unwanted``: it goes with the last of them."""
        if spots:
            self.spots[key] = frozenset(spots)
        else:
            self.spots.pop(key, None)
        self._note_unwanted(key, unwanted if spots else None)

    def _note_unwanted(self, key: ServerKey, server: Server | None) -> None:
        then = self.unwanted.pop(key, None)
        if then is not None:
            self._addresses[key.address] -= 1
        if server is not None:
            self.unwanted[key] = server
            self._addresses[key.address] += 1

    def due(self, limit: int) -> list[ServerKey]:
        """Return up to ``limit`` virtual servers to look at; each gets its turn."""
        chosen = list(islice(self.spots, limit))
        for key in chosen:
            self.spots[key] = self.spots.pop(key)
        return chosen

    def looked(self, key: ServerKey, found: Iterable[Found]) -> tuple[list[Command], bool]:
        """Take in a look at a virtual server; return what to delete of it, and whether it goes as a whole.

        What is not there any more is forgotten: somebody else has deleted it.
        """
        have = {spot(each.destination): each for each in found}
        if key in self.unwanted:
            # What is left of closed connections (TIME_WAIT, for two minutes) is no reason to refuse others.
            is_done = not is_used(have.values())
            if is_done:
                self.note(key, (), None)
            return [], is_done
        there = [place for place in self.spots[key] if place in have]
        drained = [place for place in there if _is_empty(have[place])]
        self.note(key, [place for place in there if not _is_empty(have[place])], None)
        return [Command(Verb.DELETE_DESTINATION, Server(key), Destination(*place)) for place in drained], False


def is_used(found: Iterable[Found]) -> bool:
    """Return whether established connections lead through a virtual server with these destinations."""
    return any(each.active for each in found)


def _is_empty(found: Found) -> bool:
    # A connection that is only being opened counts as inactive.
    return not found.active + found.inactive
