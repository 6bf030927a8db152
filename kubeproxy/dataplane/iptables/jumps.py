"""Rules in built-in chains that lead into ours, and iptables-save of a table, where they are looked for. Pure.

They are recognised by where they start and where they lead, since iptables-save words rules its own way.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from kubeproxy.dataplane.iptables import names
from kubeproxy.model.objects import Record

CANARY_RULE = f"-A {names.CANARY} -j RETURN"
"""Does nothing, and is gone after `iptables -F`, which leaves the chains."""


_COMMENT = re.compile(r'(-m comment --comment ("[^"]*"|\S+) )?')


class Jump(Record, frozen=True):
    """A rule in a built-in chain that leads into ours."""

    table: str
    chain: str
    target: str
    match: str
    comment: str

    @property
    def rule(self) -> str:
        """Return the rule's text without the verb."""
        return f'{self.chain} {self.match}-m comment --comment "{self.comment}" -j {self.target}'


class Saved(Record, frozen=True, kw_only=True):
    """What matters to us in an iptables-save of one table."""

    chains: frozenset[str]
    """Every chain, anyone's."""
    rules: tuple[str, ...]
    """Rules that stand in somebody else's chains and lead into ours, without the verb."""
    sizes: Mapping[str, int]
    """How many rules each chain of ours has, if any."""

    def has(self, jump: Jump) -> bool:
        """Return whether a rule leads from the jump's chain to its target, on its conditions.

        The ipvs mode has one between the same two chains on none, which goes with that mode.
        """
        head, tail = f"{jump.chain} {jump.match}", f"-j {jump.target}"
        return any(
            rule.startswith(head) and rule.endswith(tail) and _COMMENT.fullmatch(rule[len(head) : -len(tail)])
            for rule in self.rules
        )


NOTHING = Saved(chains=frozenset(), rules=(), sizes={})


def parse_save(text: str, is_ours: Callable[[str], bool]) -> Saved:
    """Read the output of iptables-save of one table; ``is_ours`` tells a mode's own chains of it.

    Cost: one pass; of a chain that is ours only the first line is looked into.
    """
    chains, rules, sizes = set(), [], Counter[str]()
    known = "\n"  # how the rules of the chain of ours begin that was looked into last; at first no line does
    current, size = "", 0
    for line in text.splitlines():
        if line.startswith(known):
            size += 1
            continue
        if line.startswith(":"):
            chains.add(line[1:].partition(" ")[0])
        elif line.startswith("-A "):
            chain, _, rest = line[3:].partition(" ")
            if is_ours(chain):
                sizes[current] += size
                known, current, size = f"-A {chain} ", chain, 1
            elif is_ours(target(rest)):
                rules.append(line[3:])
    sizes[current] += size
    del sizes[""]
    return Saved(chains=frozenset(chains), rules=tuple(rules), sizes=sizes)


def target(rule: str) -> str:
    """Return the chain that a rule leads to, "" when it leads to none."""
    words = rule.split()
    for flag in ("-j", "-g"):
        if flag in words[:-1]:
            return words[len(words) - 1 - words[::-1].index(flag) + 1]
    return ""


def declare(chains: Iterable[str]) -> str:
    """Return the lines that make chains, or empty them."""
    return "".join([f":{chain} - [0:0]\n" for chain in chains])


def transaction(table: str, lines: str) -> str:
    """Return the restore text that brings lines into one table, "" when there are none."""
    return f"*{table}\n{lines}COMMIT\n" if lines else ""


def otherwise(jumps: Iterable[Jump], table: str, saved: Saved, rules: int, written: int | None) -> str:
    """Return what somebody has done to ours in a table, "" when nothing shows.

    ``rules``: how many of ours there are; ``written``: how many should be, None when that is not known.
    """
    for jump in jumps:
        if jump.table == table and not saved.has(jump):
            return f"no rule of chain {jump.chain} of table {table} leads to {jump.target} any more"
    return "" if written in (None, rules) else f"table {table} has {rules} rules of ours instead of {written}"


def missing_jumps(jumps: Iterable[Jump], table: str, saved: Saved) -> str:
    """Return the lines that add those of the jumps which are not there, each at the head of its chain."""
    return "".join(f"-I {jump.rule}\n" for jump in jumps if jump.table == table and not saved.has(jump))
