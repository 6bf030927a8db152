"""What all Service ports together ask of the kernel, and what a change of some of them changes in it. Pure.

Several ports may ask for the same address or endpoint, so these are counted. A virtual server has one
owner: somebody's external address beats somebody else's node port there, then the name decides; the loser's
entries for that place do not count.

Cost of a change: that of the Parts that it concerns, whatever stands beside them; of a large Service's
destinations only those are looked at that differ.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import TypeVar

import msgspec

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.dataplane.ipvs.part import NOTHING, Part, Virtual
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Place, ServerKey
from kubeproxy.model.ident import ServicePortName
from kubeproxy.model.objects import Record
from kubeproxy.model.runs import Runs, difference

T = TypeVar("T")

Entry = tuple[Set, Member]
Claims = dict[ServicePortName, Virtual]

PLACE_FIELDS = 3
"""Address, protocol and port, and no more than these: what the sets of `Virtual.roles` have."""


class Owned(Record, frozen=True):
    """A virtual server as its owner wants it."""

    owner: ServicePortName
    virtual: Virtual


class Turnover(Record, frozen=True):
    """One virtual server that differs, or its owner does; None stands for "not there"."""

    before: Owned | None
    after: Owned | None


class Delta(Record, frozen=True, kw_only=True):
    """What changed. Nothing is both added and removed."""

    virtuals: dict[ServerKey, Turnover]
    added: list[Entry]
    removed: list[Entry]
    addresses_added: list[str]
    addresses_removed: list[str]


class Unions:
    """Parts by port, and their unions."""

    def __init__(self) -> None:
        self.parts: dict[ServicePortName, Part] = {}
        self.virtuals: dict[ServerKey, Owned] = {}
        self.addresses: Counter[str] = Counter()
        """How many ports ask for each; never 0."""
        self.entries: Counter[Entry] = Counter()
        """How many ports ask for each of those that have nothing to do with a virtual server's place; never 0."""
        self.sizes: Counter[Set] = Counter()
        """How many different members each set has."""
        self._more: set[Entry] = set()
        """What each virtual server has in `Virtual.more`."""
        self._contested: dict[ServerKey, Claims] = {}
        """Every claim to a virtual server that more than one port claims."""

    def open(self, parts: Mapping[ServicePortName, Part | None]) -> None:
        """Take in the Parts of all ports where there were none: `apply` without a Delta, a third of its work."""
        rivals: set[ServerKey] = set()
        for name, part in parts.items():
            if part is None:
                continue
            self.parts[name] = part
            for each in part.virtuals:
                owned = Owned(name, each)
                holder = self.virtuals.setdefault(each.server.key, owned)
                if holder is not owned and holder.owner != name:
                    key = each.server.key
                    self._contested.setdefault(key, {holder.owner: holder.virtual}).setdefault(name, each)
                    rivals.add(key)
        self._settle(rivals)
        self.addresses.update(_flat(part.addresses for part in self.parts.values()))
        self.entries.update(_flat(part.entries for part in self.parts.values()))
        self.sizes.update(which for which, _ in self.entries)
        self.sizes.update(_flat(owned.virtual.roles for owned in self.virtuals.values()))
        self._more.update(_flat(owned.virtual.more for owned in self.virtuals.values()))
        self.sizes.update(which for which, _ in self._more)

    def claimants(self, key: ServerKey) -> Collection[ServicePortName]:
        """Return all ports that ask for a virtual server that somebody owns."""
        return self._contested.get(key) or (self.virtuals[key].owner,)

    def has_entry(self, which: Set, member: Member) -> bool:
        """Return whether anybody asks for an entry."""
        if isinstance(member, tuple) and len(member) == PLACE_FIELDS:
            owned = self.virtuals.get(ServerKey(member[1], member[0], member[2]))
            if owned is not None and which in owned.virtual.roles:
                return True
        return (which, member) in self._more or (which, member) in self.entries

    def apply(self, changes: Mapping[ServicePortName, Part | None]) -> Delta:
        """Take in the new Parts of some ports (None: it is gone), and return what that changes."""
        turned: dict[ServerKey, Owned | None] = {}
        rivals: set[ServerKey] = set()
        entries: Counter[Entry] = Counter()
        addresses: Counter[str] = Counter()
        for name, part in changes.items():
            old = self.parts.pop(name, NOTHING)
            new = part or NOTHING
            if part is not None:
                self.parts[name] = part
            self._reclaim(name, old, new, turned, rivals)
            _count(entries, old.entries, new.entries)
            _count(addresses, old.addresses, new.addresses)
        self._settle(rivals)
        added, removed = _take_in(self.entries, entries)
        virtuals = {}
        for key, before in turned.items():
            after = self.virtuals.get(key)
            if before != after:
                virtuals[key] = Turnover(before, after)
                had, has = _entries(before), _entries(after)
                if had != has:
                    added += _missing(has, had)
                    removed += _missing(had, has)
                    self._more.difference_update(before.virtual.more if before else ())
                    self._more.update(after.virtual.more if after else ())
        self.sizes.update(which for which, _ in added)
        self.sizes.subtract(which for which, _ in removed)
        come, gone = _take_in(self.addresses, addresses)
        return Delta(virtuals=virtuals, added=added, removed=removed, addresses_added=come, addresses_removed=gone)

    def _reclaim(
        self,
        name: ServicePortName,
        old: Part,
        new: Part,
        turned: dict[ServerKey, Owned | None],
        rivals: set[ServerKey],
    ) -> None:
        """Replace a port's claims; those that somebody else has a say in are left to `_settle`."""
        if old.virtuals == new.virtuals:
            return
        wanted = {each.server.key: each for each in reversed(new.virtuals)}  # the first of two at one place
        for key in {each.server.key for each in old.virtuals} - wanted.keys():
            turned.setdefault(key, self.virtuals.get(key))
            if key in self._contested:
                self._contested[key].pop(name, None)
                rivals.add(key)
            else:
                del self.virtuals[key]
        for key, virtual in wanted.items():
            holder = self.virtuals.get(key)
            turned.setdefault(key, holder)
            if key in self._contested or (holder is not None and holder.owner != name):
                claims = self._contested.setdefault(key, {})
                if holder is not None and not claims and key not in rivals:
                    claims[holder.owner] = holder.virtual
                claims[name] = virtual
                rivals.add(key)
            else:
                self.virtuals[key] = Owned(name, virtual)

    def _settle(self, rivals: set[ServerKey]) -> None:
        """Decide who owns what is contested."""
        for key in rivals:
            claims = self._contested[key]
            if claims:
                winner = min(claims, key=lambda name: (claims[name].is_node_port, name))
                self.virtuals[key] = Owned(winner, claims[winner])
            else:
                self.virtuals.pop(key, None)
            if len(claims) < 2:
                del self._contested[key]


