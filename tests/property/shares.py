"""Which share of a chain's connections each endpoint gets, by whatever tree of chains it is chosen.

How the endpoints of a large Service are divided into runs is history, and so is the tree over them (`pages.py`);
that each endpoint has the same share is not. So two tables mean the same when they do with their trees `folded`.
"""

import re
from fractions import Fraction

from kubeproxy.dataplane.iptables import names
from tests.property.saved_tables import Chains

PRECISION = Fraction(1, 10**5)
_CHANCE = re.compile(r"-m statistic --mode random --probability (\S+) ")
_CHOOSERS = (names.SERVICE_PREFIX, names.LOCAL_PREFIX)
_ENDS = ("-j DNAT", f"-j {names.ENDPOINT_PREFIX}")


def shares(chains: Chains, chain: str) -> dict[str, Fraction]:
    """Return, by the rule that takes it to each endpoint without its chance, the share that goes there."""
    found: dict[str, Fraction] = {}
    left = Fraction(1)
    for rule in filter(_chooses, chains[chain]):
        chance = _CHANCE.search(rule)
        taken = left * Fraction(chance[1]) if chance else left
        end = _CHANCE.sub("", rule)
        below = {end: Fraction(1)} if _branch(end) is None else shares(chains, _branch(end) or "")
        assert not found.keys() & below.keys(), "an endpoint is chosen in two places"
        found |= {each: taken * share for each, share in below.items()}
        left -= taken
    assert not left, f"some of what {chain} has to give goes to nobody"
    return found


def folded(chains: Chains) -> Chains:
    """Return a table in which each Service chain leads to its endpoints, in an order of no meaning, by itself."""
    found = {chain: list(rules) for chain, rules in chains.items()}
    for root in [chain for chain in chains if chain.startswith(_CHOOSERS) and not _is_part(chain)]:
        others = [rule for rule in chains[root] if not _chooses(rule)]
        if len(others) == len(chains[root]):
            continue
        given = shares(chains, root)
        assert all(abs(share * len(given) - 1) < PRECISION for share in given.values()), given
        found[root] = [*others, *sorted(given)]
        for each in below(chains, root):
            del found[each]
    return found


def below(chains: Chains, chain: str) -> list[str]:
    """Return the chains of the tree under one."""
    parts = [part for rule in chains[chain] if (part := _branch(rule)) is not None]
    return [each for part in parts for each in (part, *below(chains, part))]


def _chooses(rule: str) -> bool:
    bare = _CHANCE.sub("", rule)
    return bare != rule or _branch(rule) is not None or bare.startswith(_ENDS) or "-j DNAT" in bare


def _branch(rule: str) -> str | None:
    """Return the chain of a tree that a rule leads to, None when it leads elsewhere."""
    target = rule.rpartition("-j ")[2]
    return target if target.startswith(_CHOOSERS) and _is_part(target) else None


def _is_part(chain: str) -> bool:
    return len(chain) == names.MAX_CHAIN_NAME
