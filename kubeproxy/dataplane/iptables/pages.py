"""The chains of a large Service's endpoints: a page of them for each run, made once while the run stays. Pure.

A connection takes a group of runs, then a run, a row in it, and an endpoint there; each with its share of what is
left, so all endpoints have the same chance. A page depends on nothing but its run and the chain that leads to it,
and its chains are called after the run's first endpoint. So a changed endpoint makes one page anew, and beside it
the few chains above the runs, which cost a look at each run.

10,000 endpoints cost a connection some 25 random draws: among 79 runs 3 + 8, in a run of 128 endpoints 4 + 11.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kubeproxy.dataplane.iptables import names
from kubeproxy.dataplane.iptables.choose import FAN_OUT, in_a_row, share_out
from kubeproxy.model.desired import Target
from kubeproxy.model.objects import Record
from kubeproxy.model.runs import Runs

ROW = 25
"""Endpoints of a chain. Fewer cost a connection less, and a replaced table more: a chain takes three entries."""


class Page(Record, frozen=True):
    """The chains of a run. No two pages that differ have the same text."""

    chains: tuple[str, ...]
    """The first is the one that leads to the others."""
    text: str
    """The lines that make and fill them."""
    rules: int


class Way(NamedTuple):
    """Where rules that choose an endpoint stand, and what they say."""

    chain: str
    """The Service port's own, of which each connection takes one endpoint."""
    match: str
    """What a rule asks of a packet before it gives it to an endpoint ("-p tcp ", say)."""
    jump: str
    """What it does then, up to the endpoint ("-j DNAT --to-destination ")."""


def spread(way: Way, targets: Runs[Target], chains: list[str], lines: list[str]) -> list[Page]:
    """Fill a chain so that each endpoint is chosen equally often; return the pages that it leads to.

    Chains between it and the pages are added to ``chains``, their lines and its own to ``lines``: these must stand
    behind the pages' text.
    """
    pages = [run.derived(_page, way) for run in targets.runs]
    branches = [(page.chains[0], len(run.entries)) for page, run in zip(pages, targets.runs, strict=True)]
    if len(branches) > FAN_OUT:
        # One level of groups, whatever the number of runs: nftables follows chains only so deep.
        size = max(FAN_OUT, -(-len(branches) // FAN_OUT))
        branches = [
            _group(names.part_chain(way.chain, start // size + 1), branches[start : start + size], chains, lines)
            for start in range(0, len(branches), size)
        ]
    share_out(way.chain, branches, lines)
    return pages


def unshared(some: Sequence[Page], others: Sequence[Page]) -> list[Page]:
    """Return the pages that are not among others."""
    known = {page.text for page in others}
    return [page for page in some if page.text not in known]


def _group(
    chain: str, branches: Sequence[tuple[str, int]], chains: list[str], lines: list[str]
) -> tuple[str, int]:
    chains.append(chain)
    lines.append(f":{chain} - [0:0]\n")
    share_out(chain, branches, lines)
    return chain, sum([weight for _, weight in branches])


def _page(targets: tuple[Target, ...], way: Way) -> Page:
    ends = [target.text for target in targets]
    base = names.run_chain(way.chain, ends[0])
    chain = names.part_chain(base, 0)
    chains, lines = [chain], [f":{chain} - [0:0]\n"]
    if len(ends) <= ROW:
        in_a_row(chain, way.match, way.jump, ends, lines)
    else:
        size = -(-len(ends) // -(-len(ends) // ROW))
        rows = [ends[start : start + size] for start in range(0, len(ends), size)]
        for number, row in enumerate(rows, 1):
            part = names.part_chain(base, number)
            chains.append(part)
            lines.append(f":{part} - [0:0]\n")
            in_a_row(part, way.match, way.jump, row, lines)
        share_out(chain, [(part, len(row)) for part, row in zip(chains[1:], rows, strict=True)], lines)
    return Page(tuple(chains), "".join(lines), len(lines) - len(chains))
