"""A long list in runs: one that differs from it in a few places shares all other runs with it. Pure.

A Service of ten thousand endpoints changes by a few of them at a time. In a list of runs such a change makes one
or two runs anew; what was derived from the others is still known, and who compares two lists sees by identity
which runs they share. So a step between a changed slice and the kernel costs the change and a look at each run.

Threads: lists and runs are values, which any thread may ask.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeGuard, TypeVar, cast, final, overload

SIZE, MOST = 128, 256
"""Entries of a run that is made of many, and of one that is not divided yet."""


class Texted(Protocol):
    """What has a text that no other entry of its list has."""

    @property
    def text(self) -> str:
        """The entry's identity, and its place in the list."""


T = TypeVar("T", bound=Texted)
R = TypeVar("R", bound=Texted)
A = TypeVar("A")
V = TypeVar("V")

by_text: Callable[[Texted], str] = attrgetter("text")


class Run(Generic[T]):
    """Neighbours in a list, at least one. Compared by identity."""

    __slots__ = ("_derived", "entries")

    def __init__(self, entries: tuple[T, ...]) -> None:
        self.entries = entries
        self._derived: dict[object, tuple[object, Any]] = {}

    def derived(self, make: Callable[[tuple[T, ...], A], V], argument: A) -> V:
        """Return what ``make`` makes of the entries: made once for as long as the argument stays the same.

        It must not hold this run: there would be a cycle through values that the garbage collector passes over.
        """
        known = self._derived.get(make)
        if known is None or known[0] != argument:
            known = self._derived[make] = argument, make(self.entries, argument)
        return cast(V, known[1])


@final
class Runs(Sequence[T]):
    """A list sorted by text. Equal to another, or to a tuple, when the entries are.

    Go through it in order: who asks by index (as Sequence's `index` and `reversed` do) passes by runs each time.
    """

    __slots__ = ("_length", "runs")

    def __init__(self, runs: Iterable[Run[T]] = ()) -> None:
        """Take runs in their order."""
        self.runs = tuple(runs)
        self._length = sum([len(run.entries) for run in self.runs])

    @classmethod
    def of(cls, entries: Sequence[T]) -> "Runs[T]":
        """Divide a sorted list."""
        return cls(_divided(entries))

    def get(self, text: str) -> T | None:
        """Return the entry that has a text."""
        if not self.runs:
            return None
        entries = self.runs[max(bisect_right(self.runs, text, key=_first) - 1, 0)].entries
        place = bisect_left(entries, text, key=by_text)
        return entries[place] if place < len(entries) and entries[place].text == text else None

    def replaced(self, changes: Mapping[str, T | None]) -> "Runs[T]":
        """Return the list with some entries replaced, added or (None) without them, by text."""
        by_run: dict[int, dict[str, T | None]] = {}
        for text, entry in changes.items():
            by_run.setdefault(max(bisect_right(self.runs, text, key=_first) - 1, 0), {})[text] = entry
        runs = list(self.runs)
        for at in sorted(by_run, reverse=True):
            here: dict[str, T | None] = {each.text: each for run in runs[at : at + 1] for each in run.entries}
            entries = [each for each in (here | by_run[at]).values() if each is not None]
            runs[at : at + 1] = _divided(sorted(entries, key=by_text))
        found = Runs(runs)
        # Where most entries have gone, what is left are many small runs.
        return found if len(runs) <= 4 + 4 * len(found) // SIZE else Runs.of(list(found))

    def made(self, make: "Callable[[tuple[T, ...], A], Run[R] | None]", argument: A) -> "Runs[R]":
        """Return the list of what ``make`` makes of each run (None: nothing). See `Run.derived`."""
        found = [run.derived(make, argument) for run in self.runs]
        return Runs([run for run in found if run is not None])

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable([run.entries for run in self.runs])

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        """See `Sequence`; passes by all runs before, with a slice goes through all entries."""
        if isinstance(index, slice):
            return tuple(self)[index]
        place = index if index >= 0 else self._length + index
        for run in self.runs if place >= 0 else ():
            if place < len(run.entries):
                return run.entries[place]
            place -= len(run.entries)
        raise IndexError(index)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Runs):
            return self.runs == other.runs or (len(self) == len(other) and not any(difference(self, other)))
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"Runs.of({list(self)!r})"


def in_runs(entries: Sequence[T]) -> TypeGuard[Runs[T]]:
    """Return whether a list is one in runs.

    `isinstance` would ask a tuple's class whether it is registered with the abstract one: five times as long, for
    each of ten thousand small Services.
    """
    return type(entries) is Runs


def gathered(entries: Sequence[T], make: Callable[[Sequence[T], A], tuple[V, ...]], argument: A) -> tuple[V, ...]:
    """Return what ``make`` makes of all entries, which is what it makes of each run, joined. See `Run.derived`."""
    if in_runs(entries):
        return tuple(chain.from_iterable([run.derived(make, argument) for run in entries.runs]))
    return make(entries, argument)


def difference(before: Sequence[T], after: Sequence[T]) -> tuple[dict[str, T], dict[str, T]]:
    """Return by text what is in the one list only, and what in the other: an entry that changed is in both."""
    old = {each.text: each for each in _unshared(before, after)}
    new = {each.text: each for each in _unshared(after, before)}
    return (
        {text: each for text, each in old.items() if new.get(text) != each},
        {text: each for text, each in new.items() if old.get(text) != each},
    )


def _unshared(some: Sequence[T], others: Sequence[T]) -> Iterable[T]:
    """Return the entries of one list that are in no run of the other."""
    if in_runs(some) and in_runs(others):
        known = frozenset(others.runs)
        return chain.from_iterable([run.entries for run in some.runs if run not in known])
    return some


def _first(run: Run[T]) -> str:
    return run.entries[0].text


def _divided(entries: Sequence[T]) -> list[Run[T]]:
    if not entries:
        return []
    if len(entries) <= MOST:
        return [Run(tuple(entries))]
    return [Run(tuple(entries[start : start + SIZE])) for start in range(0, len(entries), SIZE)]
