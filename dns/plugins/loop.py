"""`loop`: finds out whether forwarded queries come back to us, and ends it.

Shortly after the start a HINFO query for a random name goes down the chain. If it comes back in from outside
more than twice, `forward` leads back here. CoreDNS then exits; we stop forwarding and say so, because the names
of Services need no upstream.
"""

import logging
import secrets

from dns.answers import STREAM_LIMIT
from dns.chain import Build, Failure, Handler
from dns.corefile import Directive
from dns.message import Query, Reply
from dns.names import to_wire
from dns.rrtypes import Type
from dns.wire import counts, question_of

log = logging.getLogger(__name__)

ALLOWED_SIGHTINGS = 2
PROBES = 15
PROBE_DELAY_SECONDS = 0.2
PROBE_PAUSE_SECONDS = 2.0


class Loop:
    """Stands right before `forward`."""

    def __init__(self, following: Handler) -> None:
        self.broken = False
        """A loop was found: nothing is forwarded any more."""
        self._next = following
        self._name = b""
        self._seen = 0

    def suspect(self, name: bytes) -> None:
        """Watch for a probe of that name. One at a time, so that probes which nobody answered do not add up."""
        self._name, self._seen = name, 0

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        if query.qtype == Type.HINFO and query.name == self._name:
            self._seen += 1
            if self._seen > ALLOWED_SIGHTINGS and not self.broken:
                self.broken = True
                log.error(
                    "plugin/loop: forwarded queries come back to this server. Foreign names get SERVFAIL from now "
                    "on; let `forward` (or the resolv.conf it names) point at another server and restart"
                )
        if self.broken:
            raise Failure("forwarding is stopped: it leads back to this server")
        return await self._next.serve(query)


def _random_name(zone: str) -> bytes:
    token = ".".join(str(secrets.randbelow(1 << 62)) for _ in range(2))
    return to_wire(f"{token}.{zone}" if zone != "." else f"{token}.")


def _probe_query(name: bytes) -> Query:
    question = question_of(name, Type.HINFO)
    packet = secrets.token_bytes(2) + b"\x01\x00" + counts(0) + question
    return Query(packet, question, name, Type.HINFO, 1, limit=STREAM_LIMIT)


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    if directive.args or directive.block:
        raise directive.wrong("loop takes no arguments")
    handlers: list[Loop] = []

    def link(following: Handler) -> Handler:
        handlers.append(Loop(following))
        return handlers[-1]

    async def probe() -> None:
        """Ask until somebody answers: at the start of a pod its network may not be there yet."""
        pause = PROBE_DELAY_SECONDS
        for _ in range(PROBES):
            await build.runtime.clock.sleep(pause)
            pause = PROBE_PAUSE_SECONDS
            name = _random_name(build.zones[0])
            handlers[0].suspect(name)
            try:
                await handlers[0].serve(_probe_query(name))
            except Failure as failure:
                log.debug("plugin/loop: the probe was not answered: %s", failure)
            else:
                return

    build.links["loop"] = link
    build.tasks.append(probe)
