"""Wanted endpoints fitted into the slices that stand, with few writes. Pure.

Each write of a slice is an event on every node. So an endpoint stays in the slice it is in; slices that are
written anyway are filled first; what is left goes into one more slice that has room for all of it, or else into
new ones; nothing is ever moved to even slices out; and a slice that would be deleted beside one that would be
created is rewritten instead (upstream: kubernetes staging endpointslice/reconciler.go, `reconcileByPortMapping`).

The bound: when r endpoints go or change and a come, in groups g, a plan writes at most
r + Σg ⌈a_g / room⌉ slices, and one more per address family that has got its first endpoint or lost its last.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from kubeproxy.controllers.objects import Endpoint, EndpointSlice, Meta, OwnerReference
from kubeproxy.controllers.podfacts import Ports
from kubeproxy.model.decode import TRIGGER_TIME_ANNOTATION

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"

Group = tuple[str, Ports]
"""What all endpoints of one slice share: address type and resolved ports."""
Wanted = Mapping[Group, Mapping[str, Endpoint]]
"""The endpoints of each group, by what identifies them within it."""


class SlicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The writes that make a Service's slices right. Order: creates, updates, deletes."""

    creates: tuple[EndpointSlice, ...] = ()
    updates: tuple[EndpointSlice, ...] = ()
    deletes: tuple[EndpointSlice, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.creates or self.updates or self.deletes)


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What all slices of one owner have in common."""

    owner_meta: Meta
    owner: OwnerReference
    labels: Mapping[str, str]
    room: int
    """Endpoints that a slice may hold."""
    trigger: str = ""
    """The trigger time that a written slice gets, "" for none."""
    annotations: Mapping[str, str] | None = None
    """All annotations of each slice; None: they keep their own."""

    def is_foreign(self, each: EndpointSlice) -> bool:
        """Say whether a slice belongs to an earlier object of the owner's name, with which it is to go."""
        controller = each.metadata.controller
        return controller is not None and controller.uid != self.owner.uid

    def created(self, name: str, prefix: str, group: Group, endpoints: Sequence[Endpoint]) -> EndpointSlice:
        """Return a new slice."""
        meta = Meta(
            name=name,
            generate_name=prefix,
            namespace=self.owner_meta.namespace,
            labels=dict(self.labels),
            annotations=self._annotations({}),
            owner_references=(self.owner,),
        )
        return EndpointSlice(metadata=meta, address_type=group[0], ports=group[1], endpoints=tuple(endpoints))

    def revised(self, before: EndpointSlice, ports: Ports, endpoints: Sequence[Endpoint]) -> EndpointSlice | None:
        """Return the slice as it should be, or None when it is so already."""
        meta, held = before.metadata, tuple(endpoints)
        same = (before.endpoints or (), before.ports or ()) == (held, ports)
        same = same and (meta.labels, meta.owner_references) == (self.labels, (self.owner,))
        if same and (self.annotations is None or (meta.annotations or {}) == self.annotations):
            return None
        fresh = msgspec.structs.replace(
            meta,
            labels=dict(self.labels),
            owner_references=(self.owner,),
            annotations=self._annotations(meta.annotations or {}),
        )
        return msgspec.structs.replace(before, metadata=fresh, endpoints=held, ports=ports)

    def _annotations(self, own: Mapping[str, str]) -> dict[str, str] | None:
        kept = own if self.annotations is None else self.annotations
        found = {key: value for key, value in kept.items() if key != TRIGGER_TIME_ANNOTATION}
        if self.trigger:
            found[TRIGGER_TIME_ANNOTATION] = self.trigger
        return found or None


class _Room(msgspec.Struct):
    """A slice that stands, or (before is None) a new one, and what it shall hold."""

    group: Group
    before: EndpointSlice | None
    endpoints: list[Endpoint]
    stays_empty: bool = False

    @property
    def is_spare(self) -> bool:
        """It stands and holds nothing any more."""
        return self.before is not None and not self.endpoints and not self.stays_empty


