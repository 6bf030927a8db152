"""The slots of many endpoints, in pages: an order that differs in a few slots shares all other pages. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import overload

from kubeproxy.model.desired import Target

PAGE = 128
"""Slots of a page; the last may have fewer."""


class Pages(Sequence[Target]):
    """Endpoints by slot. A value, but for `slot_of`, which only the newest of a line of orders may be asked."""

    __slots__ = ("_slots", "pages")

    def __init__(self, pages: Sequence[tuple[Target, ...]], slots: dict[str, int]) -> None:
        """See `of` and `followed`."""
        self.pages = pages
        self._slots = slots

    @classmethod
    def of(cls, targets: Sequence[Target]) -> "Pages":
        """Take over an order."""
        every = tuple(targets)
        pages = [every[start : start + PAGE] for start in range(0, len(every), PAGE)]
        return cls(pages, {each.text: slot for slot, each in enumerate(every)})

    def followed(self, gone: Mapping[str, Target], come: Mapping[str, Target]) -> "Pages":
        """Return the order after some have gone and others come, see `slots.keep_places`; who changed is in both.

        This order is the older one then: it may be read, and not followed again.
        """
        slots, before = self._slots, len(self)
        stay = {slots[text]: each for text, each in come.items() if text in gone}
        new = [each for text, each in sorted(come.items()) if text not in gone]
        old = sorted([slots.pop(text) for text in gone if text not in come])
        length = before + len(new) - len(old)
        left = frozenset(old)
        movers = [*new, *[stay.pop(slot, self[slot]) for slot in range(length, before) if slot not in left]]
        holes = [*[slot for slot in old if slot < length], *range(before, length)]
        moved = dict(zip(holes, movers, strict=True))
        slots.update((each.text, slot) for slot, each in moved.items())
        return Pages(_rewritten(self.pages, stay | moved, length), slots)

    def slot_of(self, text: str) -> int | None:
        """Return the slot of an endpoint that is there."""
        return self._slots.get(text)

    def differing(self, other: "Pages") -> Iterator[int]:
        """Yield the slots that both have, and not with the same endpoint."""
        for number, (page, its) in enumerate(zip(self.pages, other.pages, strict=False)):
            if page is not its:
                start = number * PAGE
                yield from [
                    start + place
                    for place, (one, two) in enumerate(zip(page, its, strict=False))
                    if one.text != two.text
                ]

    def __len__(self) -> int:
        return (len(self.pages) - 1) * PAGE + len(self.pages[-1]) if self.pages else 0

    def __iter__(self) -> Iterator[Target]:
        return chain.from_iterable(self.pages)

    @overload
    def __getitem__(self, index: int) -> Target: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Target, ...]: ...
    def __getitem__(self, index: int | slice) -> Target | tuple[Target, ...]:
        """Return what is in a slot; of a slice, after going through all."""
        if isinstance(index, slice):
            return tuple(self)[index]
        page, place = divmod(index, PAGE)
        return self.pages[page][place]


def _rewritten(
    pages: Sequence[tuple[Target, ...]], slots: Mapping[int, Target], length: int
) -> list[tuple[Target, ...]]:
    """Return pages with other endpoints in some slots, ``length`` in all."""
    found = [*pages[: -(-length // PAGE)]]
    by_page: dict[int, list[tuple[int, Target]]] = {}
    for slot, target in sorted(slots.items()):
        by_page.setdefault(slot // PAGE, []).append((slot % PAGE, target))
    for number, entries in by_page.items():
        page = list(found[number]) if number < len(found) else []
        for place, target in entries:
            page[place : place + 1] = [target]  # at the end, one more
        found[number : number + 1] = [tuple(page)]
    if found:
        found[-1] = found[-1][: length - PAGE * (len(found) - 1)]
    return found
