"""Hypothesis strategies for what happens to a cluster, and the cluster that it happens to.

`Cluster` holds the API's objects as they are, the way a store does; an event changes it and says what informers
then deliver. What the model makes of the deliveries must not depend on the path, so a second World may be
filled from the cluster at any time.
"""

from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache

import msgspec
from hypothesis import strategies as st

from kubeproxy.model.addresses import Family
from kubeproxy.model.ident import Key
from kubeproxy.model.objects import EndpointSlice, Node, Service, ServiceCIDR, key_of
from kubeproxy.model.settings import Settings
from kubeproxy.model.world import World
from tests.property.strategies_model import (
    CIDR_NAMES,
    KEYS,
    NODES,
    SERVICE_CIDRS,
    SETTINGS,
    SUFFIXES,
    own_address,
    seldom,
    services,
    slices,
)


class Cluster:
    """The objects of a cluster, as written."""

    def __init__(self) -> None:
        self.services: dict[Key, Service] = {}
        self.slices: dict[Key, EndpointSlice] = {}
        self.cidrs: dict[str, ServiceCIDR] = {}
        self.node: Node | None = None

    def world(self, *, backwards: bool = False) -> World:
        """Return a World that hears of everything for the first time, one object at a time, slices first."""
        built, step = World(), -1 if backwards else 1
        for piece in list(self.slices.values())[::step]:
            built.apply_slices({key_of(piece): piece})
        built.apply_node(self.node)
        built.apply_service_cidrs({("", name): each for name, each in self.cidrs.items()})
        for service in list(self.services.values())[::step]:
            built.apply_services({key_of(service): service})
        return built


class Batch(msgspec.Struct):
    """What informers deliver at once."""

    services: dict[Key, Service | None] = {}
    slices: dict[Key, EndpointSlice | None] = {}
    cidrs: dict[Key, ServiceCIDR | None] = {}
    node: tuple[Node | None] | None = None
    """The new Node, or None in it when that was deleted; None by itself when nothing is heard of it."""

    def deliver(self, world: World) -> tuple[set[Key], bool]:
        """Apply to a World; return the touched Services, and whether the node's part may differ."""
        touched = world.apply_services(self.services) | world.apply_slices(self.slices)
        changed = world.apply_service_cidrs(self.cidrs)
        if self.node is not None:
            changed = world.apply_node(self.node[0]) or changed
        return touched, changed


class Event(msgspec.Struct, frozen=True):
    """One thing that happens: what, and to or with which object."""

    what: str
    value: object

    def happen(self, cluster: Cluster) -> Batch:
        """Change the cluster and return what is delivered."""
        return _EVENTS[self.what](cluster, self.value)


def _put_service(cluster: Cluster, service: Service) -> Batch:
    cluster.services[key_of(service)] = service
    return Batch(services={key_of(service): service})


def _put_slice(cluster: Cluster, piece: EndpointSlice) -> Batch:
    cluster.slices[key_of(piece)] = piece
    return Batch(slices={key_of(piece): piece})


def _delete_service(cluster: Cluster, key: Key) -> Batch:
    return Batch(services={key: None}) if cluster.services.pop(key, None) else Batch()


def _delete_slice(cluster: Cluster, key: Key) -> Batch:
    return Batch(slices={key: None}) if cluster.slices.pop(key, None) else Batch()


def _put_node(cluster: Cluster, node: Node | None) -> Batch:
    cluster.node = node
    return Batch(node=(node,))


def _put_cidr(cluster: Cluster, cidr: ServiceCIDR) -> Batch:
    cluster.cidrs[cidr.name] = cidr
    return Batch(cidrs={("", cidr.name): cidr})


def _delete_cidr(cluster: Cluster, name: str) -> Batch:
    return Batch(cidrs={("", name): None}) if cluster.cidrs.pop(name, None) else Batch()


def _of(cluster: Cluster, owner: Key) -> Iterator[EndpointSlice]:
    yield from [p for p in cluster.slices.values() if (p.namespace, p.service) == owner]