def differing(turn: Turnover) -> Turnover:
    """Return what differs of a large Service's virtual server: without the destinations that it had and has."""
    if turn.before is None or turn.after is None:
        return turn
    had, has = turn.before.virtual.destinations, turn.after.virtual.destinations
    if not (isinstance(had, Runs) and isinstance(has, Runs)):
        return turn
    gone, come = difference(had, has)
    return Turnover(_with(turn.before, gone.values()), _with(turn.after, come.values()))


def _with(owned: Owned, destinations: Iterable[Place]) -> Owned:
    return Owned(owned.owner, msgspec.structs.replace(owned.virtual, destinations=tuple(destinations)))


_flat = chain.from_iterable


def _entries(owned: Owned | None) -> tuple[Entry, ...]:
    """Return the entries about a virtual server's place, which nobody else has."""
    return owned.virtual.entries if owned else ()


def _missing(some: Iterable[Entry], others: Iterable[Entry]) -> list[Entry]:
    """Return those that are not among the others."""
    there = frozenset(others)
    return [each for each in some if each not in there]


def _count(counts: Counter[T], old: tuple[T, ...], new: tuple[T, ...]) -> None:
    if old != new:
        counts.update(new)
        counts.subtract(old)


def _take_in(counts: Counter[T], change: Counter[T]) -> tuple[list[T], list[T]]:
    """Add a change to counts; return what is there now and was not, and what is not any more."""
    added, removed = [], []
    for each, more in change.items():
        if not more:
            continue
        then = counts[each]
        counts[each] = now = then + more
        if not then:
            added.append(each)
        elif not now:
            removed.append(each)
    for each in removed:
        del counts[each]
    return added, removed
