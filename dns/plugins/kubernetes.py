"""`kubernetes [ZONES] { ... }`: the names of Services.

The table answers nearly everything before the chain is asked; this handler decides the rest: ExternalName
targets, pod names, reverse misses, and everything while the cluster is not known yet. Until every informer has
listed once, what is known is answered and what is not is SERVFAIL, never NXDOMAIN. A lost API server changes
nothing: the last good records go on answering.
"""

import logging

from dnslib import RR, DNSError, DNSHeader, DNSRecord

from dns.chain import Build, Failure, Handler, Resolve, ZoneSet
from dns.corefile import Directive
from dns.message import Query, Reply, authoritative, empty
from dns.names import to_wire
from dns.plugins.kubernetes_options import KubernetesOptions, read_options
from dns.rrtypes import Rcode, Type
from dns.zone import ClusterZone, Found
from kubeproxy.clock import Clock

log = logging.getLogger(__name__)

MAX_CHAIN = 8
"""How many ExternalName Services may point at one another."""


class Kubernetes:
    """Answers for the cluster's zones."""

    def __init__(
        self, following: Handler, zone: ClusterZone, options: KubernetesOptions, resolve: Resolve
    ) -> None:
        self._next = following
        self._zone = zone
        self._zones = ZoneSet((*zone.settings.zones, *zone.settings.reverse_zones))
        self._falls = ZoneSet(options.fallthrough)
        self._resolve = resolve
        self.synced = False

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        zone = self._zones.match(query.name)
        if zone is None:
            return await self._next.serve(query)
        if query.qtype in (Type.AXFR, Type.IXFR):
            return empty(query, Rcode.REFUSED, "kubernetes")
        found = self._zone.look_up(query.name, query.qtype, zone)
        if found.alias and query.qtype != Type.CNAME:
            return await self._follow(query, found)
        if found.answer is not None:
            return authoritative(query, Rcode.NOERROR, found.answer, "kubernetes")
        rcode = found.rcode
        if rcode is Rcode.NXDOMAIN:
            if self._falls.match(query.name) is not None:
                return await self._next.serve(query)
            rcode = Rcode.NXDOMAIN if self.synced else Rcode.SERVFAIL
        return authoritative(query, rcode, self._zone.denial(query.name, zone), "kubernetes")

    async def _follow(self, query: Query, found: Found) -> Reply:
        """Answer for an ExternalName Service: its CNAME, then what the target has, from wherever that is.

        As with CoreDNS the CNAME stands alone when the target has nothing to give, and also when nobody could
        say what it has: what the Service says is known either way, and the record's TTL is short.
        """
        assert found.answer is not None
        alone = authoritative(query, Rcode.NOERROR, found.answer, "kubernetes")
        if query.depth >= MAX_CHAIN:
            return alone
        try:
            target = await self._resolve(query.asking(to_wire(found.alias)))
        except Failure as failure:
            log.warning("the target %s of an ExternalName Service: %s", found.alias, failure)
            return alone
        if target.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            return alone
        try:
            return _joined(alone, target)
        except (DNSError, ValueError, IndexError, UnicodeError) as error:
            raise Failure(f"{found.alias}: the upstream's answer cannot be read: {error}") from None


def _joined(alone: Reply, target: Reply) -> Reply:
    first, second = DNSRecord.parse(alone.message), DNSRecord.parse(target.message)
    records: list[RR] = [*first.rr, *second.rr]
    header = DNSHeader(id=first.header.id, bitmap=first.header.bitmap)
    header.tc = second.header.tc
    return Reply(bytes(DNSRecord(header, questions=first.questions, rr=records).pack()), alone.plugin)


class ClusterSource:
    """The task beside the handler: follows the cluster and opens the zone for denials once it is known."""

    def __init__(self, zone: ClusterZone, options: KubernetesOptions, clock: Clock) -> None:
        self.zone = zone
        self._options = options
        self._clock = clock
        self._handlers: list[Kubernetes] = []
        self.synced = False

    def serve_through(self, handler: Kubernetes) -> Kubernetes:
        """Have a handler told when the cluster is known."""
        self._handlers.append(handler)
        return handler

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        from dns.watch import follow

        self.zone.touch(int(self._clock.wall()))
        await follow(self.zone, self._options.access, self._clock, self.mark_synced)

    def mark_synced(self) -> None:
        """Everything was listed once: from now on, what is not known does not exist."""
        log.info("plugin/kubernetes: the cluster's Services are known")
        falls = ZoneSet(self._options.fallthrough)
        # The table may deny a name only where nothing falls through to the next plugin.
        self.zone.table.denies = all(falls.match(zone) is None for zone in self.zone.table.zones)
        for handler in self._handlers:
            handler.synced = True
        self.synced = True


def setup(directive: Directive, build: Build) -> None:
    """Read the line and its options."""
    if "kubernetes" in build.links:
        raise directive.wrong("only one kubernetes section allowed per server block")
    options = read_options(directive, build.zones, build.runtime.clock)
    zone = ClusterZone(options.settings, rotate=build.rotate)  # loadbalance stands earlier in ORDER
    source = ClusterSource(zone, options, build.runtime.clock)
    build.table = zone.table
    build.table_zones = (*options.settings.zones, *options.settings.reverse_zones)
    build.tasks.append(source.run)
    build.readiness.append(("kubernetes", lambda: source.synced))
    build.on_bound.append(zone.set_servers)
    build.links["kubernetes"] = lambda following: source.serve_through(
        Kubernetes(following, zone, options, build.resolve)
    )