def fit(
    envelope: Envelope,
    wanted: Wanted,
    standing: Iterable[EndpointSlice],
    identify: Callable[[Endpoint], str],
    new_name: Callable[[str], str],
    never_without: Iterable[str] = (),
) -> SlicePlan:
    """Plan the slices of one owner.

    ``new_name`` makes a fresh object name from a prefix. A family of ``never_without`` that has no endpoints keeps
    one empty slice, so that "no endpoints" is a fact and not a silence.
    """
    by_group: dict[Group, list[EndpointSlice]] = {}
    foreign = []
    for each in sorted(standing, key=lambda each: each.metadata.name):
        if envelope.is_foreign(each):
            foreign.append(each)
        else:
            by_group.setdefault((each.address_type, each.ports or ()), []).append(each)
    rooms: list[_Room] = []
    for group in sorted(wanted.keys() | by_group.keys(), key=repr):
        rooms += _fill(envelope, group, wanted.get(group, {}), by_group.get(group, []), identify)
    populated = {room.group[0] for room in rooms if room.endpoints}
    rooms += [_Room((family, ()), None, [], True) for family in never_without if family not in populated]
    return _planned(envelope, _recycled(rooms), foreign, new_name)


def _fill(
    envelope: Envelope,
    group: Group,
    wanted: Mapping[str, Endpoint],
    standing: Sequence[EndpointSlice],
    identify: Callable[[Endpoint], str],
) -> list[_Room]:
    missing, most = dict(wanted), envelope.room
    rooms: list[_Room] = []
    written: list[_Room] = []
    untouched: list[_Room] = []
    for each in standing:
        names = map(identify, (each.endpoints or ())[:most])
        room = _Room(group, each, [missing.pop(name) for name in names if name in missing])
        rooms.append(room)
        changes = not room.endpoints or envelope.revised(each, group[1], room.endpoints) is not None
        (written if changes else untouched).append(room)
    newcomers = deque(missing.values())
    for room in sorted(written, key=lambda room: -len(room.endpoints)):
        _top_up(room.endpoints, newcomers, most)
    while newcomers:
        fitting = [room for room in untouched if len(room.endpoints) + len(newcomers) <= most]
        room = max(fitting, key=lambda room: len(room.endpoints), default=_Room(group, None, []))
        if room.before is None:
            rooms.append(room)
        _top_up(room.endpoints, newcomers, most)
    return rooms


def _top_up(endpoints: list[Endpoint], newcomers: deque[Endpoint], most: int) -> None:
    while newcomers and len(endpoints) < most:
        endpoints.append(newcomers.popleft())


def _recycled(rooms: list[_Room]) -> list[_Room]:
    """Let new slices take the place of those that would go, of the same family (it cannot change)."""
    spare = [room for room in rooms if room.is_spare]
    kept = [room for room in rooms if not room.is_spare]
    for room in kept:
        of_family = [other for other in spare if other.group[0] == room.group[0]]
        if room.before is None and of_family:
            chosen = min(of_family, key=lambda other, room=room: other.group != room.group)  # type: ignore[misc]
            spare.remove(chosen)
            room.before = chosen.before
    return kept + spare


def _planned(
    envelope: Envelope, rooms: Iterable[_Room], foreign: Sequence[EndpointSlice], new_name: Callable[[str], str]
) -> SlicePlan:
    creates, updates, deletes = [], [], list(foreign)
    prefix = f"{envelope.owner_meta.name}-"
    for room in rooms:
        if room.before is None:
            creates.append(envelope.created(new_name(prefix), prefix, room.group, room.endpoints))
        elif room.is_spare:
            deletes.append(room.before)
        elif (after := envelope.revised(room.before, room.group[1], room.endpoints)) is not None:
            updates.append(after)
    return SlicePlan(creates=tuple(creates), updates=tuple(updates), deletes=tuple(deletes))
