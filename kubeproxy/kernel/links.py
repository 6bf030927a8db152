"""What a network namespace holds, as values: links, addresses, routes, neighbours, VXLAN forwarding entries.

Pure, so that planners (`flannel.overlay`) can compare what should be with what is; `interfaces.py` reads them
from the kernel and writes them. Addresses and CIDRs are canonical text, as in `kubeproxy.model.addresses`;
links are known by name, never by index, because a link that is made anew gets another index.
"""

from enum import StrEnum

import msgspec


class Vxlan(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a VXLAN device the one it is; the kernel cannot change any of it afterwards."""

    vni: int
    port: int
    underlay: str
    local: str
    learning: bool = False
    gbp: bool = False


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """A network device. ``mac`` is empty for a device that has none (a TUN)."""

    name: str
    mtu: int
    mac: str = ""
    up: bool = True
    vxlan: Vxlan | None = None


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """An IPv4 address on a link, as ``address/length``."""

    link: str
    address: str


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """An IPv4 route of the main table. ``protocol`` says who wrote it (rtnetlink's number)."""

    destination: str
    link: str
    gateway: str = ""
    onlink: bool = False
    protocol: int = 0


class Neighbour(msgspec.Struct, frozen=True, kw_only=True):
    """A permanent neighbour: whoever sends to ``address`` over the link uses ``mac``."""

    link: str
    address: str
    mac: str


class Forwarding(msgspec.Struct, frozen=True, kw_only=True):
    """A permanent entry of a VXLAN device's forwarding database: frames to ``mac`` go to host ``remote``."""

    link: str
    mac: str
    remote: str


Entry = Address | Route | Neighbour | Forwarding
"""What hangs on a link and goes away with it."""


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """A set of links and of what hangs on them, as it is or as it should be."""

    links: tuple[Link, ...] = ()
    entries: frozenset[Entry] = frozenset()


class Verb(StrEnum):
    """What a step does. PUT makes the thing or overwrites what has its key; DELETE tolerates its absence."""

    PUT = "put"
    DELETE = "delete"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One write to the kernel, as data. A PUT of a Link that stands sets only its MTU, MAC and state."""

    verb: Verb
    item: Link | Entry


def entry_key(entry: Entry) -> tuple[str, ...]:
    """Return what the kernel tells entries apart by: a PUT overwrites the entry with the same key."""
    match entry:
        case Address():
            return ("address", entry.link, entry.address)
        case Route():
            return ("route", entry.destination)
        case Neighbour():
            return ("neighbour", entry.link, entry.address)
        case Forwarding():
            return ("forwarding", entry.link, entry.mac)
