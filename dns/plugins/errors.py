"""`errors`: one line in the log for every query that could not be answered."""

import logging

from dns.chain import Build, Failure, Handler
from dns.corefile import Directive
from dns.message import Query, Reply
from dns.names import to_text
from dns.rrtypes import Rcode, type_name

log = logging.getLogger(__name__)


class Errors:
    """Logs what the rest of the chain fails at."""

    def __init__(self, following: Handler) -> None:
        self._next = following

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        try:
            return await self._next.serve(query)
        except Failure as failure:
            name, kind = to_text(query.name), type_name(query.qtype)
            log.error("plugin/errors: %d %s %s: %s", Rcode.SERVFAIL, name, kind, failure)
            raise


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    if directive.args not in ((), ("stdout",)):
        raise directive.wrong(f"unknown errors destination: {directive.args[0]}")
    for option in directive.block:
        raise option.wrong(f"option '{option.name}' of errors is not built yet")
    build.links["errors"] = Errors
