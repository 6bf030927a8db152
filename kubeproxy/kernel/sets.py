"""The kernel's ipsets of one IP family, as the backends see them. Pure."""

from collections.abc import Sequence
from typing import Protocol

from kubeproxy.kernel.ipset_messages import Member, SetType

SetChange = tuple[str, Sequence[Member], Sequence[Member]]
"""A set's name, what comes into it, what leaves it."""


class Sets(Protocol):
    """The sets. Blocking; one thread at a time."""

    def create(self, name: str, kind: SetType) -> bool:
        """Make a set unless there is one of this name and type; return whether there was room for it."""
        ...

    def members(self, name: str) -> set[Member]:
        """Return what is in a set."""
        ...

    def purge(self, name: str) -> None:
        """Take out of a set whatever `members` does not tell of: entries that ours never are."""
        ...

    def apply(self, changes: Sequence[SetChange]) -> None:
        """Change sets in this order, each set's new entries before those that leave it; in one call if few.

        What is in or out already does no harm. A mark that is added at a place takes the old one's place there,
        and so the old one need not leave: its deletion is passed over. Raises ipset.EntriesRefused.
        """
        ...

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """Put entries in; those that are in already do no harm. Raises ipset.EntriesRefused."""
        ...

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """Take entries out; those that are not in do no harm. Raises ipset.EntriesRefused."""
        ...

    def named(self, prefix: str) -> set[str]:
        """Return the names of this family's sets, and of those without a family, that begin so."""
        ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Return how many entries each of them has; one question, whatever is in them."""
        ...

    def destroy(self, name: str) -> bool:
        """Remove a set unless a rule refers to it; return whether it is gone (or never was)."""
        ...


class SizedSets(Sets, Protocol):
    """Sets of which a single one is asked for its size cheaply, however many others there are."""

    def size(self, name: str) -> int | None:
        """Return how many entries a set has, None when it is not there."""
        ...


class AlsoRead:
    """Sets that are written in one place and read in two: ipsets, and those of nftables. See `Sets`."""

    def __init__(self, sets: Sets, other: Sets) -> None:
        """See the class; ``other`` is only read."""
        self._sets = sets
        self._other = other

    def create(self, name: str, kind: SetType) -> bool:
        """See `Sets.create`."""
        return self._sets.create(name, kind)

    def members(self, name: str) -> set[Member]:
        """Return what is in a set in either place."""
        found = [each.members(name) for each in (self._sets, self._other) if name in each.named(name)]
        return found[0].union(*found[1:]) if found else self._sets.members(name)

    def purge(self, name: str) -> None:
        """See `Sets.purge`."""
        self._sets.purge(name)

    def apply(self, changes: Sequence[SetChange]) -> None:
        """See `Sets.apply`."""
        self._sets.apply(changes)

    def add(self, name: str, entries: Sequence[Member]) -> None:
        """See `Sets.add`."""
        self._sets.add(name, entries)

    def delete(self, name: str, entries: Sequence[Member]) -> None:
        """See `Sets.delete`."""
        self._sets.delete(name, entries)

    def named(self, prefix: str) -> set[str]:
        """Return the names of sets in either place."""
        return self._sets.named(prefix) | self._other.named(prefix)

    def sizes(self, prefix: str) -> dict[str, int]:
        """See `Sets.sizes`."""
        return self._sets.sizes(prefix)

    def destroy(self, name: str) -> bool:
        """See `Sets.destroy`."""
        return self._sets.destroy(name)


def entry_text(member: Member) -> str:
    """Write a member as `ipset` does."""
    if isinstance(member, str | int):
        return str(member)
    text = f"{member[0]},{member[1].lower()}:{member[2]}"
    if len(member) == 4:
        return f"{text},{member[3]}"
    return f"{text} skbmark {member[3]:#x}/{member[4]:#x}" if len(member) == 5 else text


def without_replaced(kind: SetType | None, adds: Sequence[Member], deletes: Sequence[Member]) -> Sequence[Member]:
    """Return the deletions that are left when a new mark takes the old one's place."""
    if kind is not SetType.MARKS or not adds or not deletes:
        return deletes
    places = {_place(entry) for entry in adds}
    return [entry for entry in deletes if _place(entry) not in places]


def _place(entry: Member) -> object:
    return entry[:3] if isinstance(entry, tuple) else entry
