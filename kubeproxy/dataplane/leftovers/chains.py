"""iptables-save of one table → the restore text that takes a mode's chains and jumps out of it. Pure.

Works from what is there, not from memory: whoever wrote it may be long gone. A chain that a foreign rule leads
to is emptied and left, since deleting it would mean deleting that rule.
"""

from kubeproxy.dataplane.iptables.jumps import target, transaction
from kubeproxy.dataplane.leftovers.upstream import Owned
from kubeproxy.model.objects import Record


class Removal(Record, frozen=True, kw_only=True):
    """How to remove what is there."""

    text: str
    """For iptables-restore; empty when there is nothing to do."""
    stuck: tuple[tuple[str, str], ...]
    """Chains that must stay for now, each with a foreign rule that leads there."""


def removal(table: str, saved: str, owned: Owned) -> Removal:
    """Plan the removal of what ``owned`` describes. Cost: one pass, and little where there is nothing to find."""
    chains = [line[1:].partition(" ")[0] for line in saved.splitlines() if line.startswith(":")]
    ours = sorted(chain for chain in chains if owned.owns(table, chain))
    if not ours and not any(each.comment in saved for each in owned.jumps):
        return Removal(text="", stuck=())
    jumps, needed = _rules_leading_in(table, saved, owned)
    lines = [f"-D {rule}\n" for rule in jumps]
    # A chain that is stuck was emptied before, perhaps: doing it again would be a write every time we look.
    filled = {line.split(" ", 2)[1] for line in saved.splitlines() if line.startswith("-A ")}
    emptied = [chain for chain in ours if chain not in needed or chain in filled]
    lines += [f":{chain} - [0:0]\n" for chain in emptied]
    lines += [f"-X {chain}\n" for chain in ours if chain not in needed]
    return Removal(text=transaction(table, "".join(lines)), stuck=tuple(needed.items()))


def _rules_leading_in(table: str, saved: str, owned: Owned) -> tuple[list[str], dict[str, str]]:
    """Return the mode's own jumps, and other rules that lead to its chains, by chain."""
    jumps: list[str] = []
    foreign: dict[str, str] = {}
    for line in saved.splitlines():
        if not line.startswith("-A "):
            continue
        rule = line[3:]
        chain = rule.partition(" ")[0]
        if owned.owns(table, chain):
            continue
        leads_to = target(rule)
        if owned.is_jump(table, chain, leads_to, rule):
            jumps.append(rule)
        elif owned.owns(table, leads_to):
            foreign[leads_to] = rule
    return jumps, foreign
