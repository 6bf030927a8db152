"""`log`: one line for every query, in CoreDNS's common format."""

import logging

from dns.chain import Build, Failure, Handler
from dns.corefile import Directive
from dns.message import Query, Reply, empty
from dns.names import to_text
from dns.rrtypes import Rcode, rcode_name, type_name
from kubeproxy.clock import Clock

log = logging.getLogger(__name__)

_FLAGS = ((2, 0x80, "qr"), (2, 0x04, "aa"), (2, 0x02, "tc"), (2, 0x01, "rd"), (3, 0x80, "ra"), (3, 0x20, "ad"))


class Log:
    """Logs every query with what came of it."""

    def __init__(self, following: Handler, clock: Clock) -> None:
        self._next = following
        self._clock = clock

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        start = self._clock.now()
        try:
            reply = await self._next.serve(query)
        except Failure:
            self._write(query, empty(query, Rcode.SERVFAIL, ""), start)
            raise
        self._write(query, reply, start)
        return reply

    def _write(self, query: Query, reply: Reply, start: float) -> None:
        host, port = query.client
        host = f"[{host}]" if ":" in host else host
        flags = [name for at, bit, name in _FLAGS if reply.message[at] & bit]
        if query.checking_disabled:
            flags.append("cd")
        log.info(
            '%s:%d - %d "%s %s %s %s %d %s %d" %s %s %d %.9fs',
            host, port, int.from_bytes(query.packet[:2], "big"),
            type_name(query.qtype), "IN" if query.qclass == 1 else f"CLASS{query.qclass}", to_text(query.name),
            "tcp" if query.stream else "udp", len(query.packet), str(query.dnssec_ok).lower(), query.limit,
            rcode_name(reply.rcode), ",".join(flags), len(reply.message), self._clock.now() - start,
        )  # fmt: skip


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    if directive.args not in ((), (".",)):
        raise directive.wrong("names and formats of log are not built yet")
    for option in directive.block:
        if option.name != "class" or option.args != ("all",):
            raise option.wrong(f"option '{option.name}' of log is not built yet (class all is)")
    build.links["log"] = lambda following: Log(following, build.runtime.clock)
