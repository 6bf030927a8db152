"""From packet to reply for one listening address: table, else plugin chain; counts; never an exception.

A `Dispatcher` is what a listener needs: `fast` for the hot path, `serve` for everything else. A reload puts a
new one in place of the old; sockets stay.
"""

import logging

from dns.answers import AnswerTable
from dns.chain import Build, Failure, Handler, Refuse, ZoneSet
from dns.message import Query, Reply, empty, finish, read_query
from dns.metrics import Metrics, Series
from dns.names import is_below, to_text
from dns.plugins import BEFORE_KUBERNETES, ORDER
from dns.rrtypes import IN, Rcode
from kubeproxy.clock import Clock

log = logging.getLogger(__name__)


def link_chain(build: Build) -> Handler:
    """Put a block's handlers together, the first of ORDER in front; one chain for all addresses that it serves."""
    if build.chain is None:
        handler: Handler = Refuse()
        for name in reversed(ORDER):
            if name in build.links:
                handler = build.links[name](handler)
        build.chain = handler
    return build.chain


class Dispatcher:
    """Answers the queries that come in at one address and port."""

    def __init__(self, builds: dict[str, Build], port: int, clock: Clock, metrics: Metrics) -> None:
        chains = {id(build): link_chain(build) for build in builds.values()}
        self._chains = {zone: chains[id(build)] for zone, build in builds.items()}
        self._zones = ZoneSet(tuple(builds))
        self._clock = clock
        self._metrics = metrics
        self._server = f"dns://:{port}"
        self._metered = {zone for zone, build in builds.items() if build.metered}
        self._table, self._table_zone = _fast_table(builds)
        self._series: dict[tuple[str, bool, bool], Series | None] = {}
        for build in builds.values():
            build.attach(self.resolve)

    def fast(self, packet: bytes, stream: bool, ipv6: bool) -> bytes | None:
        """Return the reply if the table has it, else None. Never raises."""
        if self._table is None:
            return None
        start = self._clock.now()
        reply = self._table.respond(packet, stream)
        if reply is None:
            return None
        series = self._series_of(self._table_zone, stream, ipv6)
        if series is not None:
            end = len(packet) - (11 if packet[11] else 0)
            qtype = packet[end - 4] << 8 | packet[end - 3]
            seconds = self._clock.now() - start
            series.add(qtype, reply[3] & 0x0F, "kubernetes", seconds, len(packet), len(reply))
        return reply

    async def serve(self, packet: bytes, stream: bool, client: tuple[str, int]) -> bytes | None:
        """Return the reply to any packet, None for what gets none. Never raises."""
        start = self._clock.now()
        query = read_query(packet, stream=stream, client=client)
        if not isinstance(query, Query):
            return query
        zone = self._zones.match(query.name)
        reply = await self._safely(query, zone)
        wire = finish(query, reply)
        series = self._series_of(zone, stream, ":" in client[0])
        if series is not None:
            seconds = self._clock.now() - start
            series.add(query.qtype, reply.rcode, reply.plugin, seconds, len(packet), len(wire))
        return wire

    async def resolve(self, query: Query) -> Reply:
        """Send a query to the chain that its name belongs to. Raises Failure."""
        zone = self._zones.match(query.name)
        if zone is None or query.qclass != IN:
            return empty(query, Rcode.REFUSED, "")
        return await self._chains[zone].serve(query)

    async def _safely(self, query: Query, zone: str | None) -> Reply:
        try:
            return await self.resolve(query)
        except Failure:
            return empty(query, Rcode.SERVFAIL, "")
        except Exception:
            # A fault of ours must cost one answer, not the process: count it, show it, go on.
            self._metrics.panics += 1
            log.exception("panic while answering %s type %d", to_text(query.name), query.qtype)
            return empty(query, Rcode.SERVFAIL, "")

    def _series_of(self, zone: str | None, stream: bool, ipv6: bool) -> Series | None:
        key = (zone or "dropped", stream, ipv6)
        if key not in self._series:
            metered = zone in self._metered
            family, proto = ("2" if ipv6 else "1"), ("tcp" if stream else "udp")
            self._series[key] = self._metrics.series(self._server, key[0], proto, family) if metered else None
        return self._series[key]


def _fast_table(builds: dict[str, Build]) -> tuple[AnswerTable | None, str | None]:
    """Return the table that may answer before the chain is asked, and its block's zone.

    None when a plugin must see the queries first, when there are several tables, or when another block serves
    something inside the table's zones.
    """
    own = {zone: build for zone, build in builds.items() if build.table is not None}
    if len({id(build) for build in own.values()}) != 1:
        return None, None
    build = next(iter(own.values()))
    if any(directive.name in BEFORE_KUBERNETES for directive in build.block.directives):
        return None, None
    foreign = [zone for zone in builds if zone not in own]
    shadowed = any(is_below(other, zone) for other in foreign for zone in build.table_zones)
    reached = all(any(is_below(zone, mine) for mine in own) for zone in build.table_zones)
    return (None, None) if shadowed or not reached else (build.table, min(own, key=len))
