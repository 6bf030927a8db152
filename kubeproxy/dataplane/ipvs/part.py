"""What one Service port is in the words of ipvs mode. Pure values, made by `render`, counted by `backend`.

Several ports may ask for the same thing (an address with two ports, an endpoint of two Services), so nothing
here is the kernel's state itself: that is the union over all ports.
"""

from collections.abc import Sequence

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Place, Server, ServerKey
from kubeproxy.model.objects import Protocol, Record

Entry = tuple[Set, Member]
"""A member of a set."""


def place_of(key: ServerKey) -> tuple[str, Protocol, int]:
    """Return the place of a virtual server by address, as sets have it."""
    assert key.protocol is not None
    return key.address, key.protocol, key.port


class Virtual(Record, frozen=True):
    """A virtual server, where it leads, and what the rules must know of its place."""

    server: Server
    destinations: Sequence[Place]
    """Each has weight 1. May be empty: then clients are refused."""
    roles: tuple[Set, ...] = ()
    """Sets that have its place as an entry."""
    more: tuple[Entry, ...] = ()
    """Other entries about its place; nobody else's place has the same."""
    is_node_port: bool = False
    """Whether it gives way to a virtual server that somebody else's external address asks for."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries of its own, made anew. They count only where this virtual server has its place."""
        if not self.roles:
            return self.more
        place = place_of(self.server.key)
        return (*[(role, place) for role in self.roles], *self.more)


class Part(Record, frozen=True, kw_only=True):
    """One Service port."""

    virtuals: tuple[Virtual, ...] = ()
    addresses: tuple[str, ...] = ()
    """Virtual addresses; those that no other device has are made local."""
    entries: tuple[Entry, ...] = ()
    """Members of sets that have nothing to do with a virtual server's place: `LOOP_BACK`, `HEALTH_CHECKS`.

    Those of `Set.ADDRESSES` and `Set.SERVERS` are nowhere here: they follow from the above.
    """


NOTHING = Part()
