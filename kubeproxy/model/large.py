"""Large Services: their merged endpoints are kept, so that a changed slice costs that slice and no other. Pure.

A small Service is merged anew whenever somebody asks (`endpoints.py`): that costs its few endpoints, and nothing
has to be held for the thousands of such Services. What is kept of a large one is equal to what a merge would say.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from kubeproxy.model.addresses import Family
from kubeproxy.model.endpoints import Merged, PortEndpoint, PortKey, entries_of, merge, once, put_in_order
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Record
from kubeproxy.model.runs import Runs

LARGE = 256
"""Endpoints of a Service, of all its slices, from which it is large."""

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
        if key not in self._ports and _size(slices) < LARGE:
            return  # as nearly all
        if _size(slices) < LARGE // 2:
            del self._ports[key]
            return
        before = self._ports.get(key)
        if before is None or _size(gone) + _size(come) > _size(slices):
            self._ports[key] = {family: _ports(slices, family) for family in Family}
        else:
            self._ports[key] = {family: _changed(before[family], gone, come, slices, family) for family in Family}

    def merged(self, key: Key, slices: Slices, family: Family) -> Merged:
        """Return what `merge` would, of a Service that has these slices."""
        kept = self._ports.get(key) if self._ports else None
        if kept is None:
            return merge(slices, family)
        return {port: entry.endpoints for port, entry in kept[family].items()}

    def part(self, keys: Iterable[Key] | None) -> "LargeServices":
        """Return those of some Services (None: of all)."""
        part = LargeServices()
        chosen = self._ports if keys is None else [key for key in keys if key in self._ports]
        part._ports = {key: self._ports[key] for key in chosen}
        return part


def _size(slices: Slices) -> int:
    return sum([len(piece.endpoints) for piece in slices])


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
    found = dict(ports)
    old, new = entries_of(gone, family), entries_of(come, family)
    for key in old | new:
        port = found.get(key, _NOBODY)
        found[key] = _moved(port, key, old.get(key, ()), new.get(key, ()), slices, family)
        if not found[key].endpoints:
            del found[key]
    return found


_NOBODY = _Port(Runs())


def _moved(
    port: _Port,
    key: PortKey,
    old: Collection[PortEndpoint],
    new: Collection[PortEndpoint],
    slices: Slices,
    family: Family,
) -> _Port:
    """Return a port of which the entries ``old`` were replaced by ``new``."""
    had, has = {each.text: each for each in old}, {each.text: each for each in new}
    # Of what is named twice the winner depends on slices that have not changed.
    unclear = set(_repeated(new) if len(has) < len(new) else ())
    unclear |= {text for text in port.repeated if text in had or text in has}
    unclear |= {text for text in has.keys() - had.keys() if port.endpoints.get(text) is not None}
    changes: dict[str, PortEndpoint | None] = {text: None for text in had if text not in has}
    changes |= {text: each for text, each in has.items() if had.get(text) != each}
    repeated = port.repeated
    if unclear:
        rivals = [each for each in entries_of(slices, family).get(key, ()) if each.text in unclear]
        changes |= {**dict.fromkeys(unclear), **once(rivals)}
        repeated = repeated.difference(unclear) | _repeated(rivals)
    return _Port(port.endpoints.replaced(changes) if changes else port.endpoints, repeated)
