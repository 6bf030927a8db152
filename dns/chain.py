"""The plugin seam: what a Corefile line becomes, and what a handler in the chain may expect.

A plugin module has one function, ``setup(directive, build)``. It reads its line (raising CorefileError) and
adds to the `Build` of its server block what it needs: a link of the chain, a task that runs beside it, an HTTP
page, a bind address. Nothing happens yet: sockets open and tasks start when the whole file is good.

A `Handler` answers a query or hands it to the next one; the last one refuses. One that cannot answer raises
`Failure`, which `errors` logs and the server turns into SERVFAIL.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from dns.answers import AnswerTable
from dns.corefile import ServerBlock
from dns.message import Query, Reply, empty
from dns.metrics import Metrics
from dns.names import to_wire
from dns.rrtypes import Rcode
from kubeproxy.clock import Clock

Resolve = Callable[[Query], Awaitable[Reply]]


class Failure(Exception):
    """The query cannot be answered now (no upstream answers): SERVFAIL; the text is for the log."""


class Handler(Protocol):
    """A link of the chain."""

    async def serve(self, query: Query) -> Reply:
        """Answer, or let the next handler do it. Raises Failure."""
        ...


Link = Callable[[Handler], Handler]
"""Makes a handler, given the next one."""


class Page(msgspec.Struct, frozen=True):
    """An HTTP page: where it is served and what makes it: (status, content type, body)."""

    address: str
    path: str
    render: Callable[[], tuple[int, str, bytes]]


class Runtime(msgspec.Struct, frozen=True):
    """What the process gives to all plugins."""

    clock: Clock
    metrics: Metrics
    corefile: str
    """Path of the file, for messages and relative names."""
    request_reload: Callable[[], Awaitable[None]]
    """Re-reads the Corefile if it has changed; the last good one stays if the new one is bad."""


class Build:
    """What the plugins of one server block ask for."""

    def __init__(self, block: ServerBlock, runtime: Runtime) -> None:
        self.block = block
        self.runtime = runtime
        self.links: dict[str, Link] = {}
        self.chain: Handler | None = None
        """The links put together, once a server has done so."""
        self.tasks: list[Callable[[], Awaitable[None]]] = []
        self.pages: list[Page] = []
        self.binds: list[str] = []
        self.readiness: list[tuple[str, Callable[[], bool]]] = []
        """What /ready waits for."""
        self.table: AnswerTable | None = None
        """Answers that need no chain, and the zones (forward and reverse) that they lie in."""
        self.table_zones: tuple[str, ...] = ()
        self.rotate = False
        """Whether address sets are turned from answer to answer (loadbalance)."""
        self.metered = False
        """Whether prometheus stands in the block."""
        self.lameduck = 0.0
        """Seconds to go on answering after the signal to end (health)."""
        self.on_bound: list[Callable[[tuple[str, ...]], None]] = []
        """Told the addresses at which this block is reached, loopback left out."""
        self._resolve: Resolve | None = None

    @property
    def zones(self) -> tuple[str, ...]:
        """The block's own zones, for plugins whose line names none."""
        return tuple(dict.fromkeys(zone for zone, _ in self.block.zones))

    def attach(self, resolve: Resolve) -> None:
        """Say how a query is sent through the whole server again."""
        self._resolve = resolve

    async def resolve(self, query: Query) -> Reply:
        """Send a query through the whole server again: names that an answer points to."""
        assert self._resolve is not None, "a chain serves only after it was attached to its server"
        return await self._resolve(query)


class Refuse:
    """The end of every chain: nobody is responsible for the name."""

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        return empty(query, Rcode.REFUSED, "")


class ZoneSet:
    """Zones in wire form, for the question which of them a name lies in."""

    def __init__(self, zones: tuple[str, ...]) -> None:
        self._zones = sorted(((to_wire(zone), zone) for zone in zones), key=lambda pair: -len(pair[0]))

    def match(self, name: bytes) -> str | None:
        """Return the longest zone that a checked wire name (lower case) lies in, or None."""
        for wire, zone in self._zones:
            if name.endswith(wire) and _at_label(name, len(name) - len(wire)):
                return zone
        return None


def _at_label(name: bytes, at: int) -> bool:
    place = 0
    while place < at:
        place += name[place] + 1
    return place == at
