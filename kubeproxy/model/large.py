"""Large Services: their merged endpoints are kept, so that a changed slice costs that slice and no other. Pure.

A small Service is merged anew whenever somebody asks (`endpoints.py`): that costs its few endpoints, and nothing
has to be held for the thousands of such Services. What is kept of a large one is equal to what a merge would say.

What is kept is followed on the thread that owns the World, and a merge is made on the thread that asks. So one of
very many endpoints and ports is merged, too: whoever makes such a Service must not hold up the event loop.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set

import msgspec

from kubeproxy.model.addresses import Family
from kubeproxy.model.endpoints import Merged, PortEndpoint, PortKey, entries_of, merge, once, put_in_order
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import Endpoint, EndpointSlice, Record
from kubeproxy.model.runs import Runs

LARGE = 256
"""Endpoints of a Service, of all its slices, from which it is large."""
MANY = 20_000
"""Endpoints times ports up to which what is merged is kept. To make it takes some 15 ms, and 3 MB."""

Slices = Sequence[EndpointSlice]


class _Port(Record, frozen=True):
    """The endpoints of one port of one family."""

    endpoints: Runs[PortEndpoint]
    repeated: frozenset[str] = frozenset()
    """Texts that more than one entry of the slices has."""


class LargeServices:
    """The merged endpoints of every large Service. Owned by one thread; what it hands out are values."""

    def __init__(self) -> None:
        self._ports: dict[Key, dict[Family, dict[PortKey, _Port]]] = {}

    def take(self, key: Key, gone: Slices, come: Slices, slices: Slices) -> None:
        """Take over a Service's ``slices``, which differ from before in those that have ``gone`` and ``come``."""
        before, size = self._ports.get(key), _size(slices)
        if before is None and size < LARGE:
            return  # as nearly all
        # Whoever is at a limit must not be made anew by every other change.
        least, most = (LARGE, MANY) if before is None else (LARGE // 2, MANY + MANY // 2)
        if size < least or _entries(slices) > most:
            self._ports.pop(key, None)
            return
        gone, come = _differing(gone, come)
        if before is None or _size(gone) + _size(come) > size:
            self._ports[key] = {family: _ports(slices, family) for family in Family}
        else:
            self._ports[key] = {family: _changed(before[family], gone, come, slices, family) for family in Family}

    def merged(self, key: Key, slices: Slices, family: Family) -> Merged:
        """Return what `merge` would, of a Service that has these slices."""
        kept = self.kept(key, family)
        return kept if kept is not None else merge(slices, family)

    def kept(self, key: Key, family: Family) -> Merged | None:
        """Return the same of a Service whose endpoints are kept, None of any other."""
        kept = self._ports.get(key) if self._ports else None
        if kept is None:
            return None
        return {port: entry.endpoints for port, entry in kept[family].items()}

    def part(self, keys: Iterable[Key] | None) -> "LargeServices":
        """Return those of some Services (None: of all)."""
        part = LargeServices()
        chosen = self._ports if keys is None else [key for key in keys if key in self._ports]
        part._ports = {key: self._ports[key] for key in chosen}
        return part


def _size(slices: Slices) -> int:
    return sum([len(piece.endpoints) for piece in slices])


def _entries(slices: Slices) -> int:
    return sum([len(piece.endpoints) * len(piece.ports) for piece in slices])


def _differing(gone: Slices, come: Slices) -> tuple[Slices, Slices]:
    """Return slices with those endpoints in which each differs from the one that it replaces, or is replaced by.

    An event brings all endpoints of a slice, of which most are as before: they cost a look, and not one a port.
    """
    old, new = {piece.name: piece for piece in gone}, {piece.name: piece for piece in come}
    for name in old.keys() & new.keys():
        one, other = old[name], new[name]
        before, after = _by_address(one), _by_address(other)
        have_each_once = len(before) == len(one.endpoints) and len(after) == len(other.endpoints)
        if have_each_once and _frame(one) == _frame(other):
            old[name] = _with(one, [each for each in one.endpoints if after.get(each.address) != each])
            new[name] = _with(other, [each for each in other.endpoints if before.get(each.address) != each])
    return tuple(old.values()), tuple(new.values())


def _by_address(piece: EndpointSlice) -> dict[str, Endpoint]:
    return {each.address: each for each in piece.endpoints}


def _frame(piece: EndpointSlice) -> tuple[object, ...]:
    """Return what beside an endpoint its entries depend on."""
    return piece.address_type, piece.headless, piece.ports


def _with(piece: EndpointSlice, endpoints: Iterable[Endpoint]) -> EndpointSlice:
    return msgspec.structs.replace(piece, endpoints=tuple(endpoints))


def _ports(slices: Slices, family: Family) -> dict[PortKey, _Port]:
    found = {}
    for key, every in entries_of(slices, family).items():
        endpoints = every.copy()
        put_in_order(endpoints)
        repeated = _repeated(every) if len(endpoints) < len(every) else frozenset()
        found[key] = _Port(Runs.of(endpoints), repeated)
    return found


def _repeated(entries: Collection[PortEndpoint]) -> frozenset[str]:
    return frozenset([text for text, count in Counter(each.text for each in entries).items() if count > 1])


def _changed(
    ports: dict[PortKey, _Port], gone: Slices, come: Slices, slices: Slices, family: Family
) -> dict[PortKey, _Port]:
    """Return the ports of a Service some of whose slices were replaced; those that slices do not name stay."""
    old, new = entries_of(gone, family), entries_of(come, family)
    moves = {key: _Move(ports.get(key, _NOBODY), old.get(key, ()), new.get(key, ())) for key in old | new}
    rivals = _rivals({key: move.unclear for key, move in moves.items() if move.unclear}, slices, family)
    moved = {key: move.port(rivals.get(key, ())) for key, move in moves.items()}
    return {key: port for key, port in (ports | moved).items() if port.endpoints}


def _rivals(
    unclear: Mapping[PortKey, Set[str]], slices: Slices, family: Family
) -> dict[PortKey, list[PortEndpoint]]:
    """Return by port the entries that slices have of some addresses.

    Goes once through all slices for all ports, and makes entries of those addresses only: ten ports, each with a
    look of its own at ten thousand endpoints, would hold up the thread that owns the World for a second.
    """
    if not unclear:
        return {}
    addresses = frozenset().union(*unclear.values())
    few = [
        msgspec.structs.replace(
            piece,
            ports=tuple([port for port in piece.ports if (port.name, port.protocol) in unclear]),
            endpoints=tuple([each for each in piece.endpoints if each.address in addresses]),
        )
        for piece in slices
    ]
    return entries_of(few, family)


_NOBODY = _Port(Runs())


class _Move:
    """What becomes of a port of which some entries are replaced."""

    def __init__(self, before: _Port, old: Collection[PortEndpoint], new: Collection[PortEndpoint]) -> None:
        had, has = {each.text: each for each in old}, {each.text: each for each in new}
        twice = set(_repeated(new) if len(has) < len(new) else ())
        twice |= {text for text in before.repeated if text in had or text in has}
        twice |= {text for text in has.keys() - had.keys() if before.endpoints.get(text) is not None}
        self._before = before
        self._twice = twice
        self._changes: dict[str, PortEndpoint | None] = {text: None for text in had if text not in has}
        self._changes |= {text: each for text, each in has.items() if had.get(text) != each}
        self.unclear = frozenset([(has.get(text) or had[text]).endpoint.address for text in twice])
        """Addresses of what is named twice: which entry counts depends on slices that have not changed."""

    def port(self, rivals: Collection[PortEndpoint]) -> _Port:
        """Return the port, of whose unclear addresses all slices have these entries."""
        before, changes, twice = self._before, self._changes, self._twice
        repeated = before.repeated
        if twice:
            entries = [each for each in rivals if each.text in twice]
            changes = {**changes, **dict.fromkeys(twice), **once(entries)}
            repeated = repeated.difference(twice) | _repeated(entries)
        return _Port(before.endpoints.replaced(changes) if changes else before.endpoints, repeated)
