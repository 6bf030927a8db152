"""Source ranges: for each prefix length that any of them has, a set of places and networks. Pure.

One set of intervals for all of them would be fewer words, but its cost grows with the square of what is in it: of
20,000 ranges the kernel takes 5 s to change one, and everybody waits. These are hash tables.
"""

from collections import Counter
from collections.abc import Iterable

from kubeproxy.kernel.nf_tables.types import Field, SetSpec

PREFIX = "firewall-sources-"
_KEY = (Field.ADDRESS, Field.PROTOCOL, Field.PORT, Field.SOURCE)


def set_of(length: int) -> str:
    """Return the name of the set for networks of a prefix length."""
    return f"{PREFIX}{length}"


def spec_of(length: int) -> SetSpec:
    """Return what makes that set."""
    return SetSpec(name=set_of(length), key=_KEY, comment=f"sources /{length} that may come through")


def length_of(name: str) -> int | None:
    """Return for which prefix length a set is; None when it is another kind of set."""
    number = name.removeprefix(PREFIX)
    return int(number) if number != name and number.isdecimal() and number == str(int(number)) else None


class Lengths:
    """The prefix lengths that ranges have, and those whose sets stand in the kernel."""

    def __init__(self) -> None:
        self.standing: set[int] = set()
        self._uses: Counter[int] = Counter()

    def count(self, come: Iterable[int], gone: Iterable[int] = ()) -> list[int]:
        """Count uses; return the lengths whose sets have to be made now."""
        self._uses.update(come)
        self._uses.subtract(gone)
        fresh = sorted(set(come) - self.standing)
        self.standing.update(fresh)
        return fresh

    def unused(self) -> list[int]:
        """Return the lengths whose sets stand for nothing."""
        return [length for length in self.standing if self._uses[length] <= 0]

    def drop(self, lengths: Iterable[int]) -> None:
        """Note that the sets of some lengths are gone."""
        self.standing.difference_update(lengths)