def _repeat(cluster: Cluster, _: object) -> Batch:
    """The watch broke and everything is listed again."""
    return Batch(
        services=dict(reversed(cluster.services.items())),
        slices=dict(reversed(cluster.slices.items())),
        cidrs={("", name): each for name, each in cluster.cidrs.items()},
        node=(cluster.node,),
    )


def _reorder(cluster: Cluster, owner: Key) -> Batch:
    """The same endpoints and ports, written in another order."""
    batch = Batch()
    for piece in _of(cluster, owner):
        other = msgspec.structs.replace(piece, endpoints=piece.endpoints[::-1], ports=piece.ports[::-1])
        cluster.slices[key_of(piece)] = batch.slices[key_of(piece)] = other
    return batch


def _split(cluster: Cluster, owner: Key) -> Batch:
    """Half of every slice's endpoints move to a slice of their own."""
    batch = Batch()
    for piece in _of(cluster, owner):
        half = len(piece.endpoints) // 2
        if half and not piece.name.endswith("z"):
            first = msgspec.structs.replace(piece, endpoints=piece.endpoints[:half])
            second = msgspec.structs.replace(piece, endpoints=piece.endpoints[half:], name=piece.name + "z")
            batch.slices |= {key_of(first): first, key_of(second): second}
            cluster.slices |= {key_of(first): first, key_of(second): second}
    return batch


def _squash(cluster: Cluster, owner: Key) -> Batch:
    """Slices that agree on everything else become one."""
    batch, kept = Batch(), dict[object, EndpointSlice]()
    for piece in _of(cluster, owner):
        kind = (piece.address_type, piece.headless, piece.ports)
        first = kept.get(kind)
        if first is None:
            kept[kind] = piece
            continue
        together = {each.address: each for each in (*first.endpoints, *piece.endpoints)}
        kept[kind] = msgspec.structs.replace(first, endpoints=tuple(together.values()))
        batch.slices |= {key_of(first): kept[kind], key_of(piece): None}
        cluster.slices[key_of(first)] = kept[kind]
        del cluster.slices[key_of(piece)]
    return batch


def _renumber(cluster: Cluster, owner: Key) -> Batch:
    """A Service's ports have each other's numbers, and their own node ports still."""
    service = cluster.services.get(owner)
    if service is None:
        return Batch()
    numbers = [port.port for port in service.ports]
    ports = zip(service.ports, [*numbers[1:], *numbers[:1]], strict=True)
    renumbered = tuple(msgspec.structs.replace(port, port=number) for port, number in ports)
    return _put_service(cluster, msgspec.structs.replace(service, ports=renumbered))


def _balance(cluster: Cluster, owner: Key) -> Batch:
    """A load balancer's address comes, or goes."""
    service = cluster.services.get(owner)
    if service is None:
        return Batch()
    own = tuple(own_address("balancer", KEYS.index(owner), family) for family in Family)
    addresses = () if service.load_balancer_ips else own
    return _put_service(cluster, msgspec.structs.replace(service, load_balancer_ips=addresses))


_EVENTS: dict[str, Callable[..., Batch]] = {
    "put service": _put_service,
    "put slice": _put_slice,
    "delete service": _delete_service,
    "delete slice": _delete_slice,
    "put node": _put_node,
    "put cidr": _put_cidr,
    "delete cidr": _delete_cidr,
    "repeat": _repeat,
    "reorder": _reorder,
    "split": _split,
    "squash": _squash,
    "renumber": _renumber,
    "balance": _balance,
}

_SLICE_KEYS = [(namespace, f"{name}-{suffix}") for namespace, name in KEYS for suffix in SUFFIXES]


def _event(what: str, values: st.SearchStrategy[object]) -> st.SearchStrategy[Event]:
    return st.builds(Event, st.just(what), values)


def _service_events(crowds: bool) -> st.SearchStrategy[Event]:
    """What happens to Services and their endpoints."""
    return st.one_of(
        _event("put service", services()),
        _event("put slice", slices(crowds=crowds)),
        _event("delete service", st.sampled_from(KEYS)),
        _event("delete slice", st.sampled_from(_SLICE_KEYS)),
        *(_event(what, st.sampled_from(KEYS)) for what in ("reorder", "split", "squash", "renumber", "balance")),
    )


