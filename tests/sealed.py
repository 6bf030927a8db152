"""Large containers under seal: whoever goes through all of one is caught.

`seal` replaces every large dict, set and list that an object graph of this project's holds by one that refuses to
be gone through, and still answers for single keys. So a test can prove of a step that its cost does not grow with
what is held, whatever the machine's speed.
"""

import gc
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import msgspec

from kubeproxy.dataplane.nftables.numbers import Numbers
from kubeproxy.dataplane.nftables.pages import Pages
from kubeproxy.model.objects import EndpointSlice
from kubeproxy.model.runs import Run

LARGE = 150


class Walked(AssertionError):
    """Something went through all of a large container."""


def _refuse(self: Any, *_: object, **__: object) -> NoReturn:
    raise Walked(f"all {len(self)} of a {type(self).__mro__[1].__name__} are gone through: {next_of(self)!r}, ...")


def next_of(container: Any) -> object:
    base = next(each for each in (dict, set, list) if isinstance(container, each))
    return next(base.__iter__(container), None)


class SealedDict(dict[Any, Any]):
    __iter__ = keys = values = items = copy = __eq__ = __or__ = __ror__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class SealedCounter(Counter[Any]):
    __iter__ = keys = values = items = copy = __eq__ = __or__ = __and__ = __add__ = __sub__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class SealedSet(set[Any]):
    __iter__ = copy = __or__ = __ror__ = __sub__ = __xor__ = union = difference = __eq__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class SealedList(list[Any]):
    __iter__ = copy = index = count = __contains__ = sort = __eq__ = _refuse  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


_SEALS: dict[type, type] = {dict: SealedDict, Counter: SealedCounter, set: SealedSet, list: SealedList}


def seal(roots: Iterable[object], *, but: Iterable[object] = ()) -> int:
    """Seal what hangs on ``roots``, except what hangs on ``but``; return how many containers were sealed."""
    seen = {id(each) for each in but}
    waiting = list(roots)
    sealed = 0
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if isinstance(holder, (dict, list, set, tuple, deque)):
            waiting += holder.values() if isinstance(holder, dict) else holder
            continue
        for name, value in _fields(holder):
            kind = _SEALS.get(type(value))
            if kind is not None and len(value) >= LARGE:
                sealed += 1
                seen.add(id(value))
                setattr(holder, name, kind(value))
            elif _is_ours(value) or isinstance(value, (dict, list, tuple, set)):
                waiting.append(value)
    return sealed


def _is_ours(value: object) -> bool:
    return type(value).__module__.startswith(("kubeproxy.", "tests."))


def _fields(holder: object) -> list[tuple[str, Any]]:
    if isinstance(holder, msgspec.Struct):
        return []  # frozen values
    found = dict(getattr(holder, "__dict__", {}))
    bound = getattr(holder, "__self__", None)  # a method
    if bound is not None:
        found["__self__"] = bound
    return [(name, value) for name, value in found.items() if name != "__self__" or _is_ours(value)]


class Walks:
    """Which parts of long lists are gone through, of those that there are now: runs, pages, slices."""

    def __init__(self, slices: Iterable[EndpointSlice]) -> None:
        """See the class; runs and pages are found wherever they are."""
        self.watched = 0
        self.walked: dict[int, object] = {}
        """The first entry of each part that somebody went through."""
        gc.collect()  # what an earlier test has left
        for each in gc.get_objects():
            if type(each) is Run:
                each.entries = self._watched(each.entries)
            elif type(each) is Pages:
                each.pages = [self._watched(page) for page in each.pages]
                each._slots = SealedDict(each._slots)
            elif type(each) is Numbers and each._next is None:
                each._numbers, each._texts = SealedDict(each._numbers), SealedDict(each._texts)
        for piece in slices:
            msgspec.structs.force_setattr(piece, "endpoints", self._watched(piece.endpoints))

    def _watched(self, entries: tuple[Any, ...]) -> "WatchedTuple":
        self.watched += 1
        return WatchedTuple(entries).told_to(self)


class WatchedTuple(tuple[Any, ...]):
    """Tells when it is gone through."""

    _walks: Walks

    def told_to(self, walks: Walks) -> "WatchedTuple":
        self._walks = walks
        return self

    def __iter__(self) -> Iterator[Any]:
        self._walks.walked[id(self)] = self[0]
        return super().__iter__()

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, tuple) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
