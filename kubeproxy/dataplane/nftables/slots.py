"""In which order the endpoints of a Service port have slots, and under affinity which numbers. Pure.

Whoever stays keeps its slot, so that an endpoint that comes or goes is one element, and not all that follow; at a
restart, too. So the order is a matter of history; only where it is not that of their texts it is remembered.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from kubeproxy.dataplane.nftables.lists import Listing, slots_of
from kubeproxy.dataplane.nftables.numbers import Numbers, numbers_of
from kubeproxy.dataplane.nftables.pages import Pages
from kubeproxy.kernel.nf_tables.types import Element
from kubeproxy.model.desired import ServiceState, Target
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.runs import Runs, difference, in_runs

T = TypeVar("T")

Which = tuple[ServicePortName, bool]
"""A port, and whether its endpoints under policy Local are meant."""


class Slots:
    """One family's."""

    def __init__(self, found: Mapping[str, Mapping[bytes, Element]]) -> None:
        """See the module; ``found``: what the kernel holds, by set and key, until everything was rendered."""
        self._found = found
        self._decided: set[Which] = set()
        """Whose order the first of its places decided: all others have the same, whatever was found there."""
        self._orders: dict[Which, Sequence[Target]] = {}
        self._numbers: dict[ServicePortName, Numbers] = {}
        """Of large Services with affinity, from their first change on."""

    def settled(self) -> None:
        """Note that everything was rendered."""
        self._found = {}
        self._decided.clear()

    def ordered(self, which: Which, listing: Listing) -> Listing:
        """Return a list in the order in which its endpoints have, or had, their slots."""
        order: Sequence[Target] | None = self._orders.get(which) if self._orders else None
        if order is None and self._found and which not in self._decided:
            self._decided.add(which)
            order = self._adopted(which, listing)
        return listing if order is None else listing._replace(targets=order)

    def _adopted(self, which: Which, listing: Listing) -> Sequence[Target] | None:
        """Return the order that follows what was found; None when that is the list's own."""
        there, place = self._found.get(listing.name, {}), listing.place
        found = [there.get(place + slot) for slot in slots_of(len(listing.targets))]
        data = [each.data if each is not None else None for each in found]
        if data == list(map(listing.data, listing.targets)):
            return None  # nearly always
        return self._note(which, listing.targets, data, listing.data)

    def numbers(self, state: ServiceState) -> Mapping[str, bytes]:
        """Return the numbers that a port's endpoints have, by their texts; it was in this state last."""
        held = self._numbers.get(state.name)
        return held if held is not None else numbers_of(each.text for each in state.reachable)

    def follow(self, name: ServicePortName, before: ServiceState | None, after: ServiceState | None) -> None:
        """Let a port's endpoints that stay keep their slots; ``before``: None where nothing stood for it."""
        for is_local in (False, True):
            which = name, is_local
            if before is None or after is None:
                self._orders.pop(which, None)
                continue
            old, new = (before.local, after.local) if is_local else (before.cluster, after.cluster)
            if in_runs(old) and in_runs(new):
                self._follow_many(which, old, new)
            elif old != new:
                texts = [target.text for target in self._orders.get(which, old)]
                self._note(which, new, texts, lambda target: target.text)
        self._follow_numbers(name, before, after)

    def _follow_numbers(
        self, name: ServicePortName, before: ServiceState | None, after: ServiceState | None
    ) -> None:
        if before is None or after is None or not (_is_sticky_and_large(before) and _is_sticky_and_large(after)):
            self._numbers.pop(name, None)
            return
        gone, come = _turned(before, after), _turned(after, before)
        if gone or come:
            held = self._numbers.get(name)
            numbers = held if held is not None else Numbers(each.text for each in before.reachable)
            self._numbers[name] = numbers.followed(gone, come)

    def _follow_many(self, which: Which, old: Runs[Target], new: Runs[Target]) -> None:
        """Do the same for a large Service, whose order is remembered from its first change on."""
        gone, come = difference(old, new)
        if gone or come:
            order = self._orders.get(which, old)
            self._orders[which] = (order if isinstance(order, Pages) else Pages.of(order)).followed(gone, come)

    def _note(
        self,
        which: Which,
        targets: Sequence[Target],
        old: Sequence[Hashable],
        identity: Callable[[Target], Hashable],
    ) -> Sequence[Target] | None:
        """Remember the order that follows an old one, and return it; None when it is that of ``targets``."""
        order = keep_places(old, {identity(target): target for target in targets})
        if all(one is other for one, other in zip(order, targets, strict=True)):
            self._orders.pop(which, None)
            return None
        self._orders[which] = order
        return order


def _is_sticky_and_large(state: ServiceState) -> bool:
    return state.affinity_seconds > 0 and in_runs(state.cluster)


def _turned(some: ServiceState, other: ServiceState) -> list[str]:
    """Return the endpoints that one state can reach and the other cannot."""
    gone = difference(some.cluster, other.cluster)[0] | difference(some.local, other.local)[0]
    return [text for text in sorted(gone) if not any(_has(each, text) for each in (other.cluster, other.local))]


def _has(targets: Sequence[Target], text: str) -> bool:
    if in_runs(targets):
        return targets.get(text) is not None
    return any(each.text == text for each in targets)


def keep_places(old: Sequence[Hashable], new: Mapping[Hashable, T]) -> list[T]:
    """Return the values of ``new``, each whose key is in ``old`` at its place there, unless that is too far."""
    coming = dict(new)
    placed = [coming.pop(key, None) for key in old]
    movers = iter([*coming.values(), *(each for each in placed[len(new) :] if each is not None)])
    placed += [None] * (len(new) - len(placed))
    return [next(movers) if each is None else each for each in placed[: len(new)]]
