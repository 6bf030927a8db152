"""`loadbalance [round_robin]`: address records start with another one in every answer.

Answers from the table are rotated there (`AnswerTable.rotate`); this link turns those of other plugins.
"""

from dns.chain import Build, Handler
from dns.corefile import Directive
from dns.message import HEADER, Query, Reply, Span, spans
from dns.rrtypes import Type


class LoadBalance:
    """Rotates the addresses at the end of the Answer section, leaving CNAMEs in front of them."""

    def __init__(self, following: Handler) -> None:
        self._next = following
        self._turn = 0

    async def serve(self, query: Query) -> Reply:
        """See `Handler.serve`."""
        reply = await self._next.serve(query)
        if int.from_bytes(reply.message[6:8], "big") < 2 or query.qtype not in (Type.A, Type.AAAA):
            return reply
        found = [span for span in spans(reply.message, HEADER + len(query.question)) if span.section == 1]
        addresses = [span for span in found if span.kind == query.qtype]
        if len(addresses) < 2 or found[-len(addresses) :] != addresses or not _same_shape(addresses):
            return reply
        self._turn += 1
        start, end, size = addresses[0].start, addresses[-1].end, addresses[0].end - addresses[0].start
        block = reply.message[start:end]
        at = self._turn * size % len(block)
        return Reply(reply.message[:start] + block[at:] + block[:at] + reply.message[end:], reply.plugin)


def _same_shape(addresses: list[Span]) -> bool:
    """Whether the records may change places: a first one with its owner written out may be pointed at."""
    size = addresses[0].end - addresses[0].start
    return all(span.end - span.start == size and span.ttl_at - span.start == 6 for span in addresses)


def setup(directive: Directive, build: Build) -> None:
    """Read the line."""
    if directive.args not in ((), ("round_robin",)):
        raise directive.wrong(f"policy '{directive.args[0]}' is not built yet (round_robin is)")
    for option in directive.block:
        raise option.wrong(f"option '{option.name}' of loadbalance is not built yet")
    build.rotate = True
    build.links["loadbalance"] = LoadBalance
