"""How many rules become a tree of short chains, by the digits of the places that they are for. Pure.

The rules stand in one sorted list, so everything below a prefix is a slice of it, and the whole tree follows from
the list: which way it came about makes no difference. A chain of few rules is just these. A longer one branches by
the first digit in which its places differ, into at most 16 parts: a part of one rule stays in the chain, any other
is a chain of its own.

Cost: that of the chains that are looked at; `changes` looks at those on the way to what has changed, at what came
or went with them, and, when a new rule far from all others puts the tree a level deeper, at all.
"""

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

SPLIT = 32
"""More rules than this branch. Each chain costs the table three entries, a rule that is passed costs 3 ns."""

DEEPEST = 8
"""Levels. nftables follows chains 16 deep, no deeper: one leads here, six lead on to the last part of a Service.
10,000 addresses drawn from a network take three. Who chooses theirs to make it more than eight has a long chain.
"""


class Span(NamedTuple):
    """A chain: which part of the list is below it."""

    start: int
    end: int
    depth: int


class Content(NamedTuple):
    """What stands in a chain."""

    rules: Sequence[str]
    branches: dict[str, Span]
    """By their prefixes."""


EMPTY = Content((), {})


class Changes(NamedTuple):
    """Chains that differ, or may, by their prefixes; "" is the root, which is always there."""

    before: dict[str, Content]
    after: dict[str, Content]


def content(rules: Sequence[str], prefix: str, span: Span, width: int) -> Content:
    """Return what stands in one chain; a place has ``width`` digits, and each rule begins with its own."""
    start, end, depth = span
    if end - start <= SPLIT or depth == DEEPEST:
        return Content(rules[start:end], {})
    first, last = rules[start], rules[end - 1]
    digit = len(prefix)
    while digit < width and first[digit] == last[digit]:
        digit += 1
    if digit == width:  # all for one place
        return Content(rules[start:end], {})
    alone: list[str] = []
    branches: dict[str, Span] = {}
    while start < end:
        part = rules[start][: digit + 1]
        stop = bisect_left(rules, part + "~", start, end)
        if stop == start + 1:
            alone.append(rules[start])
        else:
            branches[part] = Span(start, stop, depth + 1)
        start = stop
    return Content(alone, branches)


def changes(before: Sequence[str], after: Sequence[str], touched: Sequence[str], width: int) -> Changes:
    """Compare the trees of two lists; ``touched`` are the rules that only one of them has, sorted."""
    old: dict[str, Content] = {}
    new: dict[str, Content] = {}
    spans: dict[str, list[Span | None]] = {"": [Span(0, len(before), 0), Span(0, len(after), 0)]}
    # A chain may hang elsewhere than before. By length: then it is known which sides have a chain when it is met.
    queue = [(0, "")]
    while queue:
        _, prefix = heappop(queue)
        was, will_be = spans.pop(prefix)
        if was and will_be and was.depth == will_be.depth and not _any_below(prefix, touched):
            continue
        for side, rules, span, found in ((0, before, was, old), (1, after, will_be, new)):
            if span is None:
                continue
            found[prefix] = content(rules, prefix, span, width)
            for branch, below in found[prefix].branches.items():
                if branch not in spans:
                    spans[branch] = [None, None]
                    heappush(queue, (len(branch), branch))
                spans[branch][side] = below
    return Changes(old, new)


def _any_below(prefix: str, touched: Sequence[str]) -> bool:
    at = bisect_left(touched, prefix)
    return at < len(touched) and touched[at].startswith(prefix)
