"""The steps of a sync in the order that never leaves a gap. Pure values.

What something relies on is there before it, and leaves after it: a set's entry names a virtual server as ours
before we make it; an address becomes local once virtual servers answer there; what leads to a virtual server is
gone when its destinations leave. So a sync goes through the fields of `Work` from the first to the last.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import Part, place_of
from kubeproxy.dataplane.ipvs.unions import Entry
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Command

_THEN = (Set.SHORT_CIRCUIT, Set.ADDRESSES)
"""These lead to virtual servers, which must be there."""
_GUARD = (Set.ADMITTED, Set.GUARDED)
"""Who may come in is known before others are kept out."""
_FIRST = (Set.SERVERS, *(each for each in Set if each not in (Set.SERVERS, *_GUARD, *_THEN)), *_GUARD)
_LAST = (*reversed(_THEN), *reversed(_FIRST))
"""In which order entries leave. Those of `Set.SERVERS` are the very last, after the virtual servers."""

Entries = dict[Set, list[Member]]


@dataclass(slots=True)
class Work:
    """What is to be done to the kernel."""

    added: Entries = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    """All that is made and changed of virtual servers that are wanted."""
    addresses_added: list[str] = field(default_factory=list)
    addresses_moved: list[str] = field(default_factory=list)
    """Local already, with another source."""
    # Here a full sync writes its rules.
    addresses_removed: list[str] = field(default_factory=list)
    removed: Entries = field(default_factory=dict)
    farewells: list[Command] = field(default_factory=list)
    """What becomes of virtual servers that are not wanted."""

    def add(self, which: Set, member: Member) -> None:
        """Let an entry come in."""
        self.added.setdefault(which, []).append(member)

    def remove(self, which: Set, member: Member) -> None:
        """Let an entry leave."""
        self.removed.setdefault(which, []).append(member)

    def add_all(self, entries: Iterable[Entry]) -> None:
        """Let entries come in."""
        for which, member in entries:
            self.add(which, member)

    def remove_all(self, entries: Iterable[Entry]) -> None:
        """Let entries leave, but for marks that others have taken the place of."""
        replaced = {_place(member) for member in self.added.get(Set.SHORT_CIRCUIT, ())}
        for which, member in entries:
            if which is not Set.SHORT_CIRCUIT or _place(member) not in replaced:
                self.remove(which, member)

    def entries_first(self) -> list[tuple[Set, list[Member]]]:
        """Return the entries that come before virtual servers are made."""
        return _in_order(_FIRST, self.added)

    def entries_then(self) -> list[tuple[Set, list[Member]]]:
        """Return the entries that come when virtual servers are made."""
        return _in_order(_THEN, self.added)

    def entries_leaving(self) -> list[tuple[Set, list[Member]]]:
        """Return the entries that leave before virtual servers do."""
        return _in_order(_LAST[:-1], self.removed)

    def entries_last(self) -> list[tuple[Set, list[Member]]]:
        """Return the entries that leave when virtual servers are gone."""
        return _in_order(_LAST[-1:], self.removed)


def entries_of(part: Part) -> Iterator[Entry]:
    """Yield every entry that a port asks for, those that follow from its virtual servers and addresses too."""
    yield from part.entries
    yield from ((Set.ADDRESSES, address) for address in part.addresses)
    for each in part.virtuals:
        yield from each.entries
        if each.server.key.address:
            yield Set.SERVERS, place_of(each.server.key)


def _place(member: Member) -> object:
    return member[:3] if isinstance(member, tuple) else member


def _in_order(order: Iterable[Set], entries: Mapping[Set, list[Member]]) -> list[tuple[Set, list[Member]]]:
    return [(which, entries[which]) for which in order if entries.get(which)]
