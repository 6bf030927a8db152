"""`forward FROM TO... { ... }`: names that are not ours go to the resolvers that know them.

Health is what the answers say: an upstream that failed twice in a row rests for a while, and is asked again
when all others fail too. A UDP reply that was cut is fetched again over TCP, so that the cache holds it whole.
"""

import logging
import random
from pathlib import Path

import msgspec

from dns.chain import Build, Failure, Handler, ZoneSet
from dns.corefile import Directive, zone_names
from dns.message import Malformed, Query, Reply, empty
from dns.metrics import Metrics
from dns.rrtypes import Rcode, rcode_name
from dns.upstream import Upstream
from kubeproxy.clock import Clock
from kubeproxy.model.addresses import canonical_ip

log = logging.getLogger(__name__)

READ_SECONDS = 2.0
TOTAL_SECONDS = 5.0
MAX_UPSTREAMS = 15
_TRUNCATED = 0x02
POLICIES = ("random", "round_robin", "sequential")


class ForwardOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the line says besides the upstreams."""

    zones: tuple[str, ...]
    excepted: tuple[str, ...] = ()
    policy: str = "random"
    force_tcp: bool = False
    prefer_udp: bool = False
    max_concurrent: int = 0
    """0: no bound; above it, queries are refused."""


class Forward:
    """Asks upstreams."""

    def __init__(
        self,
        following: Handler,
        upstreams: list[Upstream],
        options: ForwardOptions,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._next = following
        self._upstreams = upstreams
        self._options = options
        self._zones = ZoneSet(options.zones)
        self._excepted = ZoneSet(options.excepted)
        self._clock = clock
        self._metrics = metrics
        self._turn = 0
        self._under_way = 0

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        if self._zones.match(query.name) is None or self._excepted.match(query.name) is not None:
            return await self._next.serve(query)
        if self._options.max_concurrent and self._under_way >= self._options.max_concurrent:
            self._metrics.count(
                "coredns_forward_max_concurrent_rejects",
                "Counter of the number of queries rejected because the concurrent queries were at maximum.",
            )
            return empty(query, Rcode.REFUSED, "forward")
        self._under_way += 1
        try:
            return await self._ask_in_turn(query)
        finally:
            self._under_way -= 1

    async def _ask_in_turn(self, query: Query) -> Reply:
        if not self._upstreams:
            raise Failure("no upstream: the resolv.conf names no server that is not this one")
        deadline = self._clock.now() + TOTAL_SECONDS
        reason = ""
        for upstream in self._order():
            left = deadline - self._clock.now()
            if left <= 0:
                break
            try:
                return await self._ask(upstream, query, min(left, READ_SECONDS))
            except (OSError, TimeoutError, Malformed) as error:
                reason = f"{upstream}: {str(error) or 'i/o timeout'}"
                self._metrics.count(
                    "coredns_forward_healthcheck_failures", "Counter of the number of failed exchanges.",
                    to=str(upstream),
                )  # fmt: skip
        raise Failure(reason or "time ran out")

    async def _ask(self, upstream: Upstream, query: Query, timeout: float) -> Reply:
        stream = self._options.force_tcp or (query.stream and not self._options.prefer_udp)
        message = await upstream.ask(query, timeout, stream=stream)
        if message[2] & _TRUNCATED and not stream:
            message = await self._whole(upstream, query, timeout) or message
        self._metrics.count(
            "coredns_proxy_requests", "Counter of requests made per proxy, upstream and response code.",
            proxy_name="forward", to=str(upstream), rcode=rcode_name(message[3] & 0x0F),
        )  # fmt: skip
        return Reply(message, "forward")

    async def _whole(self, upstream: Upstream, query: Query, timeout: float) -> bytes | None:
        """Fetch over TCP what did not fit into UDP; None when the upstream has no TCP: the cut reply stands."""
        try:
            return await upstream.ask(query, timeout, stream=True)
        except (OSError, TimeoutError, Malformed) as error:
            log.debug("plugin/forward: %s: no TCP after a truncated reply: %s", upstream, error)
            return None

    def _order(self) -> list[Upstream]:
        """The upstreams in the policy's order, the resting ones last."""
        order = list(self._upstreams)
        if self._options.policy == "random":
            random.shuffle(order)
        elif self._options.policy == "round_robin":
            self._turn = (self._turn + 1) % len(order)
            order = order[self._turn :] + order[: self._turn]
        return sorted(order, key=lambda upstream: not upstream.healthy)


def setup(directive: Directive, build: Build) -> None:
    """Read the line and its options."""
    if len(directive.args) < 2:
        raise directive.wrong("a zone and at least one upstream are expected")
    values: dict[str, object] = {"zones": tuple(zone_names(directive.args[0], directive.word))}
    for option in directive.block:
        _read_option(option, values)
    options = msgspec.convert(values, ForwardOptions)
    clock = build.runtime.clock
    servers = [server for text in directive.args[1:] for server in _servers(text, directive)]
    own = {(address, port) for address in build.binds for _, port in build.block.zones}
    kept = [server for server in dict.fromkeys(servers) if server not in own]
    for host, port in set(servers) - set(kept):
        log.warning("plugin/forward: %s port %d is this server itself: left out", host, port)
    if len(kept) > MAX_UPSTREAMS:
        raise directive.wrong(f"more than {MAX_UPSTREAMS} TOs configured: {len(kept)}")
    upstreams = [Upstream(host, port, clock) for host, port in kept]
    previous = build.links.get("forward")

    def link(following: Handler) -> Handler:
        after = previous(following) if previous else following
        return Forward(after, upstreams, options, clock, build.runtime.metrics)

    build.links["forward"] = link


def _read_option(option: Directive, values: dict[str, object]) -> None:
    if option.name == "except":
        values["excepted"] = tuple(zone for arg in option.args for zone in zone_names(arg, option.word))
    elif option.name == "policy":
        if option.one_arg() not in POLICIES:
            raise option.wrong(f"unknown policy '{option.args[0][:40]}'")
        values["policy"] = option.args[0]
    elif option.name in ("force_tcp", "prefer_udp"):
        values[option.name] = True
    elif option.name == "max_concurrent":
        text = option.one_arg()
        if not (text.isascii() and text.isdigit()):
            raise option.wrong(f"max_concurrent can't be negative or no number: {text[:40]}")
        values["max_concurrent"] = int(text)
    else:
        raise option.wrong(f"option '{option.name}' of forward is not built yet, or unknown")


def _servers(text: str, directive: Directive) -> list[tuple[str, int]]:
    """Return the (address, port) pairs of an upstream or of the resolv.conf that it names."""
    if "://" in text and not text.startswith("dns://"):
        raise directive.wrong(f"upstream '{text[:80]}': only plain DNS is built yet")
    text = text.removeprefix("dns://")
    if "/" in text:
        return _from_resolv_conf(Path(text), directive)
    host, port = text, "53"
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":") or "53"
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    address = canonical_ip(host)
    if address is None or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise directive.wrong(f"not an IP address or file: '{text[:80]}'")
    return [(address, int(port))]


def _from_resolv_conf(path: Path, directive: Directive) -> list[tuple[str, int]]:
    try:
        lines = path.read_text("utf-8", "replace").splitlines()
    except OSError as error:
        raise directive.wrong(f"not an IP address or file: '{path}': {error.strerror}") from None
    found = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and (address := canonical_ip(words[1])) is not None:
            found.append((address, 53))
    if not found:
        log.warning("plugin/forward: %s names no server: foreign names get SERVFAIL", path)
    return found
