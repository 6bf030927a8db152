"""When do two iptables states mean the same? A normal form of a chain's rules, whatever the layout.

Two neighbouring rules may be exchanged when no packet can match both (another destination, protocol, port,
source or interface), or when it makes no difference which one it meets: both drop, both refuse. So the states
are equal when each chain has the same rules, and any two rules of a chain that one packet could match stand in
the same order: jumps of built-in chains, the rules that choose an endpoint, the jump to the node ports after
every address, all keep their places. The normal form is the smallest text among all that such exchanges lead to
(the lexicographic normal form of a trace monoid), so that comparing is `==` and a difference reads well.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

Network = IPv4Network | IPv6Network
Chains = dict[str, list[str]]


class Match(NamedTuple):
    """What a packet must have for a rule; None is anything. What is said with `!` does not count."""

    source: Network | None
    destination: Network | None
    protocol: str | None
    port: str | None
    interface: str | None
    end: str
    """What becomes of it, when that is all that the rule does."""

    def commutes(self, other: "Match") -> bool:
        """Return whether no packet matches both, or both do the same to it."""
        if self.end and self.end == other.end:
            return True
        for one, two in ((self.source, other.source), (self.destination, other.destination)):
            if one is not None and two is not None and not one.overlaps(two):
                return True
        pairs = zip(self[2:5], other[2:5], strict=True)
        return any(one is not None and two is not None and one != two for one, two in pairs)


_FIELDS = re.compile(r"(?<!! )(?<!\S)(-s|-d|-p|--dport|-i) ([^\s+]+)(?=\s|$)")
_COUNTERS = re.compile(r"^\[\d+:\d+\] ")


@lru_cache(maxsize=100_000)
def match_of(rule: str) -> Match:
    """Read what a rule without its verb asks of a packet. Every rule is text as iptables-save prints it."""
    bare = re.sub(r'"[^"]*"', '""', rule)
    end = re.search(r"-j (ACCEPT|DROP|REJECT)\b", bare)
    found = dict(_FIELDS.findall(bare))
    source, destination = (ip_network(found[f]) if f in found else None for f in ("-s", "-d"))
    return Match(
        source, destination, found.get("-p"), found.get("--dport"), found.get("-i"), end[1] if end else ""
    )


def normal(rules: list[str]) -> list[str]:
    """Return the smallest list of the same meaning."""
    if len(rules) < 2:
        return rules
    matches = [match_of(rule) for rule in rules]
    if len(set(matches)) == 1 and not matches[0].end:
        return rules  # an endpoint's share each: nothing may move
    left = list(range(len(rules)))
    blockers = [
        {j for j in range(i) if rules[i] != rules[j] and not matches[i].commutes(matches[j])} for i in left
    ]
    found: list[str] = []
    while left:
        free = min((i for i in left if not blockers[i]), key=lambda i: (rules[i], i))
        found.append(rules[free])
        left.remove(free)
        for each in left:
            blockers[each].discard(free)
    return found


def normal_table(chains: Chains) -> Chains:
    """Return a table whose equality is equality of meaning; a built-in chain without rules may be there or not."""
    present = {chain: rules for chain, rules in chains.items() if rules or not chain.isalpha()}
    return {chain: normal(rules) for chain, rules in sorted(present.items())}


def parse(saved: str) -> Chains:
    """Read iptables-save's text of one table; counters and policies are left out."""
    chains: Chains = {}
    for line in saved.splitlines():
        if line.startswith(":"):
            chains[line[1:].partition(" ")[0]] = []
        elif line.startswith(("-A ", "[")):
            chain, _, rule = _COUNTERS.sub("", line)[3:].partition(" ")
            chains[chain].append(rule)
    return chains
