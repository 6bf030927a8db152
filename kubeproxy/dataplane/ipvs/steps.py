"""From what stands of one virtual server to what is wanted of it: commands, and what goes on draining. Pure.

The same function serves a change (what stands is what was written) and a correction (it is what the kernel
listed). Destinations are added before others leave. Those that leave keep their connections: they get weight 0
and are deleted once nobody uses them (`draining.py`). A virtual server that nobody wants any more stays as long
as connections through it are established; the kernel refuses new ones, as it has nobody to send them to.
"""

from collections.abc import Collection, Mapping

from kubeproxy.dataplane.ipvs.part import Virtual
from kubeproxy.kernel.ipvs_types import Command, Destination, Place, Server, Verb
from kubeproxy.model.objects import Protocol, Record

Spot = tuple[str, int]
"""Address and port of a destination."""

_ADD_SERVER = Verb.ADD_SERVER  # Python 3.11 takes 0.2 µs to find a member of an Enum

CHOOSES_THE_IDLE = frozenset(("dh",))
"""Schedulers that go on choosing a destination of weight 0, and then refuse: it must be deleted at once."""


class Standing(Record, frozen=True):
    """A virtual server in the kernel, with the weight of each destination."""

    server: Server
    weights: Mapping[Spot, int]
    is_used: bool = True
    """Whether any destination has active connections, or nobody knows."""


class Steps(Record, frozen=True):
    """The way to what is wanted of one virtual server."""

    commands: tuple[Command, ...] = ()
    """What is to be done at once."""
    is_deleted: bool = False
    """Whether it is to be deleted, after everything that leads to it."""
    draining: Collection[Spot] = ()
    """Destinations with weight 0 that nobody wants."""


def spot(destination: Place) -> Spot:
    """Return what a destination is known by within its virtual server."""
    return destination.address, destination.port


def drains(protocol: Protocol | None, server: Server) -> bool:
    """Return whether destinations keep their connections when they are not wanted any more.

    UDP has no connections: what the kernel remembers of a client must lead elsewhere at once. None: a virtual
    server by mark of which nothing is known.
    """
    return protocol is not Protocol.UDP and server.scheduler not in CHOOSES_THE_IDLE


def steps(standing: Standing | None, wanted: Virtual | None, *, drain: bool) -> Steps:
    """Return the way from what stands to what is wanted; ``drain``: see `drains`."""
    if wanted is None:
        return Steps() if standing is None else _farewell(standing, drain=drain)
    if standing is None:
        return Steps((making(wanted),))
    server, weights = wanted.server, standing.weights
    commands: list[Command] = []
    if standing.server != server:
        commands.append(Command(Verb.SET_SERVER, server))
    for each in wanted.destinations:
        weight = weights.get(spot(each))
        if weight != 1:
            verb = Verb.ADD_DESTINATION if weight is None else Verb.SET_DESTINATION
            commands.append(Command(verb, server, Destination(each.address, each.port)))
    if not weights:
        return Steps(tuple(commands))
    stay = set(map(spot, wanted.destinations))
    leaving = {place: weight for place, weight in weights.items() if place not in stay}
    commands += _leave(server, leaving, drain=drain)
    return Steps(tuple(commands), draining=tuple(leaving) if drain else ())


def making(wanted: Virtual) -> Command:
    """Return what makes a virtual server with its destinations where none is."""
    return Command(_ADD_SERVER, wanted.server, places=tuple(wanted.destinations))


def _farewell(standing: Standing, *, drain: bool) -> Steps:
    if not (drain and standing.weights and standing.is_used):
        return Steps(is_deleted=True)
    return Steps(tuple(_leave(standing.server, standing.weights, drain=True)), draining=tuple(standing.weights))


def _leave(server: Server, weights: Mapping[Spot, int], *, drain: bool) -> list[Command]:
    """Return the commands that make destinations leave."""
    if not drain:
        return [Command(Verb.DELETE_DESTINATION, server, Destination(*place)) for place in weights]
    return [
        Command(Verb.SET_DESTINATION, server, Destination(*place, weight=0))
        for place, weight in weights.items()
        if weight
    ]
