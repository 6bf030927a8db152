"""What IPVS is asked to hold, and what it answers. Pure values.

Numbers and limits are those of linux/ip_vs.h.
"""

import typing
from collections.abc import Iterable, Iterator
from enum import Enum

from kubeproxy.model.addresses import Family, family_of
from kubeproxy.model.objects import Protocol, Record

PERSISTENT, HASHED, ONE_PACKET = 0x1, 0x2, 0x4
"""Flags of a virtual server; the first two say what `Server.affinity_seconds` and the kernel's own table say."""
FALLBACK, SOURCE_PORT = 0x8, 0x10
"""Flags of the schedulers sh and mh: take another destination for one of weight 0; hash the source port too."""


class ServerKey(Record, frozen=True):
    """What a virtual server is known by: protocol, address and port; or a packet mark, with none of them."""

    protocol: Protocol | None
    """None for a mark."""
    address: str
    """Canonical; empty for a mark."""
    port: int
    mark: int = 0
    mark_family: Family = Family.V4
    """The family of the packets that carry the mark; left as it is where there is an address."""

    @property
    def family(self) -> Family:
        """The family of the packets that it serves."""
        return family_of(self.address) if self.address else self.mark_family


def mark_key(family: Family, mark: int) -> ServerKey:
    """Return the key of the virtual server for packets of a family that carry a mark."""
    return ServerKey(None, "", 0, mark, family)


class Server(Record, frozen=True):
    """A virtual server."""

    key: ServerKey
    scheduler: str = "rr"
    affinity_seconds: int = 0
    """A client stays with its destination for as long (persistence, for each single address); 0: it does not."""
    flags: int = 0
    """`ONE_PACKET`, and those of its scheduler; never `PERSISTENT` or `HASHED`."""


class Place(typing.Protocol):
    """An address and a port."""

    @property
    def address(self) -> str:
        """Canonical."""
        ...

    @property
    def port(self) -> int:
        """From 1 to 65535."""
        ...


class Destination(Record, frozen=True):
    """Where a virtual server sends connections: an address of the server's own family, by masquerading."""

    address: str
    port: int
    weight: int = 1
    """0: gets no new connections, keeps those it has."""


class Statistics(Record, frozen=True):
    """Counts since it was made, and what the kernel estimates of the last seconds."""

    connections: int = 0
    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    connections_rate: int = 0
    """A second; so are the others."""
    packets_in_rate: int = 0
    packets_out_rate: int = 0
    bytes_in_rate: int = 0
    bytes_out_rate: int = 0


class Found(Record, frozen=True):
    """A destination as the kernel has it."""

    destination: Destination
    active: int = 0
    """Connections that are established."""
    inactive: int = 0
    """Those that are not, or no longer."""
    persistent: int = 0
    """Clients that are held to it."""
    statistics: Statistics = Statistics()


class Counted(Record, frozen=True):
    """A virtual server as the kernel has it."""

    server: Server
    statistics: Statistics = Statistics()


class Timeouts(Record, frozen=True):
    """How long an idle connection is remembered, in seconds. One setting for the whole network namespace."""

    tcp: int = 0
    tcp_fin: int = 0
    """After a FIN."""
    udp: int = 0


class Verb(Enum):
    """What is to be done. Deleting a server deletes its destinations, at once and with nothing drained."""

    ADD_SERVER = "add-server"
    SET_SERVER = "set-server"
    DELETE_SERVER = "delete-server"
    ADD_DESTINATION = "add-destination"
    SET_DESTINATION = "set-destination"
    DELETE_DESTINATION = "delete-destination"

    __hash__ = object.__hash__


class Command(Record, frozen=True):
    """One thing to be done to the kernel's table."""

    verb: Verb
    server: Server
    """About a destination, and for a deletion, only its key counts."""
    destination: Destination | None = None
    """For a deletion its weight does not count."""
    places: tuple[Place, ...] = ()
    """Destinations of weight 1 that come with a new server; the kernel is told of each after it, see `singly`."""


def singly(commands: Iterable[Command]) -> Iterator[Command]:
    """Yield what the kernel is told one by one: a new server, then each destination that comes with it."""
    for command in commands:
        if command.places:
            yield Command(command.verb, command.server)
            for each in command.places:
                yield Command(Verb.ADD_DESTINATION, command.server, Destination(each.address, each.port))
        else:
            yield command
