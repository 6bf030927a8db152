"""What one Service port is in the words of ipvs mode. Pure values, made by `render`, counted by `backend`.

Several ports may ask for the same thing (an address with two ports, an endpoint of two Services), so nothing
here is the kernel's state itself: that is the union over all ports.
"""

from kubeproxy.dataplane.ipvs.names import Set
from kubeproxy.kernel.ipset_messages import Member
from kubeproxy.kernel.ipvs_types import Place, Server
from kubeproxy.model.objects import Record

Entry = tuple[Set, Member]
"""A member of a set."""


class Virtual(Record, frozen=True):
    """A virtual server, where it leads, and what the rules must know of its place."""

    server: Server
    destinations: tuple[Place, ...]
    """Each has weight 1. May be empty: then clients are refused."""
    entries: tuple[Entry, ...] = ()
    """Count only where this virtual server has its place: see the next field."""
    is_node_port: bool = False
    """Whether it gives way to a virtual server that somebody else's external address asks for."""


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
