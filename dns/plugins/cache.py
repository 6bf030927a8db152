"""`cache [TTL] [ZONES]`: answers of upstreams are kept for as long as they may be.

Only what `forward` brought is kept. Names of Services come from a table that is always right, so there is
nothing to win; a cache in front of it would make a Service that was asked for too early stay unknown for 30 s,
as it does with CoreDNS. `disable ... ZONE` lines are therefore taken for every zone, and matter for foreign ones.
"""

from collections import OrderedDict

import msgspec

from dns.chain import Build, Handler, ZoneSet
from dns.corefile import Directive, zone_names
from dns.message import HEADER, Query, Reply, Span, spans
from dns.metrics import Metrics
from dns.rrtypes import Rcode, Type
from kubeproxy.clock import Clock

CAPACITY = 9984
MAX_TTL = 3600
MAX_DENIAL_TTL = 1800
MIN_TTL = 5
SERVFAIL_TTL = 5
_TRUNCATED = 0x02

CacheKey = tuple[bytes, bool, bool, bool]


class Limits(msgspec.Struct, frozen=True):
    """One half of the cache: how many entries, and what is made of their TTLs."""

    capacity: int = CAPACITY
    longest: int = MAX_TTL
    shortest: int = MIN_TTL


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the line says."""

    zones: tuple[str, ...]
    success: Limits = Limits()
    denial: Limits = Limits(CAPACITY, MAX_DENIAL_TTL, MIN_TTL)
    servfail: int = SERVFAIL_TTL
    no_success: tuple[str, ...] = ()
    no_denial: tuple[str, ...] = ()


class _Entry(msgspec.Struct, frozen=True):
    message: bytes
    ttl_places: tuple[int, ...]
    stored: float
    expires: float


class Cache:
    """Keeps replies by question, DO and CD."""

    def __init__(self, following: Handler, options: CacheOptions, clock: Clock, metrics: Metrics) -> None:
        self._next = following
        self._options = options
        self._clock = clock
        self._metrics = metrics
        self._zones = ZoneSet(options.zones)
        self._no_success = ZoneSet(options.no_success)
        self._no_denial = ZoneSet(options.no_denial)
        self.positive: OrderedDict[CacheKey, _Entry] = OrderedDict()
        self.negative: OrderedDict[CacheKey, _Entry] = OrderedDict()

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        if self._zones.match(query.name) is None:
            return await self._next.serve(query)
        key = (query.question.lower(), query.dnssec_ok, query.checking_disabled, query.recursion_desired)
        now = self._clock.now()
        for kind, entries in (("success", self.positive), ("denial", self.negative)):
            entry = entries.get(key)
            if entry is not None and now < entry.expires:
                self._metrics.count("coredns_cache_hits", "The count of cache hits.", type=kind)
                return Reply(_aged(entry, int(now - entry.stored), query), "cache")
        reply = await self._next.serve(query)
        if reply.plugin == "forward":
            self._metrics.count("coredns_cache_misses", "The count of cache misses.")
            self._keep(key, query, reply)
        return reply

    def _keep(self, key: CacheKey, query: Query, reply: Reply) -> None:
        if reply.message[2] & _TRUNCATED:
            return
        found = spans(reply.message, HEADER + len(query.question))
        lifetime = self._lifetime(query, reply, found)
        if not lifetime:
            return
        positive = reply.rcode == Rcode.NOERROR and any(span.section == 1 for span in found)
        entries, limits = (
            (self.positive, self._options.success) if positive else (self.negative, self._options.denial)
        )
        now = self._clock.now()
        places = tuple(span.ttl_at for span in found)
        entries.pop(key, None)
        entries[key] = _Entry(reply.message, places, now, now + lifetime)
        while len(entries) > limits.capacity:
            entries.popitem(last=False)

    def _lifetime(self, query: Query, reply: Reply, found: list[Span]) -> int:
        """How many seconds a reply may be kept; 0: not at all."""
        if reply.rcode == Rcode.SERVFAIL:
            return self._options.servfail
        if reply.rcode not in (Rcode.NOERROR, Rcode.NXDOMAIN):
            return 0
        ttls = [int.from_bytes(reply.message[span.ttl_at : span.ttl_at + 4], "big") for span in found]
        if reply.rcode == Rcode.NOERROR and any(span.section == 1 for span in found):
            if self._no_success.match(query.name) is not None:
                return 0
            return _bounded(min(ttls), self._options.success)
        soa = next((span for span in found if span.kind == Type.SOA and span.section == 2), None)
        if soa is None or self._no_denial.match(query.name) is not None:
            return 0
        minimum = int.from_bytes(reply.message[soa.end - 4 : soa.end], "big")
        return _bounded(min(*ttls, minimum), self._options.denial)


def _bounded(ttl: int, limits: Limits) -> int:
    return max(limits.shortest, min(ttl, limits.longest)) if ttl < 1 << 31 else 0


def _aged(entry: _Entry, age: int, query: Query) -> bytes:
    """Return the message as old as it is: every TTL less by its age, and never more than what is left."""
    left = max(0, int(entry.expires - entry.stored) - age)
    message = bytearray(entry.message)
    for place in entry.ttl_places:
        ttl = int.from_bytes(message[place : place + 4], "big")
        message[place : place + 4] = min(max(ttl - age, 0), left).to_bytes(4, "big")
    message[:2] = query.packet[:2]
    return bytes(message)


def setup(directive: Directive, build: Build) -> None:
    """Read the line and its options."""
    args = list(directive.args)
    longest = _seconds(args.pop(0), directive) if args and args[0].isdigit() else 0
    zones = tuple(zone for arg in args for zone in zone_names(arg, directive.word)) or build.zones
    values: dict[str, object] = {"zones": zones}
    if longest:
        values["success"] = Limits(CAPACITY, min(longest, MAX_TTL))
        values["denial"] = Limits(CAPACITY, min(longest, MAX_DENIAL_TTL))
    for option in directive.block:
        _read_option(option, values, zones)
    options = CacheOptions(**values)  # type: ignore[arg-type]
    clock, metrics = build.runtime.clock, build.runtime.metrics

    def link(following: Handler) -> Handler:
        cache = Cache(following, options, clock, metrics)
        for kind, entries in (("success", cache.positive), ("denial", cache.negative)):
            metrics.gauge(
                "coredns_cache_entries", "The number of elements in the cache.", _counter(entries), type=kind
            )
        return cache

    build.links["cache"] = link


def _counter(entries: OrderedDict[CacheKey, _Entry]) -> "_Count":
    return _Count(entries)


class _Count:
    def __init__(self, entries: OrderedDict[CacheKey, _Entry]) -> None:
        self._entries = entries

    def __call__(self) -> float:
        return float(len(self._entries))


def _seconds(text: str, directive: Directive) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) <= 0:
        raise directive.wrong(f"cache TTL can not be zero or negative: {text[:40]}")
    return int(text)


def _read_option(option: Directive, values: dict[str, object], zones: tuple[str, ...]) -> None:
    if option.name in ("success", "denial"):
        numbers = [_seconds(text, option) for text in option.args]
        if not 1 <= len(numbers) <= 3:
            raise option.wrong(f"wrong argument count or unexpected line ending after '{option.name}'")
        longest = MAX_TTL if option.name == "success" else MAX_DENIAL_TTL
        values[option.name] = Limits(*numbers, *(longest, MIN_TTL)[len(numbers) - 1 :])
    elif option.name == "disable":
        if not option.args or option.args[0] not in ("success", "denial"):
            raise option.wrong("disable needs success or denial")
        named = tuple(zone for arg in option.args[1:] for zone in zone_names(arg, option.word))
        values[f"no_{option.args[0]}"] = named or zones
    else:
        raise option.wrong(f"option '{option.name}' of cache is not built yet, or unknown")
