"""The endpoints of a place: which slot each has, and with affinity which number; and what of it changes. Pure.

A slot that stays as it is costs a comparison: of a place with thousands of endpoints, few are replaced at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from kubeproxy.dataplane.nftables.names import ListMaps
from kubeproxy.dataplane.nftables.numbers import Numbers
from kubeproxy.dataplane.nftables.pages import Pages
from kubeproxy.kernel.nf_tables.fields import endpoint, number
from kubeproxy.kernel.nf_tables.types import Element
from kubeproxy.model.desired import Target

Elements = dict[str, list[Element]]
"""By set."""


class Listing(NamedTuple):
    """One of a place's lists."""

    maps: ListMaps
    place: bytes
    targets: Sequence[Target]
    """By slot."""
    numbers: Mapping[str, bytes] | None
    """With affinity: each endpoint's number, by its text."""

    @property
    def name(self) -> str:
        """Return the map that says what is in a slot."""
        return self.maps.endpoints if self.numbers is None else self.maps.slots

    def data(self, target: Target) -> bytes:
        """Return what that map has for an endpoint."""
        return endpoint(target.address, target.port) if self.numbers is None else self.numbers[target.text]

    def fill(self, elements: Elements) -> None:
        """Add all of its elements."""
        maps, place, targets, numbers = self
        slots = slots_of(len(targets))
        if numbers is None:
            elements[maps.endpoints] += [
                Element(place + slot, endpoint(target.address, target.port))
                for slot, target in zip(slots, targets, strict=True)
            ]
            return
        elements[maps.slots] += [
            Element(place + slot, numbers[target.text]) for slot, target in zip(slots, targets, strict=True)
        ]
        elements[maps.sticky] += [self._numbered(target) for target in targets]

    def _slot(self, slot: int) -> Element:
        return Element(self.place + number(slot), self.data(self.targets[slot]))

    def _numbered(self, target: Target) -> Element:
        assert self.numbers is not None
        return Element(self.place + self.numbers[target.text], endpoint(target.address, target.port))

    def _part(self, slots: Iterable[int], elements: Elements) -> None:
        """Add the elements of some slots."""
        for slot in slots:
            elements[self.name].append(self._slot(slot))
            if self.numbers is not None:
                elements[self.maps.sticky].append(self._numbered(self.targets[slot]))


def move(before: Listing, after: Listing, gone: Elements, come: Elements) -> None:
    """Add what differs between two lists of the same place, both with affinity or both without."""
    old, new = before.targets, after.targets
    common = min(len(old), len(new))
    differ = _differing(before, after)
    before._part([*differ, *range(common, len(old))], gone)
    after._part([*differ, *range(common, len(new))], come)


def _differing(before: Listing, after: Listing) -> list[int]:
    """Return the slots that both have, and in which not the same is; under affinity, or that by another number."""
    old, new, was, now = before.targets, after.targets, before.numbers, after.numbers
    if isinstance(old, Pages) and isinstance(new, Pages):
        if was is None or now is None:
            return list(old.differing(new))
        if isinstance(was, Numbers):
            slots = map(new.slot_of, was.changed)
            there = [slot for slot in slots if slot is not None and slot < len(old)]
            return sorted({*old.differing(new), *there})
    pairs = enumerate(zip(old, new, strict=False))
    if was is None or now is None:
        return [slot for slot, (one, two) in pairs if one.text != two.text]
    # Whoever stays gets another number when one comes or goes that wants the same.
    return [slot for slot, (one, two) in pairs if one.text != two.text or was[one.text] != now[one.text]]


@lru_cache(maxsize=1024)
def slots_of(count: int) -> tuple[bytes, ...]:
    """Return so many slots as the last parts of keys."""
    return tuple([number(index) for index in range(count)])