_NODE_EVENTS = st.one_of(
    _event("put node", NODES),
    _event("put cidr", SERVICE_CIDRS),
    _event("delete cidr", st.sampled_from(CIDR_NAMES)),
    _event("repeat", st.none()),
)


@cache
def events(*, crowds: bool = False) -> st.SearchStrategy[Event]:
    """Draw anything that may happen; what concerns all Services happens one time in eight."""
    common = _service_events(crowds)
    return seldom(common, _NODE_EVENTS)


class Turn(Enum):
    """What the agent meets after a batch of events, before and while it syncs."""

    SYNC = "syncs"
    SKIP = "has no time to sync before more happens"
    FAIL = "syncs; the kernel refuses once"
    RESTART = "is another process that finds what the last one left"
    FLUSH = "finds a table flushed by somebody, and syncs"
    SURPRISE = "syncs into a table that somebody has just flushed"


class Step(msgspec.Struct, frozen=True):
    """Some events, then one turn of the agent."""

    events: list[Event]
    turn: Turn
    table: str
    """The one that is flushed, if one is."""
    settings: Settings
    """What a restarted agent is told."""


class History(msgspec.Struct, frozen=True):
    """What there was when the agent began, and everything that happened since."""

    settings: Settings
    steps: list[Step]

    def __repr__(self) -> str:
        """Print what matters, in lines."""
        lines = [f"History: {_told(self.settings)}"]
        for step in self.steps:
            lines += [f"    {event.what}: {_told(event.value)}" for event in step.events]
            told = f" ({step.table})" if step.turn in (Turn.FLUSH, Turn.SURPRISE) else ""
            told = f" ({_told(step.settings)})" if step.turn is Turn.RESTART else told
            lines.append(f"  the agent {step.turn.value}{told}")
        return "\n".join(lines)


def _told(value: object) -> str:
    """Print only the fields that say something."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_told, value))})"
    if not isinstance(value, msgspec.Struct):
        return repr(value)
    fields = {each.name: (each.default, getattr(value, each.name)) for each in msgspec.structs.fields(value)}
    said = [f"{name}={_told(now)}" for name, (default, now) in fields.items() if now != default]
    return f"{type(value).__name__}({', '.join(said)})"


def _often(values: st.SearchStrategy[Event]) -> st.SearchStrategy[Event | None]:
    return st.sampled_from(range(4)).flatmap(lambda n: values if n else st.none())


@cache
def _beginning(crowds: bool) -> st.SearchStrategy[list[Event]]:
    """Most of the Services, with slices: a crowd from the start, since lists of events are mostly short."""
    crowd = [_event("put service", services(st.just(key))) for key in KEYS]
    crowd += [
        _event("put slice", slices(st.just((key, suffix)), crowds=crowds)) for key in KEYS for suffix in ("a", "c")
    ]
    crowd += [_event("put node", NODES), _event("put cidr", SERVICE_CIDRS)]
    return st.tuples(*map(_often, crowd)).map(lambda found: [each for each in found if each is not None])


@cache
def _steps(crowds: bool, least: int, most: int) -> st.SearchStrategy[list[Step]]:
    turns = st.sampled_from([Turn.SYNC] * 6 + list(Turn)[1:])
    tables = st.sampled_from(["nat", "filter", "mangle"])
    step = st.builds(Step, st.lists(events(crowds=crowds), max_size=3), turns, tables, SETTINGS)
    return st.lists(step, min_size=least, max_size=most)


@st.composite
def histories(draw: st.DrawFn, *, steps: int, crowds: bool = False) -> History:
    """Draw a history of up to so many steps after the first, which fills the cluster."""
    settings = draw(SETTINGS)
    begin = Step(draw(_beginning(crowds)), Turn.SYNC, "nat", settings)
    return History(settings, [begin, *draw(_steps(crowds, steps // 2, steps))])
